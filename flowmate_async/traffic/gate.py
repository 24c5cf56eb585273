"""A fair gate for one at a time, with two queues: interactive before background, nobody starved."""

import asyncio
from collections import deque

from flowmate_async.traffic.priority import Priority

BACKGROUND_SHARE = 5
"""Every so many turns that are waited for, one goes to the background, whoever else waits."""


class PriorityGate:
    """Mutual exclusion, first in first out within each priority.

    Hand-over is direct: a newcomer never overtakes somebody who waits.
    """

    __slots__ = ("_held", "_queues", "_turns")

    def __init__(self) -> None:
        self._held = False
        self._turns = 0
        self._queues: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque())

    @property
    def locked(self) -> bool:
        """Whether somebody is inside."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for queue in self._queues for waiter in queue)

    async def enter(self, priority: Priority) -> None:
        """Wait for the turn; must be followed by :meth:`leave`."""
        if not self._held:
            self._held = True
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[priority].append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.leave()  # the turn came together with the cancellation
            raise

    def leave(self) -> None:
        """Give the turn to who is next."""
        waiter = self._next()
        if waiter is None:
            self._held = False
        else:
            waiter.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        interactive, background = self._queues
        for queue in self._queues:
            while queue and queue[0].done():  # cancelled
                queue.popleft()
        if not interactive and not background:
            return None
        self._turns += 1
        behind = background and (not interactive or self._turns % BACKGROUND_SHARE == 0)
        return background.popleft() if behind else interactive.popleft()
