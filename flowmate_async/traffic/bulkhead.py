"""Bulkheads: a cap on the concurrent and on the failing refreshes of each OAuth client (``authClientId``).

Behind FlowMate stands the provider that refreshes, with limits of its own, which the number of FlowMate
requests does not show (docs/contract/OBSERVED.md § Concurrent GETs of one secret): 40,000 secrets of one
OAuth client that are due at once would be a storm for it. Refreshes of one client share a few places; and
when they fail one after the other, for many secrets, the next are not sent for a while.
"""

import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.traffic.breaker import Breaker, BreakerPolicy, BreakerState
from flowmate_async.traffic.gate import PriorityGate
from flowmate_async.traffic.priority import current_priority

_MOST_KNOWN = 10_000


class BulkheadPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How many refreshes one OAuth client's provider is given.

    Attributes:
        refreshes: most refreshes of one OAuth client at once.
        breaker: when its refreshes are given a rest because they fail; each secret is a subject. By default
            after 20 failures within a minute, for ten secrets or more, that are nine in ten of its refreshes.
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
        refreshing: refreshes under way.
        waiting: refreshes that wait for a place.
        open: OAuth clients whose refreshes are given a rest.
        refused: refreshes that were not sent because of it.
    """

    clients: int
    refreshing: int
    waiting: int
    open: int
    refused: int


class Bulkhead:
    """The places of one OAuth client's refreshes, and its breaker."""

    __slots__ = ("_places", "breaker", "gate")

    def __init__(
        self, policy: BulkheadPolicy, *, clock: Clock, uniform: Callable[[float, float], float]
    ) -> None:
        self._places = policy.refreshes
        self.gate: PriorityGate = PriorityGate(self._places)
        self.breaker: Breaker = Breaker(policy.breaker, clock=clock, on_open=lambda _: None, uniform=uniform)

    def leave(self) -> None:
        """Leave a place. While the provider is unwell there is but one: the others wait for how it fares."""
        self.gate.resize(self._places if self.breaker.state is BreakerState.CLOSED else 1)
        self.gate.leave()

    @property
    def idle(self) -> bool:
        """Whether nobody is inside and nothing is remembered that matters."""
        return self.gate.inside == 0 and self.breaker.state is BreakerState.CLOSED


class Bulkheads:
    """A bulkhead for each OAuth client, least recently used out first.

    Args:
        policy: see :class:`BulkheadPolicy`.
        clock: the time the breakers keep.
        uniform: the source of jitter.
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
        self._bulkheads: OrderedDict[str, Bulkhead] = OrderedDict()

    @asynccontextmanager
    async def place(self, auth_client_id: str) -> AsyncIterator[Breaker]:
        """A place for one refresh, waited for; and the breaker that must allow it and be told of its end."""
        bulkhead = self._of(auth_client_id)
        await bulkhead.gate.enter(current_priority())
        try:
            yield bulkhead.breaker
        finally:
            bulkhead.leave()

    def statistics(self) -> BulkheadStatistics:
        """Refreshes by OAuth client as they stand."""
        known = self._bulkheads.values()
        return BulkheadStatistics(
            clients=len(known),
            refreshing=sum(bulkhead.gate.inside for bulkhead in known),
            waiting=sum(bulkhead.gate.waiting for bulkhead in known),
            open=sum(bulkhead.breaker.state is BreakerState.OPEN for bulkhead in known),
            refused=sum(bulkhead.breaker.statistics().refused for bulkhead in known),
        )

    def _of(self, auth_client_id: str) -> Bulkhead:
        bulkhead = self._bulkheads.get(auth_client_id)
        if bulkhead is None:
            self._forget_idle()
            bulkhead = Bulkhead(self._policy, clock=self._clock, uniform=self._uniform)
            self._bulkheads[auth_client_id] = bulkhead
        self._bulkheads.move_to_end(auth_client_id)
        return bulkhead

    def _forget_idle(self) -> None:
        """Keep the table bounded by those in use."""
        if len(self._bulkheads) >= _MOST_KNOWN:
            idle = next((key for key, bulkhead in self._bulkheads.items() if bulkhead.idle), None)
            if idle is not None:
                del self._bulkheads[idle]
