"""The wiring of one client's engine: limits, gates, feedback and retries. It contains no rules."""

import random
from collections.abc import Callable

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.engine.breaker import Breaker, BreakerPolicy, BreakerStatistics
from flowmate_async.engine.bulkheads import BulkheadPolicy, Bulkheads, BulkheadStatistics
from flowmate_async.engine.coordination import (
    Coordination,
    LendsConcurrency,
    LendsRefreshes,
    RateBudget,
    RefreshLender,
)
from flowmate_async.engine.decision import Gates
from flowmate_async.engine.engine import Engine
from flowmate_async.engine.feedback import Feedback
from flowmate_async.engine.pacer import AdmissionStatistics, FlowPolicy, Pacer
from flowmate_async.engine.quarantine import Quarantine
from flowmate_async.engine.recovery import Recovery
from flowmate_async.engine.refreshes import Refreshes
from flowmate_async.engine.retry import RetryPolicy
from flowmate_async.engine.retry_budget import RetryBudget, RetryBudgetStatistics
from flowmate_async.engine.secret_turns import SecretTurns
from flowmate_async.engine.side_tasks import SideTasks
from flowmate_async.events import BreakerClosed, BreakerOpened, Emitter
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Transport


class TrafficLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on what a client sends.

    Attributes:
        rate: maximum requests/s; ``None`` for no limit.
        burst: requests that upstream accepts at once.
        concurrency: maximum number of requests in flight.
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
    """Statistics of traffic, and of each mechanism that controls it.

    Attributes:
        in_flight: exchanges in flight.
        max_in_flight: the highest number so far.
        quarantined: secrets that are not fetched, since upstream may still be refreshing them.
        limiter: rate and concurrency.
        breaker: the breaker for everything that is sent.
        bulkheads: refreshes by OAuth client.
        retry_budget: the budget for retries.
    """

    in_flight: int
    max_in_flight: int
    quarantined: int
    limiter: AdmissionStatistics
    breaker: BreakerStatistics
    bulkheads: BulkheadStatistics
    retry_budget: RetryBudgetStatistics


class Traffic:
    """The engine of one client with all its parts.

    Args:
        transport: carries the requests.
        limits: see :class:`TrafficLimits`.
        policies: see :class:`TrafficPolicies`.
        clock: the client's clock.
        emitter: told of everything that happens.
        known: what is known about secrets: their OAuth clients, and which GETs are plain reads.
        admin_headers: the header with the admin token, which no error may repeat.
        coordination: lends the rate and passes on pauses, if other processes share them.
        uniform: the source of jitter.

    Attributes:
        engine: sends calls.
        turns: the turns of secrets.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
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
        lender = _refresh_lender(coordination, policies.bulkhead)
        self.turns: SecretTurns = SecretTurns()
        self._gates = Gates(
            breaker=Breaker(
                policies.breaker,
                clock=clock,
                on_open=lambda seconds: emitter.emit(BreakerOpened(seconds)),
                on_close=lambda: emitter.emit(BreakerClosed()),
                uniform=uniform,
            ),
            quarantine=Quarantine(clock=clock),
            refreshes=Refreshes(
                self.turns,
                Bulkheads(policies.bulkhead, clock=clock, uniform=uniform),
                known=known,
                borrows=lender is not None,
            ),
            patience_seconds=retry.deadline_seconds,
        )
        self._pacer = Pacer(
            rate=limits.rate,
            burst=limits.burst,
            concurrency=limits.concurrency,
            clock=clock,
            emitter=emitter,
            policy=policies.flow,
            budget=_budget(coordination, limits),
        )
        self._budget = RetryBudget(share=retry.budget_share, reserve=retry.budget_reserve)
        feedback = Feedback(
            pacer=self._pacer,
            gates=self._gates,
            policy=retry,
            clock=clock,
            emitter=emitter,
            admin_headers=admin_headers,
            share_pause=None if coordination is None else coordination.pause,
            uniform=uniform,
        )
        self.engine: Engine = Engine(
            transport,
            pacer=self._pacer,
            gates=self._gates,
            feedback=feedback,
            recovery=Recovery(
                retry,
                budget=self._budget,
                feedback=feedback,
                clock=clock,
                emitter=emitter,
                uniform=uniform,
            ),
            clock=clock,
            emitter=emitter,
            side_tasks=SideTasks(lender),
        )
        if coordination is not None:
            coordination.on_pause(self._pacer.pause)
        if isinstance(coordination, LendsConcurrency):
            coordination.on_allotment(self.engine.allot)

    def statistics(self) -> TrafficStatistics:
        """Return traffic statistics."""
        return TrafficStatistics(
            in_flight=self._pacer.taken,
            max_in_flight=self.engine.max_in_flight,
            quarantined=len(self._gates.quarantine),
            limiter=self._pacer.statistics(waiting=self.engine.waiting),
            breaker=self._gates.breaker.statistics(),
            bulkheads=self._gates.refreshes.bulkheads.statistics(),
            retry_budget=self._budget.statistics(),
        )


def _budget(coordination: Coordination | None, limits: TrafficLimits) -> RateBudget | None:
    if coordination is None or limits.rate is None:
        return None
    return coordination.budget(rate=limits.rate, burst=limits.burst)


def _refresh_lender(coordination: Coordination | None, policy: BulkheadPolicy) -> RefreshLender | None:
    return coordination.refreshes(policy.refreshes) if isinstance(coordination, LendsRefreshes) else None
