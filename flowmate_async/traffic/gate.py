"""A fair gate with a number of places and two queues: interactive before background, nobody starved."""

import asyncio
from collections import deque
from collections.abc import Callable

from flowmate_async.traffic.priority import Priority

BACKGROUND_SHARE = 5
"""Every so many turns that are waited for, one goes to the background, whoever else waits."""


class WaitQueue:
    """Waiters by priority, first in, first out within each; a waiter leaves by cancelling its future."""

    __slots__ = ("_queues", "_turns")

    def __init__(self) -> None:
        self._turns = 0
        self._queues: tuple[deque[asyncio.Future[float | None]], ...] = (deque(), deque())

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for queue in self._queues for waiter in queue)

    @property
    def perhaps_occupied(self) -> bool:
        """Return whether anyone may be waiting; cheap, and sometimes true just after the last one gave up."""
        return bool(self._queues[0] or self._queues[1])

    @property
    def occupied(self) -> bool:
        """Return whether anyone waits."""
        for queue in self._queues:
            while queue and queue[0].done():  # cancelled
                queue.popleft()
        return bool(self._queues[0] or self._queues[1])

    @property
    def urgent(self) -> bool:
        """Return whether an interactive waiter is in the queue."""
        return any(not waiter.done() for waiter in self._queues[Priority.INTERACTIVE])

    def join(self, priority: Priority) -> "asyncio.Future[float | None]":
        """Return a future to wait for, at the end of the queue."""
        waiter: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._queues[priority].append(waiter)
        return waiter

    def admit(self, result: float | None = None) -> bool:
        """Wake the next waiter with this result. Return whether there was one."""
        if not self.occupied:
            return False
        interactive, background = self._queues
        self._turns += 1
        behind = background and (not interactive or self._turns % BACKGROUND_SHARE == 0)
        (background if behind else interactive).popleft().set_result(result)
        return True


class PriorityGate:
    """A semaphore whose number of places may change, first in first out within each priority.

    Hand-over is direct: a newcomer never overtakes somebody who waits.

    Args:
        places: how many may be inside at once; one is mutual exclusion.

    Attributes:
        places: how many may be inside at once; see :meth:`resize`.
        inside: how many are inside.
    """

    __slots__ = ("_queue", "inside", "places")

    def __init__(self, places: int = 1) -> None:
        self.places: int = places
        self.inside: int = 0
        self._queue = WaitQueue()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._queue.waiting

    @property
    def waiting_any(self) -> bool:
        """Return whether anyone may be waiting; cheap, and sometimes true just after the last one gave up."""
        return self._queue.perhaps_occupied

    @property
    def urgent(self) -> bool:
        """Return whether an interactive waiter is in the queue."""
        return self._queue.urgent

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
        waiter = self._queue.join(priority)
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
        """Admit the next waiter without taking a place. Return whether there was one.

        Args:
            at: this moment, for :meth:`enter` to return.
        """
        return self._queue.admit(at)

    def leave(self) -> None:
        """Give the place to the next waiter."""
        self.inside -= 1
        if self._queue.perhaps_occupied:
            self._hand_over()

    def resize(self, places: int) -> None:
        """Change the number of places; those inside stay inside.

        Args:
            places: at least 1.
        """
        self.places = places
        self._hand_over()

    def _hand_over(self) -> None:
        while self.inside < self.places and self._queue.admit():
            self.inside += 1
