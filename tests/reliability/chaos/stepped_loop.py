"""A real event loop whose time stands still within one step.

The limiter reads the loop's time when it lets a request pass, and the tap reads it when the request reaches
the transport, in the same step. Here both read the same number, whatever else keeps the machine busy between
the two, so that the rate is judged exactly and needs no allowance for jitter. The wall clock stands still
with it: a ``Retry-After`` that is a date is as many seconds away for the client as for the tap.
"""

import asyncio
import time
from typing import Any


class SteppedLoop(asyncio.SelectorEventLoop):
    """A selector loop that reads the clock once a step: when the wait for events has ended."""

    def __init__(self) -> None:
        self._begin_step()
        super().__init__()

    def time(self) -> float:
        return self._step_began

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        return self._step_began_wall

    def _begin_step(self) -> None:
        self._step_began, self._step_began_wall = time.monotonic(), time.time()

    def _process_events(self, event_list: Any) -> None:
        self._begin_step()
        super()._process_events(event_list)  # type: ignore[misc]


def wall() -> float:
    """The wall clock of the running step."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    return loop.wall()
