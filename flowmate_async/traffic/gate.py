"""A fair gate with a number of places and two queues: interactive before background, nobody starved."""

import asyncio
from collections import deque
from collections.abc import Callable

from flowmate_async.traffic.priority import Priority

BACKGROUND_SHARE = 5
"""Every so many turns that are waited for, one goes to the background, whoever else waits."""


class PriorityGate:
    """A semaphore whose number of places may change, first in first out within each priority.

    Hand-over is direct: a newcomer never overtakes somebody who waits.

    Args:
        places: how many may be inside at once; one is mutual exclusion.

    Attributes:
        places: how many may be inside at once; see :meth:`resize`.
        inside: how many are inside.
    """

    __slots__ = ("_queues", "_turns", "inside", "places")

    def __init__(self, places: int = 1) -> None:
        self.places: int = places
        self.inside: int = 0
        self._turns = 0
        self._queues: tuple[deque[asyncio.Future[float | None]], ...] = (deque(), deque())

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for queue in self._queues for waiter in queue)

    @property
    def waiting_any(self) -> bool:
        """Whether anybody may be waiting; cheap, and true at times when the last one has just given up."""
        return bool(self._queues[0] or self._queues[1])

    @property
    def full(self) -> bool:
        """Whether a newcomer would have to wait."""
        return self.inside >= self.places

    def enter_at_once(self) -> bool:
        """Enter without waiting, if there is a place; then :meth:`leave` must follow."""
        if self.inside >= self.places:
            return False
        self.inside += 1
        return True

    async def enter(self, priority: Priority, *, on_lost: Callable[[], object] | None = None) -> float | None:
        """Wait for the turn.

        Args:
            priority: in which queue.
            on_lost: called when :meth:`wave_through` and a cancellation came together.

        Returns:
            ``None``: inside, and :meth:`leave` must follow. Otherwise the moment that :meth:`wave_through`
            was called with; then there is nothing to leave.
        """
        if self.enter_at_once():
            return None
        waiter: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._queues[priority].append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # the turn came together with the cancellation
                if waiter.result() is None:
                    self.leave()
                elif on_lost is not None:
                    on_lost()
            raise

    def wave_through(self, at: float) -> bool:
        """Let who is next pass by without entering; whether somebody waited.

        Args:
            at: this moment, for :meth:`enter` to return.
        """
        waiter = self._next()
        if waiter is not None:
            waiter.set_result(at)
        return waiter is not None

    def leave(self) -> None:
        """Give the place to who is next."""
        self.inside -= 1
        if self._queues[0] or self._queues[1]:
            self._hand_over()

    def resize(self, places: int) -> None:
        """Have that many places from now on; nobody who is inside is sent away.

        Args:
            places: at least 1.
        """
        self.places = places
        self._hand_over()

    def _hand_over(self) -> None:
        while self.inside < self.places and (waiter := self._next()) is not None:
            self.inside += 1
            waiter.set_result(None)

    def _next(self) -> asyncio.Future[float | None] | None:
        interactive, background = self._queues
        for queue in self._queues:
            while queue and queue[0].done():  # cancelled
                queue.popleft()
        if not interactive and not background:
            return None
        self._turns += 1
        behind = background and (not interactive or self._turns % BACKGROUND_SHARE == 0)
        return background.popleft() if behind else interactive.popleft()
