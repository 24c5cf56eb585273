"""One exchange with upstream, and what everybody else learns from it: a pause, a slower rate, a quarantine.

The request has passed every gate when it comes here; which those are is ``attempt.py``'s business. What an
answer means is decided in ``failures.py``.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any, ClassVar

from msgspec import structs

from flowmate_async.clock import Clock
from flowmate_async.events import Answered, Broken, Emitter, Throttled
from flowmate_async.failures import Failure, examine, examine_broken, is_good
from flowmate_async.protocol import Request
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.traffic.admission import Admission
from flowmate_async.traffic.quarantine import Quarantine
from flowmate_async.traffic.retry import RetryPolicy
from flowmate_async.traffic.tally import count_request
from flowmate_async.transport.base import ImmediateTransport, Limits, Response, Transport, TransportError

OFF_WIRE: AbstractContextManager[Any] = nullcontext()

_WAKING_SHARE = 0.1

Outcome = Response | Failure
"""A good answer, or what is wrong."""

Then = Callable[[Outcome | Exception], object]
"""Is told once how an attempt ended that nobody awaits; an exception is a fault of this library's own."""


class Errand(Redacted, frozen=True, kw_only=True, gc=True):  # a flight leads back to it
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

    __shown__: ClassVar[tuple[str, ...]] = ("request",)


class Exchange:
    """Sends one request and reads its answer.

    Args:
        transport: carries it.
        admission: paused and slowed down by an answer that asks for it.
        quarantine: of secrets that upstream may still be refreshing.
        policy: how long each of these lasts.
        clock: the time it keeps.
        emitter: told of answers, broken exchanges and throttling.
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
        share_pause: Callable[[float], None] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._transport = transport
        self._send_at_once = transport.send_at_once if isinstance(transport, ImmediateTransport) else None
        self._admission = admission
        self._quarantine = quarantine
        self._policy = policy
        self._clock = clock
        self._emitter = emitter
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
        try:
            answer: Response | TransportError = await self._transport.send(
                request.method, request.path, errand.headers, request.body, errand.limits
            )
        except TransportError as broken:
            answer = broken
        finally:
            self.in_flight -= 1
        return self._read(answer, request, sent_at)

    def send_at_once(self, errand: Errand, sent_at: float, then: Then) -> bool:
        """Send once, if the transport can do so without waiting.

        Args:
            errand: what to send.
            sent_at: the moment at which admission let it pass.
            then: told the outcome, once.

        Returns:
            Whether it was sent; if not, ``then`` is never called.
        """
        if self._send_at_once is None:
            return False
        request = errand.request
        # In the caller's context: a transport may tell in that of whoever made the connection.
        ended = partial(copy_context().run, partial(self._ended, request, sent_at, then))
        self._begin()
        sent = False
        try:
            sent = self._send_at_once(
                request.method, request.path, errand.headers, request.body, errand.limits, then=ended
            )
        finally:
            if not sent:
                self.in_flight -= 1
        return sent

    def _begin(self) -> None:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        count_request()

    def _ended(self, request: Request, sent_at: float, then: Then, answer: Response | Exception) -> None:
        self.in_flight -= 1
        outcome: Outcome | Exception
        try:
            if not isinstance(answer, Response | TransportError):
                raise answer  # noqa: TRY301 - like any other fault
            outcome = self._read(answer, request, sent_at)
        except Exception as error:  # noqa: BLE001 - there is no caller to raise it to
            outcome = error
        then(outcome)

    def _read(self, answer: Response | TransportError, request: Request, sent_at: float) -> Outcome:
        """What an answer means, once everybody has learned from it."""
        if isinstance(answer, TransportError):
            failure = examine_broken(request, answer)
            seconds = self._clock.monotonic() - sent_at
            self._emitter.emit(
                Broken(request.endpoint, answer.failure, seconds, request.username, request.secret_id)
            )
        else:
            seconds = self._clock.monotonic() - sent_at
            self._emitter.emit(
                Answered(request.endpoint, answer.status, seconds, request.username, request.secret_id)
            )
            # Asked before anything else, since nearly every answer is.
            examined = None if is_good(request, answer) else examine(request, answer, now=self._clock.wall())
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
