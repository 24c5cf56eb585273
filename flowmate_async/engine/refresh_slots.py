"""A fair queue for the refresh slots of each OAuth client: FIFO within each client and priority."""

import asyncio
from collections.abc import Callable

from flowmate_async.engine.contender import Contender, Ticket
from flowmate_async.engine.ready_queue import ReadyQueue
from flowmate_async.engine.slot_ledger import Client, SlotLedger
from flowmate_async.engine.states import PARKED


class RefreshSlots:
    """Slots for refreshes. :class:`SlotLedger` has the rules for who may take one.

    A released slot goes directly to the next waiter: a newcomer never overtakes a waiter of the same client.

    Args:
        limit: maximum number of refreshes of one client at the same time.
        limit_of: returns a lower limit for one client, for example while its provider is failing.
    """

    def __init__(self, limit: int, *, limit_of: Callable[[Client], int] | None = None) -> None:
        self._ledger = SlotLedger(limit)
        self._limit_of: Callable[[Client], int] = limit_of or (lambda _client: limit)
        self._queues: dict[Client, ReadyQueue[Contender]] = {}
        self._unknown_first = True

    @property
    def inside(self) -> int:
        """How many refreshes are in flight."""
        return self._ledger.inside

    @property
    def waiting(self) -> int:
        """How many refreshes wait."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def crowded(self) -> bool:
        """Whether one more refresh of an unknown client would wait or could exceed a limit."""
        return None in self._queues or self._ledger.crowded

    def has_room(self, client: Client) -> bool:
        """Return whether a newcomer may :meth:`enter` now."""
        return client not in self._queues and self._fits(client)

    def enter(self, client: Client) -> None:
        """Take a slot; :meth:`leave` must follow."""
        self._ledger.enter(client)

    def park(self, client: Client, contender: Contender) -> None:
        """Queue for a slot."""
        contender.state = PARKED
        self._queues.setdefault(client, ReadyQueue(PARKED)).push(contender)

    def leave(self, client: Client) -> list[tuple[Client, Contender]]:
        """Release a slot. Return the contenders admitted instead, with their clients."""
        self._ledger.leave(client)
        return self.admit()

    def admit(self) -> list[tuple[Client, Contender]]:
        """Admit waiters until none fits, and return them. Call this also when a waiter has given up."""
        admitted: list[tuple[Client, Contender]] = []
        if not self._queues:
            return admitted
        self._unknown_first = not self._unknown_first  # with one slot, known and unknown alternate
        for client in sorted(self._queues, key=lambda key: (key is None) != self._unknown_first):
            queue = self._queues[client]
            while queue and self._fits(client) and (contender := queue.pop()) is not None:
                self._ledger.enter(client)
                admitted.append((client, contender))
            if not queue:
                del self._queues[client]
        return admitted

    async def wait(self, client: Client, ticket: Ticket) -> None:
        """Wait for a slot on behalf of a coroutine; :meth:`leave` must follow."""
        if self.has_room(client):
            self.enter(client)
            return
        self.park(client, ticket)
        try:
            await ticket.wait()
        except asyncio.CancelledError:
            for _, contender in self.leave(client) if ticket.has_come else self.admit():
                contender.go_on()
            raise

    def _fits(self, client: Client) -> bool:
        known_wait = len(self._queues) > (None in self._queues)
        return self._ledger.fits(client, limit=self._limit_of(client), known_wait=known_wait)
