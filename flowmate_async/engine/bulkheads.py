"""Bulkheads: a cap on the concurrent and on the failing refreshes of each OAuth client (``authClientId``).

Behind FlowMate stands the provider that refreshes, with limits of its own, which the number of FlowMate
requests does not show (docs/contract/OBSERVED.md § Concurrent GETs of one secret): 40,000 secrets of one
OAuth client that are due at once would be a storm for it. Refreshes of one client share a few slots; and
when they fail one after the other, for many secrets, the next are not sent for a while.

A secret whose client is unknown counts for every client, see :class:`~.slot_ledger.SlotLedger`.
"""

import random
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.engine.breaker import Breaker, BreakerPolicy, BreakerState
from flowmate_async.engine.refresh_slots import RefreshSlots
from flowmate_async.engine.slot_ledger import Client

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
        uniform: the source of jitter.

    Attributes:
        slots: who may refresh now.
    """

    def __init__(
        self,
        policy: BulkheadPolicy,
        *,
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self.slots: RefreshSlots = RefreshSlots(policy.refreshes, limit_of=self._limit_of)
        self._breakers: OrderedDict[Client, Breaker] = OrderedDict()
        self._unwell: set[Client] = set()

    def closed_for(self, client: Client) -> float | None:
        """Return for how many seconds refreshes of this client are not sent; ``None`` if one may be."""
        breaker = self._breakers.get(client)
        return None if breaker is None else breaker.closed_for()

    def note_failure(self, client: Client, *, secret_id: str | None) -> None:
        """Count a failed refresh whose client was unknown when it began, and may be known by now."""
        breaker = self.breaker_of(client)
        breaker.note(subject=secret_id, failed=True, epoch=breaker.epoch)

    @property
    def suspicious(self) -> bool:
        """Return whether so many secrets of unknown clients failed that it is worth asking whose they are."""
        return self.breaker_of(None).failing_subjects() >= _SUSPICIOUS_SUBJECTS

    @property
    def crowded(self) -> bool:
        """Return whether a fetch of a secret whose client is unknown may have to wait, or should not be sent.

        That is when a client may have no slot left, or its provider is unwell: it may be that client's.
        """
        return bool(self._unwell) or self.slots.crowded

    def statistics(self) -> BulkheadStatistics:
        """Refreshes by OAuth client as they stand."""
        breakers = self._breakers.values()
        return BulkheadStatistics(
            clients=len(self._breakers.keys() - {None}),
            refreshing=self.slots.inside,
            waiting=self.slots.waiting,
            open=sum(breaker.state is BreakerState.OPEN for breaker in breakers),
            refused=sum(breaker.statistics().refused for breaker in breakers),
        )

    def _limit_of(self, client: Client) -> int:
        """While a provider is unwell it gets one refresh at a time: the others wait for its outcome."""
        return 1 if client in self._unwell else self._policy.refreshes

    def breaker_of(self, client: Client) -> Breaker:
        """Return the breaker of this client's provider, made on first use."""
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
