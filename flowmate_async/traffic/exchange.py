"""One exchange with upstream, and what everybody else learns from it: a pause, a slower rate, a quarantine.

The request has passed every gate when it comes here; which those are is ``attempt.py``'s business. What an
answer means is decided in ``contract/failures.py``.
"""

import random
from collections.abc import Callable

from msgspec import structs

from flowmate_async.clock import Clock
from flowmate_async.contract.failures import Failure, examine, examine_broken, is_good, without_tokens
from flowmate_async.contract.protocol import Request
from flowmate_async.events import Broken, Emitter, Throttled
from flowmate_async.redaction import Headers
from flowmate_async.traffic.admission import Admission
from flowmate_async.traffic.call import Errand, OnAnswer, OnOutcome, Outcome, UnawaitedErrand
from flowmate_async.traffic.quarantine import Quarantine
from flowmate_async.traffic.request_count import count_request
from flowmate_async.traffic.retry import RetryPolicy
from flowmate_async.transport.base import ImmediateTransport, Response, Transport, TransportError

_WAKING_SHARE = 0.1


class Exchange:
    """Sends one request and reads its answer.

    Args:
        transport: carries it.
        admission: paused and slowed down by an answer that asks for it.
        quarantine: of secrets that upstream may still be refreshing.
        policy: how long each of these lasts.
        clock: the time it keeps.
        emitter: told of answers, broken exchanges and throttling.
        admin_headers: the header with the admin token, which no error may repeat.
        share_pause: tells other processes, where there are any, for how many seconds to wait.
        uniform: the source of jitter.

    Attributes:
        in_flight: exchanges under way.
        max_in_flight: the most there have been.
    """

    def __init__(  # noqa: PLR0913 - a collaborator each
        self,
        transport: Transport,
        *,
        admission: Admission,
        quarantine: Quarantine,
        policy: RetryPolicy,
        clock: Clock,
        emitter: Emitter,
        admin_headers: Callable[[], Headers | None] = lambda: None,
        share_pause: Callable[[float], None] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._transport = transport
        self._on_answer: OnAnswer = self._answered
        self._send_at_once = transport.send_at_once if isinstance(transport, ImmediateTransport) else None
        self._admission = admission
        self._quarantine = quarantine
        self._policy = policy
        self._clock = clock
        self._emitter = emitter
        self._admin_headers = admin_headers
        self._share_pause = share_pause
        self._uniform = uniform
        self.in_flight: int = 0
        self.max_in_flight: int = 0

    async def send(self, errand: Errand, sent_at: float) -> Outcome:
        """Send once.

        Args:
            errand: what to send.
            sent_at: the moment at which admission let it pass.
        """
        request = errand.request
        self._begin()
        count_request()
        try:
            answer: Response | TransportError = await self._transport.send(
                request.method, request.path, errand.headers, request.body, errand.limits
            )
        except TransportError as broken:
            answer = broken
        finally:
            self.in_flight -= 1
        return self._read(answer, errand, sent_at)

    def send_at_once(self, errand: UnawaitedErrand, sent_at: float, on_outcome: OnOutcome) -> bool:
        """Send once, if the transport can do so without waiting.

        Args:
            errand: what to send.
            sent_at: the moment at which admission let it pass.
            on_outcome: told the outcome, once.

        Returns:
            Whether it was sent; if not, ``on_outcome`` is never called.
        """
        if self._send_at_once is None:
            return False
        request = errand.request
        errand.sent_at = sent_at
        errand.on_answer = self._on_answer
        errand.on_outcome = on_outcome
        self._begin()
        sent = False
        try:
            sent = self._send_at_once(
                request.method, request.path, errand.headers, request.body, errand.limits, then=errand
            )
        finally:
            if sent:
                count_request()
            else:
                self.in_flight -= 1
        return sent

    def _begin(self) -> None:
        self.in_flight += 1
        if self.in_flight > self.max_in_flight:  # noqa: PLR1730 - max() takes longer than all the rest
            self.max_in_flight = self.in_flight

    def _answered(self, errand: UnawaitedErrand, answer: Response | Exception) -> None:
        self.in_flight -= 1
        outcome: Outcome | Exception
        try:
            if isinstance(answer, Exception) and not isinstance(answer, TransportError):
                raise answer  # noqa: TRY301 - like any other fault
            outcome = self._read(answer, errand, errand.sent_at)
        except Exception as error:  # noqa: BLE001 - there is no caller to raise it to
            outcome = error
        errand.on_outcome(errand, outcome)

    def _read(
        self, answer: Response | TransportError, errand: Errand | UnawaitedErrand, sent_at: float
    ) -> Outcome:
        """Return what an answer means, once everybody has learned from it."""
        request = errand.request
        if isinstance(answer, TransportError):
            failure = examine_broken(request, answer)
            seconds = self._clock.monotonic() - sent_at
            self._emitter.emit(
                Broken(request.endpoint, answer.failure, seconds, request.username, request.secret_id)
            )
        else:
            seconds = self._clock.monotonic() - sent_at
            self._emitter.answered(
                request.endpoint, answer.status, seconds, request.username, request.secret_id
            )
            # Asked before anything else, since nearly every answer is.
            examined = None if is_good(request, answer) else self._examine(answer, errand)
            if examined is None:
                self._admission.passed(sent_at)
                if not request.may_refresh:  # what a refresh takes is the provider's doing
                    self._admission.answered(seconds)
                return answer
            failure = examined
            if not failure.throttled:
                self._admission.passed(sent_at)
        self._share(failure, request, sent_at)
        return structs.replace(failure, spent_seconds=self._clock.monotonic() - sent_at)

    def _examine(self, answer: Response, errand: Errand | UnawaitedErrand) -> Failure | None:
        answer = without_tokens(answer, errand.headers, self._admin_headers())
        return examine(errand.request, answer, now=self._clock.wall())

    def _share(self, failure: Failure, request: Request, sent_at: float) -> None:
        """Let others feel what one request met."""
        if failure.throttled or failure.retry_after_seconds is not None:
            seconds = self._pause_seconds(failure.retry_after_seconds)
            self._admission.pause(seconds)
            if self._share_pause is not None:
                self._share_pause(seconds)
            self._emitter.emit(Throttled(seconds))
        if failure.throttled:
            self._admission.throttled(sent_at=sent_at)
        if failure.locked and request.secret_id is not None:
            self._quarantine.impose(request.secret_id, self._policy.lock_seconds)

    def _pause_seconds(self, asked: float | None) -> float:
        """As long as upstream asks, and up to a tenth more, so that not every process wakes at once."""
        seconds = self._policy.base_seconds if asked is None else asked
        seconds = min(seconds, self._policy.retry_after_cap_seconds)
        return seconds + self._uniform(0.0, seconds * _WAKING_SHARE)
