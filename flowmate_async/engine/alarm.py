"""Timers of waiting calls, on the client's own clock: one task for all of them."""

import asyncio
import heapq
import itertools
from collections.abc import Callable

from flowmate_async.clock import Clock
from flowmate_async.engine.call import Call
from flowmate_async.engine.states import TIMED


class Alarm:
    """A heap of calls, ordered by the time at which they resume.

    Args:
        clock: the client's clock.
        ring: called with each call that is due.
    """

    __slots__ = ("_clock", "_due", "_numbers", "_ring", "_sleeps_until", "_task")

    def __init__(self, clock: Clock, ring: Callable[[Call], object]) -> None:
        self._clock = clock
        self._ring = ring
        self._due: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self._sleeps_until = 0.0

    def set(self, call: Call, until: float) -> None:
        """Resume a call at this time of the client's monotonic clock."""
        heapq.heappush(self._due, (until, next(self._numbers), call))
        if self._task is not None and until < self._sleeps_until:
            self._task.cancel()
            self._task = None
        if self._task is None:
            self._sleeps_until = until
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        """Forget every call."""
        self._due.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        me = asyncio.current_task()
        while self._due and self._task is me:
            until, _, call = self._due[0]
            if call.state != TIMED:
                heapq.heappop(self._due)
                continue
            self._sleeps_until = until
            if (seconds := until - self._clock.monotonic()) > 0:
                await self._clock.sleep(seconds)
                continue
            heapq.heappop(self._due)
            self._ring(call)
        if self._task is me:
            self._task = None
