"""The one way out: every request passes here, attempt by attempt, until it is answered or nothing helps.

How one attempt is made is ``attempt.py``'s; whether and when there is another is decided by the schedule
(``retry.py``) and paid for by the retry budget.
"""

import random
from collections.abc import Callable

import stamina

from flowmate_async.errors import FlowMateError
from flowmate_async.events import Emitter, Retried, RetryRefused
from flowmate_async.failures import Failure, Remedy
from flowmate_async.protocol import Request
from flowmate_async.traffic.attempt import Attempts
from flowmate_async.traffic.errand import Errand, Outcome, UnawaitedErrand
from flowmate_async.traffic.retry import RetryPolicy, RetrySchedule
from flowmate_async.traffic.retry_budget import RetryBudget
from flowmate_async.transport.base import Response

# Otherwise stamina looks for observers at the first retry, and imports prometheus_client in the running loop.
stamina.instrumentation.get_on_retry_hooks()


class TokenRejected(Exception):  # noqa: N818 - a signal to the token room, never the caller's error
    """The token a request was sent with was rejected; ``error`` is what to raise if a new one is, too."""

    def __init__(self, error: FlowMateError) -> None:
        super().__init__(error.kind)
        self.error = error


class Dispatcher:
    """Sends requests, and again where that is safe.

    Args:
        attempts: makes single attempts.
        budget: pays for retries.
        policy: the bounds of retrying.
        emitter: told of retries.
        uniform: the source of jitter.
    """

    def __init__(
        self,
        attempts: Attempts,
        *,
        budget: RetryBudget,
        policy: RetryPolicy,
        emitter: Emitter,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._attempts = attempts
        self._budget = budget
        self._policy = policy
        self._emitter = emitter
        self._uniform = uniform

    def send_at_once(self, errand: UnawaitedErrand) -> bool:
        """Make the first attempt, if nothing has to be waited for but the answer.

        Args:
            errand: what to send; its receiver is told the outcome, once, and a failure is for :meth:`send`
                to go on with.

        Returns:
            Whether it was made; if not, the receiver is never told.
        """
        if not self._attempts.attempt_at_once(errand):
            return False
        self._budget.deposit()
        return True

    async def send(self, errand: Errand, *, failed: Failure | None = None) -> Response:
        """Send until there is a good answer or no remedy is left.

        Args:
            errand: what to send.
            failed: how the first attempt ended, if :meth:`send_at_once` has made it.

        Raises:
            TokenRejected: the token may be dead; a new one may help.
            FlowMateError: what the last failure means.
        """
        outcome: Outcome | None = failed
        if outcome is None:
            self._budget.deposit()
            outcome = await self._attempts.attempt(errand)
        if isinstance(outcome, Failure):
            outcome = await self._retry(outcome, errand)
        if isinstance(outcome, Response):
            return outcome
        raise outcome.error if outcome.remedy is not Remedy.REPLACE_TOKEN else TokenRejected(outcome.error)

    async def _retry(self, outcome: Outcome, errand: Errand) -> Outcome:
        """The attempts after a failed first one: stamina loops and waits, the schedule says how long."""
        schedule = RetrySchedule(self._policy, uniform=self._uniform)

        def backoff(error: Exception) -> bool | float:
            if not isinstance(error, _Failed):
                return False
            wait = schedule.next_wait(error.failure)
            if wait is None or not self._can_afford(error.failure, errand.request):
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
                        outcome = await self._attempts.attempt(errand)
                    failed_before = False
                    if isinstance(outcome, Failure):
                        raise _Failed(outcome)  # noqa: TRY301 - how stamina is told
        except _Failed:
            pass
        return outcome

    def _can_afford(self, failure: Failure, request: Request) -> bool:
        """Whether the retry budget pays; not asked after a 429, which slows everybody down already."""
        if failure.throttled or self._budget.withdraw():
            return True
        self._emitter.emit(RetryRefused(request.endpoint, failure.error.kind))
        return False


class _Failed(Exception):  # noqa: N818 - never leaves this module
    """A failed attempt, in the shape stamina wants."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.kind)
        self.failure = failure
