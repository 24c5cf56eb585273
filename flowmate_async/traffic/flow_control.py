"""Flow control, wired: limits, gates, exchange and retries of one client. No rule lives here."""

import random
from collections.abc import Callable

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.events import BreakerClosed, BreakerOpened, Emitter
from flowmate_async.redaction import Headers
from flowmate_async.traffic.admission import Admission, AdmissionStatistics, FlowPolicy
from flowmate_async.traffic.attempt import Attempts
from flowmate_async.traffic.breaker import Breaker, BreakerPolicy, BreakerStatistics
from flowmate_async.traffic.bulkhead import BulkheadPolicy, Bulkheads, BulkheadStatistics
from flowmate_async.traffic.coordination import (
    Coordination,
    LendsConcurrency,
    LendsRefreshes,
    RateBudget,
    RefreshLender,
)
from flowmate_async.traffic.dispatch import Dispatcher
from flowmate_async.traffic.exchange import Exchange
from flowmate_async.traffic.quarantine import Quarantine
from flowmate_async.traffic.retry import RetryPolicy
from flowmate_async.traffic.retry_budget import RetryBudget, RetryBudgetStatistics
from flowmate_async.transport.base import Transport


class TrafficLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may send.

    Attributes:
        rate: requests/s that are never exceeded; ``None`` for no limit.
        burst: requests that upstream takes at once.
        concurrency: most requests in flight.
    """

    rate: float | None
    burst: int
    concurrency: int


class TrafficPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """How flow control reacts; see each policy."""

    flow: FlowPolicy = FlowPolicy()
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    bulkhead: BulkheadPolicy = BulkheadPolicy()


class TrafficStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic as it stands, and each mechanism that governs it.

    Attributes:
        in_flight: exchanges under way.
        max_in_flight: the most there have been at once.
        quarantined: secrets that are left alone, since upstream may still be refreshing them.
        limiter: rate and concurrency.
        breaker: the breaker of everything that is sent.
        bulkheads: refreshes by OAuth client.
        retry_budget: what may be sent again.
    """

    in_flight: int
    max_in_flight: int
    quarantined: int
    limiter: AdmissionStatistics
    breaker: BreakerStatistics
    bulkheads: BulkheadStatistics
    retry_budget: RetryBudgetStatistics


class FlowControl:
    """The traffic of one client.

    Args:
        transport: carries the requests.
        limits: see :class:`TrafficLimits`.
        policies: see :class:`TrafficPolicies`.
        clock: the time it keeps.
        emitter: told of everything that happens.
        admin_headers: the header with the admin token, which no error may repeat.
        known: what is known of secrets: their OAuth clients, and which GETs are plain reads.
        coordination: lends the rate and passes on pauses, when other processes share them.
        uniform: the source of jitter.

    Attributes:
        dispatcher: sends requests.
        breaker: keeps from sending to a sick upstream.
    """

    def __init__(  # noqa: PLR0913 - a collaborator each
        self,
        transport: Transport,
        *,
        limits: TrafficLimits,
        policies: TrafficPolicies,
        clock: Clock,
        emitter: Emitter,
        known: KnownSecrets,
        admin_headers: Callable[[], Headers | None] = lambda: None,
        coordination: Coordination | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        retry = policies.retry
        self.breaker: Breaker = Breaker(
            policies.breaker,
            clock=clock,
            on_open=lambda seconds: emitter.emit(BreakerOpened(seconds)),
            on_close=lambda: emitter.emit(BreakerClosed()),
            uniform=uniform,
        )
        self._bulkheads = Bulkheads(
            policies.bulkhead,
            clock=clock,
            lender=_refresh_lender(coordination, policies.bulkhead),
            uniform=uniform,
        )
        self._quarantine = Quarantine(clock=clock)
        self._admission = Admission(
            rate=limits.rate,
            burst=limits.burst,
            concurrency=limits.concurrency,
            clock=clock,
            emitter=emitter,
            policy=policies.flow,
            budget=_budget(coordination, limits),
        )
        if coordination is not None:
            coordination.on_pause(self._admission.pause)
        if isinstance(coordination, LendsConcurrency):
            coordination.on_allotment(self._admission.allot)
        self._exchange = Exchange(
            transport,
            admission=self._admission,
            quarantine=self._quarantine,
            policy=retry,
            clock=clock,
            emitter=emitter,
            admin_headers=admin_headers,
            share_pause=None if coordination is None else coordination.pause,
            uniform=uniform,
        )
        attempts = Attempts(
            self._exchange,
            admission=self._admission,
            breaker=self.breaker,
            bulkheads=self._bulkheads,
            quarantine=self._quarantine,
            known=known,
            patience_seconds=retry.deadline_seconds,
            emitter=emitter,
            clock=clock,
        )
        self._budget = RetryBudget(share=retry.budget_share, reserve=retry.budget_reserve)
        self.dispatcher: Dispatcher = Dispatcher(
            attempts, budget=self._budget, policy=retry, emitter=emitter, clock=clock, uniform=uniform
        )

    def is_saturated(self) -> bool:
        """Return whether requests wait for this client's own rate or concurrency, and not for a pause."""
        return self._admission.is_saturated

    def statistics(self) -> TrafficStatistics:
        """Traffic as it stands."""
        return TrafficStatistics(
            in_flight=self._exchange.in_flight,
            max_in_flight=self._exchange.max_in_flight,
            quarantined=len(self._quarantine),
            limiter=self._admission.statistics(),
            breaker=self.breaker.statistics(),
            bulkheads=self._bulkheads.statistics(),
            retry_budget=self._budget.statistics(),
        )


def _budget(coordination: Coordination | None, limits: TrafficLimits) -> RateBudget | None:
    if coordination is None or limits.rate is None:
        return None
    return coordination.budget(rate=limits.rate, burst=limits.burst)


def _refresh_lender(coordination: Coordination | None, policy: BulkheadPolicy) -> RefreshLender | None:
    return coordination.refreshes(policy.refreshes) if isinstance(coordination, LendsRefreshes) else None
