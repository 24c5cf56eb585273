"""Bulkheads: a cap on the concurrent and on the failing refreshes of each OAuth client (``authClientId``).

Behind FlowMate stands the provider that refreshes, with limits of its own, which the number of FlowMate
requests does not show (docs/contract/OBSERVED.md § Concurrent GETs of one secret): 40,000 secrets of one
OAuth client that are due at once would be a storm for it. Refreshes of one client share a few slots; and
when they fail one after the other, for many secrets, the next are not sent for a while.

A secret whose client is unknown counts for every client, see :class:`~.slot_ledger.SlotLedger`.
"""

import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.traffic.breaker import Breaker, BreakerPolicy, BreakerState
from flowmate_async.traffic.coordination import RefreshLender
from flowmate_async.traffic.refresh_slots import RefreshSlots
from flowmate_async.traffic.slot_ledger import Client

_MOST_KNOWN = 10_000
_SUSPICIOUS_SUBJECTS = 3


class BulkheadPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How many refreshes one OAuth client's provider is given.

    Attributes:
        refreshes: maximum number of refreshes of one OAuth client at the same time. Fetches of secrets whose
            client is unknown count for every client.
        breaker: when its refreshes are given a rest because they fail; each secret is a subject. By default
            after 20 failures within a minute, for at least ten secrets, if they are at least 90 % of its
            refreshes.
    """

    refreshes: int = 8
    breaker: BreakerPolicy = BreakerPolicy(
        window_seconds=60.0,
        failures=20,
        subjects=10,
        share=0.9,
        open_seconds=15.0,
        max_open_seconds=300.0,
        probes=1,
    )


class BulkheadStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Refreshes by OAuth client as they stand.

    Attributes:
        clients: OAuth clients that are known.
        refreshing: refreshes under way; those of unknown clients included, whether they refresh or not.
        waiting: refreshes that wait for a slot.
        open: OAuth clients whose refreshes are given a rest.
        refused: refreshes that were not sent because of it.
    """

    clients: int
    refreshing: int
    waiting: int
    open: int
    refused: int


class Bulkheads:
    """The slots and the breaker of each OAuth client; the least recently used breakers are forgotten first.

    Args:
        policy: see :class:`BulkheadPolicy`.
        clock: the time the breakers keep.
        lender: lends the slots, when other processes share them.
        uniform: the source of jitter.
    """

    def __init__(
        self,
        policy: BulkheadPolicy,
        *,
        clock: Clock,
        lender: RefreshLender | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._lender = lender
        self._uniform = uniform
        self._slots = RefreshSlots(policy.refreshes, limit_of=self._limit_of)
        self._breakers: OrderedDict[Client, Breaker] = OrderedDict()
        self._unwell: set[Client] = set()

    def enter_at_once(self, client: Client) -> Breaker | None:
        """Take a slot if nothing has to be waited for; :meth:`leave` must follow.

        Returns:
            The breaker that must be told of the refresh's end; ``None`` when :meth:`place` must be used.
        """
        breaker = self._breaker_of(client)
        if self._lender is not None or not breaker.closed or not self._slots.enter_at_once(client):
            return None
        return breaker

    def leave(self, client: Client) -> None:
        """Give the slot back; tell the breaker of the refresh's end before."""
        self._slots.leave(client)

    @asynccontextmanager
    async def place(self, client: Client, secret_id: str) -> AsyncIterator[Breaker]:
        """Wait for a slot. Yield the breaker that must allow the refresh and be told of its end."""
        await self._slots.enter(client)
        try:
            if self._lender is None:
                yield self._breaker_of(client)
            else:
                async with self._lender.slot(client, secret_id):
                    yield self._breaker_of(client)
        finally:
            self._slots.leave(client)

    def note_failure(self, client: Client, *, secret_id: str | None) -> None:
        """Count a failed refresh whose client was unknown when it began, and may be known by now."""
        breaker = self._breaker_of(client)
        breaker.note(subject=secret_id, failed=True, epoch=breaker.epoch)

    @property
    def suspicious(self) -> bool:
        """Return whether so many secrets of unknown clients failed that it is worth asking whose they are."""
        return self._breaker_of(None).failing_subjects() >= _SUSPICIOUS_SUBJECTS

    @property
    def crowded(self) -> bool:
        """Return whether a fetch of a secret whose client is unknown may have to wait, or should not be sent.

        That is when a client may have no slot left, or its provider is unwell: it may be that client's.
        """
        return bool(self._unwell) or self._slots.crowded

    def statistics(self) -> BulkheadStatistics:
        """Refreshes by OAuth client as they stand."""
        breakers = self._breakers.values()
        return BulkheadStatistics(
            clients=len(self._breakers.keys() - {None}),
            refreshing=self._slots.inside,
            waiting=self._slots.waiting,
            open=sum(breaker.state is BreakerState.OPEN for breaker in breakers),
            refused=sum(breaker.statistics().refused for breaker in breakers),
        )

    def _limit_of(self, client: Client) -> int:
        """While a provider is unwell it gets one refresh at a time: the others wait for its outcome."""
        return 1 if client in self._unwell else self._policy.refreshes

    def _breaker_of(self, client: Client) -> Breaker:
        breaker = self._breakers.get(client)
        if breaker is None:
            self._forget_closed()
            breaker = Breaker(
                self._policy.breaker,
                clock=self._clock,
                on_open=lambda _: self._unwell.add(client),
                on_close=lambda: self._unwell.discard(client),
                uniform=self._uniform,
            )
            self._breakers[client] = breaker
        self._breakers.move_to_end(client)
        return breaker

    def _forget_closed(self) -> None:
        """Keep the table bounded."""
        if len(self._breakers) >= _MOST_KNOWN:
            closed = next((key for key, breaker in self._breakers.items() if breaker.closed), None)
            if closed is not None:
                del self._breakers[closed]
