"""What a call does after a failed attempt: another token, another attempt later, or nothing more."""

import random
from collections.abc import Callable

from flowmate_async.clock import Clock
from flowmate_async.contract.failures import Failure, Remedy
from flowmate_async.engine.call import Call
from flowmate_async.engine.feedback import Feedback
from flowmate_async.engine.retry import RetryPolicy, RetrySchedule
from flowmate_async.engine.retry_budget import RetryBudget
from flowmate_async.events import Emitter, Retried, RetryRefused


class Recovery:
    """Prepares failed calls for their next attempt.

    Args:
        policy: the bounds of retrying.
        budget: pays for retries.
        feedback: told of new tokens that were rejected.
        clock: the client's clock.
        emitter: told of retries.
        uniform: the source of jitter.

    Attributes:
        note_first_attempt: notes that a call is sent for the first time.
    """

    __slots__ = ("_budget", "_clock", "_emitter", "_feedback", "_policy", "_uniform", "note_first_attempt")

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        budget: RetryBudget,
        feedback: Feedback,
        clock: Clock,
        emitter: Emitter,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._feedback = feedback
        self._clock = clock
        self._emitter = emitter
        self._uniform = uniform
        self.note_first_attempt: Callable[[], None] = budget.deposit

    def prepare(self, call: Call, failure: Failure) -> bool:
        """Prepare a call for another attempt. Return whether there may be one."""
        trouble = call.troubled()
        trouble.first_sent_at = call.first_sent_at
        trouble.failed_attempts += 1
        if failure.remedy is Remedy.REPLACE_TOKEN:
            return self._with_another_token(call, failure)
        return self._later(call, failure)

    def _with_another_token(self, call: Call, failure: Failure) -> bool:
        """Try one other token after a rejected one, and no more than one."""
        trouble = call.troubled()
        if trouble.rejection is not None:
            self._feedback.fresh_token_rejected(call, failure)
            return False
        if call.token is None or not call.identity.reject(call.token, self._clock.monotonic()):
            return False
        trouble.rejection, trouble.rejected, trouble.schedule = failure.error, call.token, None
        return True

    def _later(self, call: Call, failure: Failure) -> bool:
        """Wait as the schedule says, if the retry budget allows it."""
        trouble, request = call.troubled(), call.request
        if trouble.schedule is None:
            trouble.schedule = RetrySchedule(self._policy, uniform=self._uniform)
        wait = trouble.schedule.next_wait(failure)
        if wait is None or not self._can_afford(failure, request.endpoint):
            return False
        self._emitter.emit(Retried(request.endpoint, failure.error.kind, wait))
        # Read again: the retry must not precede the end of a quarantine that began meanwhile.
        trouble.not_before = self._clock.monotonic() + wait
        return True

    def _can_afford(self, failure: Failure, endpoint: str) -> bool:
        """Return whether the retry budget allows a retry. 429s are exempt: they already slow down calls."""
        if failure.throttled or self._budget.withdraw():
            return True
        self._emitter.emit(RetryRefused(endpoint, failure.error.kind))
        return False
