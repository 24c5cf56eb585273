"""A fair queue for the slots of each OAuth client: first in, first out within each client and priority."""

from asyncio import CancelledError
from collections.abc import Callable

from flowmate_async.traffic.gate import WaitQueue
from flowmate_async.traffic.priority import Priority, current_priority
from flowmate_async.traffic.slot_ledger import Client, SlotLedger


class RefreshSlots:
    """Slots for refreshes; see :class:`SlotLedger` for who may have one.

    Hand-over is direct: a newcomer never overtakes a waiter of the same client.

    Args:
        limit: maximum number of refreshes of one client at the same time.
        limit_of: a lower limit of one client, as while its provider is unwell.
    """

    def __init__(self, limit: int, *, limit_of: Callable[[Client], int] | None = None) -> None:
        self._ledger = SlotLedger(limit)
        self._limit_of: Callable[[Client], int] = limit_of or (lambda _client: limit)
        self._queues: dict[Client, WaitQueue] = {}
        self._unknown_first = True

    @property
    def inside(self) -> int:
        """How many refreshes are under way."""
        return self._ledger.inside

    @property
    def waiting(self) -> int:
        """How many refreshes wait."""
        return sum(queue.waiting for queue in self._queues.values())

    @property
    def crowded(self) -> bool:
        """Return whether one more refresh of an unknown client would wait or could exceed a limit."""
        return None in self._queues or self._ledger.crowded

    def has_room(self, client: Client) -> bool:
        """Return whether :meth:`enter` would not have to wait."""
        return client not in self._queues and self._fits(client)

    def enter_at_once(self, client: Client) -> bool:
        """Take a slot if one is free and no one of the same client waits; then :meth:`leave` must follow."""
        if not self.has_room(client):
            return False
        self._ledger.enter(client)
        return True

    async def enter(self, client: Client, priority: Priority | None = None) -> None:
        """Wait for a slot; then :meth:`leave` must follow.

        Args:
            client: whose refresh it is.
            priority: by default the current one.
        """
        if self.enter_at_once(client):
            return
        queue = self._queues.setdefault(client, WaitQueue())
        waiter = queue.join(current_priority() if priority is None else priority)
        try:
            await waiter
        except CancelledError:
            if waiter.done() and not waiter.cancelled():  # the slot came together with the cancellation
                self._ledger.leave(client)
            self._admit()  # others may have been held back for this one
            raise

    def leave(self, client: Client) -> None:
        """Give a slot back."""
        self._ledger.leave(client)
        if self._queues:
            self._admit()

    def _admit(self) -> None:
        """Let waiters in until none of them fits."""
        self._unknown_first = not self._unknown_first  # with a single slot they take turns
        for client in sorted(self._queues, key=lambda key: (key is None) != self._unknown_first):
            queue = self._queues[client]
            while queue.occupied and self._fits(client):
                self._ledger.enter(client)
                queue.admit()
            if not queue.occupied:
                del self._queues[client]

    def _fits(self, client: Client) -> bool:
        known_wait = len(self._queues) > (None in self._queues)
        return self._ledger.fits(client, limit=self._limit_of(client), known_wait=known_wait)
