"""The library's time source: two clocks and one way to wait.

Intervals use :meth:`Clock.monotonic`, which stands still while a laptop or a virtual machine is suspended. So
anything with a strict expiry ends at a :class:`Moment`, on both clocks. Everything that waits takes a clock,
so that tests can pass their own. Nothing here knows what is being timed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec


class Clock(Protocol):
    """The clock that the library needs."""

    def monotonic(self) -> float:
        """Return seconds that never go back. Only comparable with each other."""
        ...

    def wall(self) -> float:
        """Return seconds since the Unix epoch, UTC."""
        ...

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Wait for that many seconds."""
        ...


class Moment(msgspec.Struct, frozen=True, gc=False):
    """A point in time on both clocks. It has passed as soon as it has on one of them.

    Either clock may be wrong: the wall clock jumps, the monotonic one stands still while a machine sleeps.

    Attributes:
        wall: seconds since the Unix epoch.
        monotonic: seconds on the monotonic clock.
    """

    wall: float
    monotonic: float

    @classmethod
    def now(cls, clock: Clock) -> "Moment":
        """Return the current moment."""
        return cls(clock.wall(), clock.monotonic())

    @classmethod
    def after(cls, seconds: float, clock: Clock) -> "Moment":
        """Return the moment that many seconds from now."""
        return cls(clock.wall() + seconds, clock.monotonic() + seconds)

    def remaining_seconds(self, clock: Clock) -> float:
        """Return how long it is until then; negative once it has passed."""
        return min(self.wall - clock.wall(), self.monotonic - clock.monotonic())

    def passed(self, clock: Clock) -> bool:
        """Return whether it has passed."""
        return self.remaining_seconds(clock) <= 0


LONG_AGO = Moment(float("-inf"), float("-inf"))


class SystemClock:
    """The running event loop's clock, so that a loop with virtual time works as well."""

    __slots__ = ()

    wall: "staticmethod[[], float]" = staticmethod(time.time)

    def monotonic(self) -> float:
        """See :meth:`Clock.monotonic`. If no loop runs, use the clock that loops use."""
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """See :meth:`Clock.sleep`."""
        await asyncio.sleep(seconds)


class LoopClock:
    """A client's own clock: a faster wrapper of another one, for paths where 0.1 µs counts.

    Args:
        clock: the wrapped clock.
    """

    __slots__ = ("_clock", "monotonic", "sleep", "wall")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic: Callable[[], float] = clock.monotonic
        self.wall: Callable[[], float] = clock.wall
        self.sleep: Callable[[float], Awaitable[None]] = clock.sleep

    def bind(self) -> None:
        """Read the running loop directly from now on, unless the clock is a custom one."""
        if type(self._clock) is SystemClock:
            self.monotonic = asyncio.get_running_loop().time
