"""The table of rules: what each observation does to each type of secret."""

import itertools

import pytest

from flowmate_async.health import HealthState, Reason
from flowmate_async.health.decide import initial
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.states import RULES
from tests.health.observing import DAY, NOW, POLICY, TYPES, Watched, watched

BROKEN_AT_ONCE = {Observed.REFUSED: "refused"}
UNREADABLE_AT_ONCE = {Observed.MASKED: "masked", Observed.FORBIDDEN: "forbidden"}
BROKEN_WHEN_REPEATED = {
    Observed.FAILED: "refresh_fails",
    Observed.HUNG: "refresh_fails",
    Observed.EMPTY: "empty",
    Observed.REJECTED: "rejected",
}


def three_nights(what):
    return [Observation(what, NOW + night * DAY) for night in range(3)]


def test_every_reason_has_a_rule():
    assert set(RULES) == set(Reason)
    assert {state for rule in RULES.values() for state in rule.states} == set(HealthState)


@pytest.mark.parametrize("secret_type", TYPES)
@pytest.mark.parametrize(("what", "reason"), BROKEN_AT_ONCE.items())
def test_a_conclusive_failure_breaks(secret_type, what, reason):
    one = watched(secret_type, [what])
    assert (one.state, one.reason) == (HealthState.BROKEN, reason)
    assert one.record.health.since == NOW


@pytest.mark.parametrize("secret_type", TYPES)
@pytest.mark.parametrize(("what", "reason"), UNREADABLE_AT_ONCE.items())
def test_a_missing_permission_makes_it_unreadable(secret_type, what, reason):
    one = watched(secret_type, [what])
    assert (one.state, one.reason) == (HealthState.UNREADABLE, reason)


@pytest.mark.parametrize("secret_type", TYPES)
@pytest.mark.parametrize(("what", "reason"), BROKEN_WHEN_REPEATED.items())
def test_an_inconclusive_failure_breaks_only_when_repeated_over_time(secret_type, what, reason):
    once = watched(secret_type, [what])
    assert once.state is initial(secret_type).state
    hundred_at_once = watched(secret_type, [what] * 100)
    assert hundred_at_once.state is initial(secret_type).state
    repeated = watched(secret_type, three_nights(what))
    assert (repeated.state, repeated.reason) == (HealthState.BROKEN, reason)
    assert repeated.record.health.since == NOW, "dead since the first failure"


@pytest.mark.parametrize("secret_type", TYPES)
@pytest.mark.parametrize("what", [Observed.READ, Observed.CHANGED])
def test_a_fine_answer_leaves_no_record(secret_type, what):
    assert watched(secret_type, [what]).record is None


@pytest.mark.parametrize("secret_type", TYPES)
def test_an_app_that_accepts_it_makes_it_healthy(secret_type):
    assert watched(secret_type, [Observed.ACCEPTED]).state is HealthState.HEALTHY


@pytest.mark.parametrize("secret_type", TYPES)
@pytest.mark.parametrize("failure", [*BROKEN_AT_ONCE, *UNREADABLE_AT_ONCE, *BROKEN_WHEN_REPEATED])
@pytest.mark.parametrize("success", [Observed.READ, Observed.CHANGED, Observed.ACCEPTED])
def test_a_single_success_answers_what_it_can_answer(secret_type, failure, success):
    one = watched(secret_type, three_nights(failure))
    one.see(success, at=NOW + 4 * DAY).settle(at=NOW + 4 * DAY)
    if failure is Observed.REJECTED:
        healed = success is not Observed.READ  # upstream returns a rejected key as readily as a good one
    else:
        healed = success is not Observed.ACCEPTED  # an access token that works says nothing of the next
    assert (one.state not in (HealthState.BROKEN, HealthState.UNREADABLE)) is healed
    assert one.told[-1].endswith("recovered") is healed


@pytest.mark.parametrize("secret_type", TYPES)
def test_the_listings_error_is_a_hint_only(secret_type):
    one = watched(secret_type, [Observed.LISTED_ERROR] * 50)
    assert one.record is None or one.state is initial(secret_type).state
    assert one.notices == []


def test_it_is_broken_since_the_first_reason_also_when_that_one_is_over():
    one = watched("OA2_AUTHORIZATION_CODE", three_nights(Observed.REJECTED))
    one.see(Observed.REFUSED, at=NOW + 3 * DAY).settle(at=NOW + 3 * DAY)
    one.see(Observed.ACCEPTED, at=NOW + 4 * DAY).settle(at=NOW + 4 * DAY)
    assert (one.state, one.reason) == (HealthState.BROKEN, "refused")
    assert one.record.health.since == NOW
    assert one.told == ["credential.broken"]


def test_a_secret_that_is_gone_has_no_record():
    one = watched("API_KEY", three_nights(Observed.REJECTED)).see(Observed.GONE, at=NOW + 9 * DAY)
    assert one.record is None
    assert one.told == ["credential.broken"], "a disconnected app has not recovered"


@pytest.mark.parametrize(
    ("days_left", "state", "reason"),
    [
        (8, HealthState.HEALTHY, "ok"),
        (6.9, HealthState.EXPIRING, "ends_soon"),
        (-1, HealthState.BROKEN, "expired"),
    ],
)
def test_what_cannot_be_renewed_expires(days_left, state, reason):
    one = watched("OA2_AUTHORIZATION_CODE", [Observation(Observed.READ, NOW, NOW + days_left * DAY)])
    assert (one.state, one.reason) == (state, reason)


def test_time_alone_ends_what_cannot_be_renewed():
    one = watched("OA2_AUTHORIZATION_CODE", [Observation(Observed.READ, NOW, NOW + 8 * DAY)])
    for day in range(12):
        one.settle(at=NOW + day * DAY)
    assert one.told == ["credential.expiring", "credential.broken"]
    one.see(Observed.CHANGED, at=NOW + 13 * DAY).settle(at=NOW + 13 * DAY)
    assert one.told[2:] == ["credential.recovered"]
    assert one.record is None


def test_an_end_within_the_clocks_error_has_not_passed():
    one = watched("OA2_AUTHORIZATION_CODE", [Observation(Observed.READ, NOW, NOW - 60)])
    assert one.state is HealthState.EXPIRING


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.permutations([Observed.MASKED, Observed.REFUSED, Observed.EMPTY], 2))
)
def test_what_the_user_must_do_comes_before_what_an_administrator_must(first, second):
    one = Watched().see(first, second).settle()
    expected = HealthState.BROKEN if Observed.REFUSED in (first, second) else HealthState.UNREADABLE
    assert one.state is expected


@pytest.mark.parametrize(
    ("seconds_left", "state"),
    [
        (POLICY.expiring_seconds + 1, HealthState.HEALTHY),
        (POLICY.expiring_seconds, HealthState.EXPIRING),
        (1 - POLICY.skew_seconds, HealthState.EXPIRING),
        (-POLICY.skew_seconds, HealthState.BROKEN),
    ],
)
def test_it_expires_to_the_second(seconds_left, state):
    one = watched("OA2_AUTHORIZATION_CODE", [Observation(Observed.READ, NOW, NOW + seconds_left)])
    assert one.state is state


def test_it_is_expiring_since_the_period_before_its_end_began():
    one = watched("OA2_AUTHORIZATION_CODE", [Observation(Observed.READ, NOW, NOW + DAY)])
    assert one.record.health.since == NOW + DAY - POLICY.expiring_seconds


def test_it_is_broken_since_the_failures_before_the_refusal():
    one = watched("OA2_AUTHORIZATION_CODE", [Observation(Observed.FAILED, NOW)])
    one.see(Observed.REFUSED, at=NOW + DAY).settle(at=NOW + DAY)
    assert (one.reason, one.record.health.since) == ("refused", NOW)


@pytest.mark.parametrize("last", [Observed.MASKED, Observed.FORBIDDEN])
def test_the_reason_for_unreadable_is_the_latest(last):
    other = Observed.FORBIDDEN if last is Observed.MASKED else Observed.MASKED
    one = Watched().see(last, at=NOW).see(other, at=NOW + 1).see(last, at=NOW + 2).settle(at=NOW + 2)
    assert (one.reason, one.record.health.since) == (last.value, NOW)


def test_a_failure_that_is_not_judged_yet_shows():
    one = Watched().see(Observed.FAILED)
    assert (one.state, one.reason, one.record.health.since) == (HealthState.HEALTHY, "refresh_failing", NOW)


def test_a_rejection_at_the_moment_of_a_change_is_about_the_old_value():
    one = Watched("API_KEY").see(Observed.ACCEPTED, at=NOW)
    assert one.see(Observed.REJECTED, at=NOW).reason == "ok"
    assert one.see(Observed.REJECTED, at=NOW + 1).reason == "rejections_seen"
