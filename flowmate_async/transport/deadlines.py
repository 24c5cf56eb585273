"""One timer for all deadlines: two comparisons per exchange, where a timer of its own takes microseconds."""

import asyncio
import math
import time
from collections.abc import Callable

_GRAIN_SECONDS = 0.01
"""Deadlines closer together than this are swept together, so that a sweep is never a busy loop."""


class Sweeper:
    """A timer that is armed for the earliest deadline, and sweeps when that has come.

    Args:
        sweep: called with the time; deals with what is overdue, and returns the earliest deadline left.

    Attributes:
        armed_for: when the next sweep is, in seconds of ``time.monotonic``.
    """

    __slots__ = ("_loop", "_sweep", "_timer", "armed_for")

    def __init__(self, sweep: Callable[[float], float], loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = sweep
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.armed_for: float = math.inf

    def arm(self, due: float) -> None:
        """Keep this deadline. A caller in a hurry compares it with :attr:`armed_for` first."""
        if due < self.armed_for:
            self.stop()
            self.armed_for = due
            self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._fire)

    def stop(self) -> None:
        """Forget all deadlines."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.armed_for = math.inf

    def _fire(self) -> None:
        self.stop()
        now = time.monotonic()
        earliest = self._sweep(now)
        if earliest < math.inf:
            self.arm(max(earliest, now + _GRAIN_SECONDS))
