"""Time, as the library sees it: two clocks and one way to wait.

Ages, pauses and deadlines use :meth:`Clock.monotonic`; only a secret's own ``expires`` is compared
with :meth:`Clock.wall`. Everything that waits takes a clock, so that a test can hand in its own.
Nothing here knows what is being timed.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the library needs of time."""

    def monotonic(self) -> float:
        """Seconds that never go back; comparable with each other only."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for that many seconds."""
        ...


class SystemClock:
    """The running event loop's clock, so that a loop on virtual time takes the library along."""

    __slots__ = ()

    wall = staticmethod(time.time)

    def monotonic(self) -> float:
        """See :meth:`Clock.monotonic`."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """See :meth:`Clock.sleep`."""
        await asyncio.sleep(seconds)


def monotonic_of(clock: Clock) -> Callable[[], float]:
    """The clock's monotonic time on the running loop, by the shortest way; for paths where 0.1 µs counts."""
    return asyncio.get_running_loop().time if type(clock) is SystemClock else clock.monotonic
