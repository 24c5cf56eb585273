"""Whether and when to retry a failed request: pure decisions, full jitter, always bounded.

Nothing here sleeps or sends; ``engine.py`` does, following this schedule.
"""

from collections.abc import Callable

import msgspec

from flowmate_async.contract.failures import LOCK_SECONDS, Failure, Remedy


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of retrying.

    Attributes:
        attempts: maximum number of times one request is sent, including the first.
        throttled_attempts: how many 429s a request may get before it fails. They do not count towards
            ``attempts`` (unless that is 1): all requests wait then, and the rate is lowered.
        base_seconds: the ceiling of the first random wait; it doubles each time.
        cap_seconds: the ceiling of every random wait.
        deadline_seconds: no retry begins later than this after the first attempt. Attempts and the waits
            between them count; waiting for the rate limiter does not.
        retry_after_cap_seconds: the longest ``Retry-After`` that is honoured in full. The pause ends up to a
            tenth later, so that processes do not all wake at the same time.
        lock_seconds: how long a secret that upstream may be refreshing is not fetched
            (docs/contract/OBSERVED.md § Concurrent GETs of one secret).
        budget_share: the retry budget: retries are at most this share of the requests, however many fail…
        budget_reserve: …plus this many. Retries after a 429 do not count.
    """

    attempts: int = 4
    throttled_attempts: int = 10
    base_seconds: float = 0.5
    cap_seconds: float = 10.0
    deadline_seconds: float = 120.0
    retry_after_cap_seconds: float = 60.0
    lock_seconds: float = LOCK_SECONDS
    budget_share: float = 0.1
    budget_reserve: int = 50


class RetrySchedule:
    """The retries of one request.

    Args:
        policy: the bounds.
        uniform: draws from ``[low, high]``.
    """

    __slots__ = ("_locks_awaited", "_policy", "_retries", "_spent_seconds", "_throttled", "_uniform")

    def __init__(self, policy: RetryPolicy, *, uniform: Callable[[float, float], float]) -> None:
        self._policy = policy
        self._uniform = uniform
        self._retries = 0
        self._throttled = 0
        self._locks_awaited = 0
        self._spent_seconds = 0.0

    def next_wait(self, failure: Failure) -> float | None:
        """Return the seconds to wait before the next attempt; ``None`` if there must be none.

        Args:
            failure: how the last attempt ended.
        """
        wait = self._wait(failure)
        if wait is None or not self._may_try_again(failure):
            return None
        self._spent_seconds += failure.spent_seconds + wait
        return wait if self._spent_seconds <= self._policy.deadline_seconds else None

    def _may_try_again(self, failure: Failure) -> bool:
        if failure.throttled and self._policy.attempts > 1:
            self._throttled += 1
            return self._throttled < self._policy.throttled_attempts
        self._retries += 1
        return self._retries < self._policy.attempts

    def _wait(self, failure: Failure) -> float | None:
        if failure.remedy is Remedy.AWAIT_LOCK:
            return self._past_the_lock(failure)
        if failure.remedy is not Remedy.RETRY:
            return None
        if failure.retry_after_seconds is not None:
            return self._as_asked(failure.retry_after_seconds)
        ceiling = min(self._policy.cap_seconds, self._policy.base_seconds * 2**self._retries)
        return self._uniform(0.0, ceiling)

    def _past_the_lock(self, failure: Failure) -> float | None:
        """Return the wait until the lock has expired, once: a failure after that has another cause."""
        self._locks_awaited += 1
        if self._locks_awaited > 1:
            return None
        asked = self._as_asked(failure.retry_after_seconds or 0.0)
        return max(asked, self._policy.lock_seconds + self._uniform(0.0, self._policy.base_seconds))

    def _as_asked(self, seconds: float) -> float:
        """Return the wait that upstream asked for, with jitter, so that clients do not all wake at once."""
        return min(seconds, self._policy.retry_after_cap_seconds) + self._uniform(
            0.0, self._policy.base_seconds
        )
