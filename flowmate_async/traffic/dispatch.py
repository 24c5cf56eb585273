"""The one way out: every request passes here, attempt by attempt.

In this order: the breaker, the secret's quarantine, admission (concurrency and rate), the breaker again (it
may have opened meanwhile), the transport. What a failure means is decided in ``failures.py``, whether it is
worth another attempt in ``retry.py``.
"""

import random
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import stamina
from msgspec import structs

from flowmate_async.clock import Clock
from flowmate_async.errors import FlowMateError, UpstreamTimeoutError, UpstreamUnavailableError
from flowmate_async.events import Answered, Broken, Emitter, Retried, Throttled
from flowmate_async.failures import Failure, Remedy, examine, examine_broken
from flowmate_async.protocol import IMPERSONATE, Request
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.traffic.admission import Admission, AdmissionStatistics
from flowmate_async.traffic.breaker import Breaker, BreakerStatistics, current_subject
from flowmate_async.traffic.priority import Priority, current_priority
from flowmate_async.traffic.quarantine import Quarantine
from flowmate_async.traffic.retry import RetryPolicy, RetrySchedule
from flowmate_async.traffic.tally import count_request
from flowmate_async.transport.base import Limits, Response, Transport, TransportError

OFF_WIRE: AbstractContextManager[Any] = nullcontext()


class Errand(Redacted, frozen=True, kw_only=True):
    """One request with all that its attempts need.

    Attributes:
        request: what to send.
        headers: its credentials.
        limits: the bounds of each attempt.
        wire: entered for exactly as long as an attempt is on the wire.
    """

    request: Request
    headers: Headers
    limits: Limits
    wire: AbstractContextManager[Any] = OFF_WIRE

    __shown__ = ("request",)


class TokenRejected(Exception):  # noqa: N818 - a signal to the token room, never the caller's error
    """The token a request was sent with was rejected; ``error`` is what to raise if a new one is, too."""

    def __init__(self, error: FlowMateError) -> None:
        super().__init__(error.kind)
        self.error = error


class TrafficStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic as it stands: requests in flight now and at most, quarantined secrets, admission, breaker."""

    in_flight: int
    max_in_flight: int
    quarantined: int
    limiter: AdmissionStatistics
    breaker: BreakerStatistics


class Dispatcher:
    """Sends requests under the concurrency limit and the rate limit, and again where that is safe.

    Args:
        transport: carries one attempt.
        admission: the concurrency and the rate.
        breaker: keeps from sending to a sick upstream.
        policy: the bounds of retrying.
        clock: the time it keeps.
        emitter: told of answers, failures, retries and throttling.
        uniform: the source of jitter.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        admission: Admission,
        breaker: Breaker,
        policy: RetryPolicy,
        clock: Clock,
        emitter: Emitter,
        uniform: Any = random.uniform,
    ) -> None:
        self._transport = transport
        self._admission = admission
        self._breaker = breaker
        self._policy = policy
        self._clock = clock
        self._emitter = emitter
        self._uniform = uniform
        self._quarantine = Quarantine(clock=clock)
        self._in_flight = 0
        self._max_in_flight = 0

    async def send(self, errand: Errand) -> Response:
        """Send until there is a good answer or no remedy is left.

        Raises:
            TokenRejected: the token may be dead; a new one may help.
            FlowMateError: what the last failure means.
        """
        outcome = await self._attempt(errand)
        if isinstance(outcome, Failure):
            outcome = await self._retry(outcome, errand)
        if isinstance(outcome, Response):
            return outcome
        raise outcome.error if outcome.remedy is not Remedy.REPLACE_TOKEN else TokenRejected(outcome.error)

    def statistics(self) -> TrafficStatistics:
        """Traffic as it stands."""
        return TrafficStatistics(
            in_flight=self._in_flight,
            max_in_flight=self._max_in_flight,
            quarantined=len(self._quarantine),
            limiter=self._admission.statistics(),
            breaker=self._breaker.statistics(),
        )

    async def _retry(self, outcome: Response | Failure, errand: Errand) -> Response | Failure:
        """The attempts after a failed first one: stamina loops and waits, the schedule says how long."""
        schedule = RetrySchedule(self._policy, uniform=self._uniform)

        def backoff(error: Exception) -> bool | float:
            if not isinstance(error, _Failed):
                return False
            wait = schedule.next_wait(error.failure)
            if wait is None:
                return False
            self._emitter.emit(Retried(errand.request.endpoint, error.failure.error.kind, wait))
            return wait

        # stamina is entered only now, since entering costs as much as a small request; so its first round
        # stands for the attempt that has failed already.
        failed_before = True
        try:
            async for attempt in stamina.retry_context(on=backoff, attempts=None, timeout=None):
                with attempt:
                    if not failed_before:
                        outcome = await self._attempt(errand)
                    failed_before = False
                    if isinstance(outcome, Failure):
                        raise _Failed(outcome)  # noqa: TRY301 - how stamina is told
        except _Failed:
            pass
        return outcome

    async def _attempt(self, errand: Errand) -> Response | Failure:
        """One attempt, or none while the breaker is open: who can wait does, who cannot is told at once."""
        patience = self._policy.deadline_seconds if current_priority() is Priority.BACKGROUND else 0.0
        while True:
            refused_for = self._breaker.closed_for()
            if refused_for is None:
                await self._until_released(errand.request.secret_id)
                async with self._admission:
                    if self._is_quarantined(errand.request.secret_id):
                        continue  # imposed while this one waited for its turn
                    refused_for = self._breaker.refused_for()
                    if refused_for is None:
                        with errand.wire:
                            return await self._watched(errand)
            if refused_for > patience:
                return Failure(_unwell(errand.request, refused_for))
            patience -= refused_for
            await self._clock.sleep(refused_for)

    async def _until_released(self, secret_id: str | None) -> None:
        if secret_id is not None:
            await self._quarantine.passed(secret_id)

    def _is_quarantined(self, secret_id: str | None) -> bool:
        return secret_id is not None and self._quarantine.holds(secret_id)

    async def _watched(self, errand: Errand) -> Response | Failure:
        """One exchange, whose end the breaker is told."""
        epoch = self._breaker.epoch
        outcome: Response | Failure | None = None
        try:
            outcome = await self._exchange(errand)
        finally:
            if outcome is None or _says_nothing(outcome, errand.request):
                self._breaker.withdraw(epoch=epoch)
        if not _says_nothing(outcome, errand.request):
            failed = isinstance(outcome, Failure) and outcome.sick
            self._breaker.note(subject=current_subject(), failed=failed, epoch=epoch)
        return outcome

    async def _exchange(self, errand: Errand) -> Response | Failure:
        request = errand.request
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        count_request()
        began = self._clock.monotonic()
        try:
            response = await self._transport.send(
                request.method, request.path, errand.headers, request.body, errand.limits
            )
        except TransportError as broken:
            failure: Failure | None = examine_broken(request, broken)
            self._emitter.emit(Broken(request.endpoint, broken.failure))
        else:
            failure = examine(request, response, now=self._clock.wall())
            seconds = self._clock.monotonic() - began
            self._emitter.emit(Answered(request.endpoint, response.status, seconds))
        finally:
            self._in_flight -= 1
        if failure is None:
            return response
        self._share(failure, request)
        return structs.replace(failure, spent_seconds=self._clock.monotonic() - began)

    def _share(self, failure: Failure, request: Request) -> None:
        """Let others feel what one request met: a throttled rate, a secret that is being refreshed."""
        if failure.throttled:
            seconds = min(failure.retry_after_seconds or 0.0, self._policy.retry_after_cap_seconds)
            self._admission.pause(seconds)
            self._emitter.emit(Throttled(seconds))
        if failure.locked and request.secret_id is not None:
            self._quarantine.impose(request.secret_id, self._policy.lock_seconds)


def _says_nothing(outcome: Response | Failure, request: Request) -> bool:
    """Whether an answer is no sign of upstream's health.

    A dead token is neither its sickness nor its health, nor is a provider that is waited for in vain; and
    that a token was made says nothing of whether tokens are accepted.
    """
    if isinstance(outcome, Response):
        return request.endpoint == IMPERSONATE
    waited_in_vain = isinstance(outcome.error, UpstreamTimeoutError)
    return (outcome.remedy is Remedy.REPLACE_TOKEN or waited_in_vain) and not outcome.sick


def _unwell(request: Request, seconds: float) -> UpstreamUnavailableError:
    return UpstreamUnavailableError(
        "FlowMate failed for many users a moment ago; nothing was sent",
        advice=f"Try again in {seconds:.0f} s",
        endpoint=request.endpoint,
        secret_id=request.secret_id,
    )


class _Failed(Exception):  # noqa: N818 - never leaves this module
    """A failed attempt, in the shape stamina wants."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.kind)
        self.failure = failure
