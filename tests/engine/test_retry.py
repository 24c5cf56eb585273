"""The schedule of retries is pure, and bounded whatever happens."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FlowMateError, RetryPolicy
from flowmate_async.contract.failures import Failure, Remedy
from flowmate_async.engine.retry import RetrySchedule

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 9),
    base_seconds=st.floats(0, 5),
    cap_seconds=st.floats(0, 60),
    deadline_seconds=st.floats(0, 300),
    retry_after_cap_seconds=st.floats(0, 100),
    lock_seconds=st.floats(0, 20),
)
failures = st.builds(
    Failure,
    error=st.just(FlowMateError("m")),
    remedy=st.sampled_from(Remedy),
    retry_after_seconds=st.none() | st.floats(0, 10**6),
    spent_seconds=st.floats(0, 60),
)


def low(start, _end):
    return start


def high(_start, end):
    return end


def failure(remedy=Remedy.RETRY, *, retry_after=None, spent=0.0):
    return Failure(FlowMateError("m"), remedy, retry_after, spent_seconds=spent)


@given(policies, st.lists(failures, min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_retries_are_bounded_by_attempts_by_the_deadline_and_by_one_lock(policy, met, random):
    schedule = RetrySchedule(policy, uniform=random.uniform)
    waits, spent, locks = [], 0.0, 0
    for failed in met:
        wait = schedule.next_wait(failed)
        if wait is None:
            break
        assert wait >= 0
        assert failed.remedy in (Remedy.RETRY, Remedy.AWAIT_LOCK)
        locks += failed.remedy is Remedy.AWAIT_LOCK
        if failed.remedy is Remedy.AWAIT_LOCK:
            assert wait >= policy.lock_seconds
        spent += failed.spent_seconds + wait
        waits.append(wait)
    assert len(waits) < policy.attempts
    assert spent <= policy.deadline_seconds or not waits
    assert locks <= 1


class TestWaits:
    def test_the_jitter_is_full_and_its_ceiling_doubles_up_to_the_cap(self):
        policy = RetryPolicy(attempts=9, base_seconds=1, cap_seconds=10, deadline_seconds=10**6)
        ceilings = RetrySchedule(policy, uniform=high)
        assert [ceilings.next_wait(failure()) for _ in range(8)] == [1, 2, 4, 8, 10, 10, 10, 10]
        floors = RetrySchedule(policy, uniform=low)
        assert [floors.next_wait(failure()) for _ in range(8)] == [0] * 8

    @given(st.floats(0, 1000))
    def test_retry_after_is_honoured_in_full_up_to_its_cap(self, asked):
        policy = RetryPolicy(retry_after_cap_seconds=60, base_seconds=0.5, deadline_seconds=10**6)
        shortest = RetrySchedule(policy, uniform=low).next_wait(failure(retry_after=asked))
        longest = RetrySchedule(policy, uniform=high).next_wait(failure(retry_after=asked))
        assert shortest == min(asked, 60)
        assert longest == min(asked, 60) + 0.5

    def test_the_lock_is_awaited_once_whatever_comes_in_between(self):
        schedule = RetrySchedule(RetryPolicy(attempts=9, lock_seconds=10), uniform=low)
        assert schedule.next_wait(failure(Remedy.AWAIT_LOCK)) >= 10
        assert schedule.next_wait(failure(Remedy.RETRY)) is not None
        assert schedule.next_wait(failure(Remedy.AWAIT_LOCK)) is None

    def test_a_longer_retry_after_outlasts_the_lock(self):
        schedule = RetrySchedule(RetryPolicy(lock_seconds=10), uniform=low)
        assert schedule.next_wait(failure(Remedy.AWAIT_LOCK, retry_after=30)) == 30

    def test_time_spent_on_attempts_counts_for_the_deadline(self):
        policy = RetryPolicy(deadline_seconds=100, base_seconds=1)
        assert RetrySchedule(policy, uniform=low).next_wait(failure(spent=100)) == 0
        assert RetrySchedule(policy, uniform=low).next_wait(failure(spent=101)) is None

    @pytest.mark.parametrize("remedy", [Remedy.NONE, Remedy.REPLACE_TOKEN])
    def test_what_a_retry_does_not_help_is_not_retried(self, remedy):
        assert RetrySchedule(RetryPolicy(), uniform=low).next_wait(failure(remedy, retry_after=1)) is None

    def test_one_attempt_means_no_retry(self):
        assert RetrySchedule(RetryPolicy(attempts=1), uniform=low).next_wait(failure()) is None


def test_the_default_policy_can_await_a_lock_after_a_full_timeout():
    """30 s of silence, the 10 s lock and one more try fit into the default deadline."""
    assert (
        RetrySchedule(RetryPolicy(), uniform=high).next_wait(failure(Remedy.AWAIT_LOCK, spent=30)) is not None
    )


def test_ceilings_never_shrink():
    ceilings = RetrySchedule(RetryPolicy(attempts=9, deadline_seconds=10**6), uniform=high)
    waits = [ceilings.next_wait(failure()) for _ in range(8)]
    assert all(earlier <= later for earlier, later in pairwise(waits))
