"""What one answer means for all other calls: a pause, a lower rate, a quarantine, a failing upstream.

What an answer means for its own call is decided in ``failures.py``.
"""

import random
from collections.abc import Callable, Sequence

from msgspec import structs

from flowmate_async.clock import Clock
from flowmate_async.contract.failures import Failure, Remedy, examine, examine_broken, without_tokens
from flowmate_async.contract.protocol import GET, IMPERSONATE, LIST, Request
from flowmate_async.engine.call import Call
from flowmate_async.engine.decision import Gates
from flowmate_async.engine.pacer import Pacer
from flowmate_async.engine.retry import RetryPolicy
from flowmate_async.errors import (
    InvalidIdError,
    RefreshFailedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.events import Answered, Broken, Emitter, Throttled
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import Response, TransportError

_WAKING_SHARE = 0.1


class Feedback:
    """Applies what each answer shows to pacer, gates and listeners.

    Args:
        pacer: is paused and slowed down.
        gates: contain breaker and quarantine.
        policy: how long a pause and a quarantine last.
        clock: the client's clock.
        emitter: told of answers, broken exchanges and throttling.
        admin_headers: the header with the admin token, which no error may repeat.
        share_pause: tells other processes, if there are any, how many seconds to wait.
        uniform: the source of jitter.
    """

    __slots__ = (
        "_admin_headers",
        "_clock",
        "_emitter",
        "_gates",
        "_pacer",
        "_policy",
        "_share_pause",
        "_uniform",
    )

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        *,
        pacer: Pacer,
        gates: Gates,
        policy: RetryPolicy,
        clock: Clock,
        emitter: Emitter,
        admin_headers: Callable[[], Headers | None] = lambda: None,
        share_pause: Callable[[float], None] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._pacer = pacer
        self._gates = gates
        self._policy = policy
        self._clock = clock
        self._emitter = emitter
        self._admin_headers = admin_headers
        self._share_pause = share_pause
        self._uniform = uniform

    def good(self, answered: Sequence[tuple[Call, Response]], now: float) -> None:
        """Learn from good answers that came at the same time.

        Args:
            answered: the calls and their answers.
            now: seconds of the client's monotonic clock.
        """
        epoch, healthy = self._gates.breaker.epoch, 0
        samples: list[tuple[str, int, float]] = []
        sent: list[float] = []
        durations: list[float] = []
        for call, answer in answered:
            request, sent_at = call.request, call.sent_at
            endpoint, seconds = request.endpoint, now - sent_at
            sent.append(sent_at)
            samples.append((endpoint, answer.status, seconds))
            if not request.may_refresh:  # the duration of a refresh depends on the provider
                durations.append(seconds)
            # A new token does not prove that upstream accepts tokens.
            healthy += endpoint != IMPERSONATE and call.epoch == epoch
        self._count(answered, samples)
        self._pacer.passed(sent)
        if durations:
            self._pacer.answered(durations, now)
        if self._gates.breaker.closed:
            self._gates.breaker.note_good(healthy, now)
        else:
            for call, _ in answered:
                failed = None if call.request.endpoint == IMPERSONATE else False
                self._gates.breaker.note(subject=None, failed=failed, epoch=call.epoch)

    def _count(
        self, answered: Sequence[tuple[Call, Response]], samples: Sequence[tuple[str, int, float]]
    ) -> None:
        if not self._emitter.listeners:
            self._emitter.count_answers(samples)
            return
        for (call, _), (endpoint, status, seconds) in zip(answered, samples, strict=True):
            request = call.request
            event = Answered(
                endpoint, status, seconds, request.username, request.secret_id, attempt=call.attempt
            )
            call.run(self._emitter.emit, event)

    def bad(self, call: Call, answer: Response | TransportError, now: float) -> Failure:
        """Learn from a bad answer or a broken exchange. Return what it means for the call.

        Args:
            call: the call that it answers.
            answer: the answer, or how the exchange broke.
            now: seconds of the client's monotonic clock.
        """
        request, seconds = call.request, now - call.sent_at
        if isinstance(answer, TransportError):
            failure = examine_broken(request, answer)
            broken = Broken(
                request.endpoint,
                answer.failure,
                seconds,
                request.username,
                request.secret_id,
                attempt=call.attempt,
            )
            self._emitter.emit(broken)
        else:
            event = Answered(
                request.endpoint,
                answer.status,
                seconds,
                request.username,
                request.secret_id,
                attempt=call.attempt,
            )
            self._emitter.emit(event)
            failure = self._examine(call, answer)
            if not failure.throttled:
                self._pacer.passed([call.sent_at])
        self._share(failure, request, call.sent_at)
        self._gates.breaker.note(subject=request.username, failed=_upstream_failed(failure), epoch=call.epoch)
        return structs.replace(failure, spent_seconds=seconds)

    def crashed(self, call: Call) -> None:
        """Learn nothing: the transport itself has a bug."""
        self._gates.breaker.note(subject=call.request.username, failed=None, epoch=call.epoch)

    def fresh_token_rejected(self, call: Call, failure: Failure) -> None:
        """Note that upstream rejected a new token: the fault is upstream's."""
        counted_before = isinstance(failure.error, UpstreamUnavailableError)
        if call.request.endpoint in (LIST, GET) and not counted_before:
            self._gates.breaker.note(subject=call.request.username, failed=True, epoch=call.epoch)

    def _examine(self, call: Call, answer: Response) -> Failure:
        sent = None if call.token is None else call.token.headers
        answer = without_tokens(answer, sent, self._admin_headers())
        failure = examine(call.request, answer, now=self._clock.wall())
        if failure is None:
            raise AssertionError("a good answer was examined for what is wrong")
        return failure

    def _share(self, failure: Failure, request: Request, sent_at: float) -> None:
        """Apply the failure of one call to all calls."""
        if failure.throttled or failure.retry_after_seconds is not None:
            seconds = self._pause_seconds(failure.retry_after_seconds)
            self._pacer.pause(seconds)
            if self._share_pause is not None:
                self._share_pause(seconds)
            self._emitter.emit(Throttled(seconds))
        if failure.throttled:
            self._pacer.throttled(sent_at=sent_at)
        if failure.locked and request.secret_id is not None:
            self._gates.quarantine.impose(request.secret_id, self._policy.lock_seconds)

    def _pause_seconds(self, asked: float | None) -> float:
        """Return upstream's wait plus up to a tenth, so that processes do not all wake at the same time."""
        seconds = self._policy.base_seconds if asked is None else asked
        seconds = min(seconds, self._policy.retry_after_cap_seconds)
        return seconds + self._uniform(0.0, seconds * _WAKING_SHARE)


def provider_failed(failure: Failure | None) -> bool | None:
    """Return whether the provider behind a refresh failed; ``None`` if the outcome does not tell."""
    if failure is None:
        return False
    refused = isinstance(failure.error, RefreshFailedError) and failure.remedy is not Remedy.AWAIT_LOCK
    return True if refused or isinstance(failure.error, UpstreamTimeoutError) else None


def _upstream_failed(failure: Failure) -> bool | None:
    """Return whether upstream is failing; ``None`` if the failure does not tell.

    An expired token, a malformed id and a hanging provider say nothing about upstream.
    """
    if isinstance(failure.error, InvalidIdError):
        return None
    timed_out = isinstance(failure.error, UpstreamTimeoutError)
    if (failure.remedy is Remedy.REPLACE_TOKEN or timed_out) and not failure.sick:
        return None
    return failure.sick
