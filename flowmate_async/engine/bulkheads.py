"""Bulkheads: limits on the concurrent and on the failing refreshes of each OAuth client (``authClientId``).

FlowMate refreshes credentials with a provider that has its own limits, which the number of FlowMate requests
does not show (docs/contract/OBSERVED.md § Concurrent GETs of one secret). 40,000 secrets of one OAuth client
that are due at once would overload it. So the refreshes of one client share a few slots. When refreshes of
many secrets fail one after the other, no more are sent for a while.

A secret whose client is unknown counts for every client; see :class:`~.slot_ledger.SlotLedger`.
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
    """Limits on the refreshes of one OAuth client.

    Attributes:
        refreshes: maximum number of refreshes of one OAuth client at the same time. Fetches of secrets whose
            client is unknown count for every client.
        breaker: when its refreshes are paused because they fail; each secret is a subject. By default after
            20 failures within a minute, for at least ten secrets, if they are at least 90 % of its refreshes.
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
    """Statistics of refreshes by OAuth client.

    Attributes:
        clients: known OAuth clients.
        refreshing: refreshes in flight, including GETs of unknown clients, whether they refresh or not.
        waiting: refreshes waiting for a slot.
        open: OAuth clients whose refreshes are paused.
        refused: refreshes not sent because of that.
    """

    clients: int
    refreshing: int
    waiting: int
    open: int
    refused: int


class Bulkheads:
    """The slots and the breaker of each OAuth client. The least recently used breakers are evicted first.

    Args:
        policy: see :class:`BulkheadPolicy`.
        clock: the breakers' clock.
        uniform: the source of jitter.

    Attributes:
        slots: the slots for refreshes.
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
        """Count a failed refresh whose client was unknown at its start and may be known by now."""
        breaker = self.breaker_of(client)
        breaker.note(subject=secret_id, failed=True, epoch=breaker.epoch)

    @property
    def suspicious(self) -> bool:
        """Whether enough secrets of unknown clients failed to make it worth finding out their clients."""
        return self.breaker_of(None).failing_subjects() >= _SUSPICIOUS_SUBJECTS

    @property
    def crowded(self) -> bool:
        """Whether a fetch of a secret whose client is unknown may have to wait, or should not be sent.

        That is the case when any client has no slot left or its provider is failing: the secret may belong to
        that client.
        """
        return bool(self._unwell) or self.slots.crowded

    def statistics(self) -> BulkheadStatistics:
        """Return statistics of refreshes by OAuth client."""
        breakers = self._breakers.values()
        return BulkheadStatistics(
            clients=len(self._breakers.keys() - {None}),
            refreshing=self.slots.inside,
            waiting=self.slots.waiting,
            open=sum(breaker.state is BreakerState.OPEN for breaker in breakers),
            refused=sum(breaker.statistics().refused for breaker in breakers),
        )

    def _limit_of(self, client: Client) -> int:
        """Return a client's limit: 1 while its provider is failing; the others wait for its outcome."""
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
