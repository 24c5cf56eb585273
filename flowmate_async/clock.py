"""Time, as the library sees it: two clocks and one way to wait.

Ages, pauses and deadlines use :meth:`Clock.monotonic`; only a secret's own ``expires`` is compared
with :meth:`Clock.wall`. Everything that waits takes a clock, so that a test can hand in its own.
Nothing here knows what is being timed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol


class Clock(Protocol):
    """What the library needs of time."""

    def monotonic(self) -> float:
        """Seconds that never go back; comparable with each other only."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Wait for that many seconds."""
        ...


class SystemClock:
    """The running event loop's clock, so that a loop on virtual time takes the library along."""

    __slots__ = ()

    wall: "staticmethod[[], float]" = staticmethod(time.time)

    def monotonic(self) -> float:
        """See :meth:`Clock.monotonic`; where no loop runs, by the clock that loops go by."""
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See :meth:`Clock.sleep`."""
        await asyncio.sleep(seconds)


class LoopClock:
    """A client's own clock: another one by the shortest way, for paths where 0.1 µs counts.

    Args:
        clock: the clock it shows.
    """

    __slots__ = ("_clock", "monotonic", "sleep", "wall")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic: Callable[[], float] = clock.monotonic
        self.wall: Callable[[], float] = clock.wall
        self.sleep: Callable[[float], Awaitable[None]] = clock.sleep

    def bind(self) -> None:
        """Ask the running loop directly from now on, unless the clock is somebody's own."""
        if type(self._clock) is SystemClock:
            self.monotonic = asyncio.get_running_loop().time
