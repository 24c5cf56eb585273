"""How long an answer is valid: to the second, and from the moment at which another process received it."""

import msgspec
import pytest

from flowmate_async import FreshnessPolicy, decode_secret
from flowmate_async.access.cache_entries import Entry
from flowmate_async.access.validity import Validity
from flowmate_async.engine.coordination import SharedSecret

HOUR = 3600.0


class SetClock:
    """Both clocks, standing still."""

    def monotonic(self):
        return 500_000.0

    def wall(self):
        return 1_790_000_000.0


def answer(*, age_seconds):
    """A session without a date, which counts from its arrival."""
    value = {"accessToken": "a-token"}
    item = {"_id": "a" * 24, "type": "SESSION_AUTH", "value": value}
    return SharedSecret(decode_secret(msgspec.Raw(msgspec.json.encode(item))), age_seconds=age_seconds)


@pytest.fixture
def validity():
    policy = FreshnessPolicy(session_ttl_seconds=HOUR)
    return Validity(policy, clock=SetClock(), uniform=lambda low, _high: low)


@pytest.mark.parametrize(("age", "lasts"), [(0.0, True), (HOUR - 61.0, True), (HOUR - 59.0, False)])
def test_the_age_of_a_shared_answer_counts(validity, age, lasts):
    assert validity.lasting(60.0)(answer(age_seconds=age)) is lasts


def test_each_clock_alone_ends_an_answer_in_time(validity):
    """One of them may be wrong: set back, or standing still while a machine sleeps."""
    clock, when = SetClock(), validity.timeline(answer(age_seconds=600.0))
    assert when.remaining_seconds(wall=clock.wall(), monotonic=0.0) == HOUR - 600.0
    assert when.remaining_seconds(wall=0.0, monotonic=clock.monotonic()) == HOUR - 600.0


@pytest.mark.parametrize(("min_valid", "lasts"), [(0.0, True), (HOUR, True), (HOUR + 1, False)])
def test_an_entry_lasts_for_exactly_what_remains(validity, min_valid, lasts):
    fetched = answer(age_seconds=0.0)
    assert validity.lasts(Entry(fetched, validity.timeline(fetched), 1), min_valid) is lasts


def test_an_entry_that_has_ended_lasts_for_nobody(validity):
    ended = answer(age_seconds=HOUR)
    assert not validity.lasts(Entry(ended, validity.timeline(ended), 1), 0.0)
