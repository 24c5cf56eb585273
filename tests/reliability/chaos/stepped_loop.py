"""A real event loop whose time stands still within one step.

The limiter reads the loop's time when it lets a request pass, and the tap reads it when the request reaches
the transport, in the same step. Here both read the same number, whatever else keeps the machine busy between
the two, so that the rate is judged exactly and needs no allowance for jitter.
"""

import asyncio
import time
from typing import Any


class SteppedLoop(asyncio.SelectorEventLoop):
    """A selector loop that reads the clock once a step: when the wait for events has ended."""

    def __init__(self) -> None:
        self._step_began = time.monotonic()
        super().__init__()

    def time(self) -> float:
        return self._step_began

    def _process_events(self, event_list: Any) -> None:
        self._step_began = time.monotonic()
        super()._process_events(event_list)  # type: ignore[misc]
