"""Send every request, attempt by attempt, until it is answered or another attempt would not help.

``attempt.py`` makes one attempt. The schedule (``retry.py``) decides whether and when there is another one,
and the retry budget pays for it. The waits in between are on the client's own clock.
"""

import random
from collections.abc import Callable

from flowmate_async.clock import Clock
from flowmate_async.contract.failures import Failure, Remedy
from flowmate_async.contract.protocol import Request
from flowmate_async.errors import FlowMateError
from flowmate_async.events import Emitter, Retried, RetryRefused
from flowmate_async.traffic.attempt import Attempts
from flowmate_async.traffic.call import Errand, Outcome, UnawaitedErrand
from flowmate_async.traffic.retry import RetryPolicy, RetrySchedule
from flowmate_async.traffic.retry_budget import RetryBudget
from flowmate_async.transport.base import Response


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
        clock: times the waits between attempts.
        uniform: the source of jitter.
    """

    def __init__(
        self,
        attempts: Attempts,
        *,
        budget: RetryBudget,
        policy: RetryPolicy,
        emitter: Emitter,
        clock: Clock,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._attempts = attempts
        self._budget = budget
        self._policy = policy
        self._emitter = emitter
        self._clock = clock
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
        outcome: Outcome
        if failed is None:
            self._budget.deposit()
            outcome = await self._attempts.attempt(errand)
        else:
            outcome = failed
            if errand.unattributed:
                await self._attempts.attribute(errand, failed)
        if isinstance(outcome, Failure):
            outcome = await self._retry(outcome, errand)
        if isinstance(outcome, Response):
            return outcome
        raise outcome.error if outcome.remedy is not Remedy.REPLACE_TOKEN else TokenRejected(outcome.error)

    async def _retry(self, failure: Failure, errand: Errand) -> Outcome:
        """Make further attempts after a failed first one, as far as the schedule and the budget allow."""
        schedule = RetrySchedule(self._policy, uniform=self._uniform)
        outcome: Outcome = failure
        while isinstance(outcome, Failure):
            wait = schedule.next_wait(outcome)
            if wait is None or not self._can_afford(outcome, errand.request):
                break
            self._emitter.emit(Retried(errand.request.endpoint, outcome.error.kind, wait))
            await self._clock.sleep(wait)
            outcome = await self._attempts.attempt(errand)
        return outcome

    def _can_afford(self, failure: Failure, request: Request) -> bool:
        """Return whether the retry budget pays. A 429 is exempt, since it slows everything down already."""
        if failure.throttled or self._budget.withdraw():
            return True
        self._emitter.emit(RetryRefused(request.endpoint, failure.error.kind))
        return False
