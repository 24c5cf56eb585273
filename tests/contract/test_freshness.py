"""Fresh, stale or expired: pure decisions from dates, for every type of secret."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowmate_async.contract.freshness import FreshnessPolicy, State, Timeline, may_refresh, timeline
from flowmate_async.values.models import SecretSummary, SummaryValue
from flowmate_async.values.secrets import (
    ApiKeySecret,
    ApiKeyValue,
    MixedSecret,
    MixedValue,
    OAuth1Secret,
    OAuth1Value,
    OAuth2Secret,
    OAuth2Value,
    SessionSecret,
    SessionValue,
    SimpleSecret,
    SimpleValue,
    UnknownSecret,
)

WALL = 1_800_000_000.0
MONOTONIC = 5_000.0
POLICY = FreshnessPolicy()
SKEW = POLICY.skew_seconds

jitters = st.floats(0, 1)
lives = st.floats(0.01, 10**7)
moments = st.floats(-(10**4), 10**7)
needs = st.floats(0, 10**5)


def expiring(seconds, kind=OAuth2Secret):
    """A credential that ends so many seconds after ``WALL``, by its own ``expires`` and without the skew."""
    expires = datetime.fromtimestamp(WALL + seconds + SKEW, UTC).isoformat()
    value = OAuth2Value if kind is OAuth2Secret else SessionValue
    return kind(id="s", value=value(access_token="t", expires=expires))


def made(secret, jitter=0.5, policy=POLICY):
    return timeline(secret, wall=WALL, monotonic=MONOTONIC, jitter=jitter, policy=policy)


def after(seconds, line, need=0.0):
    """The state so long after it was fetched, both clocks running well."""
    return line.state(wall=WALL + seconds, monotonic=MONOTONIC + seconds, min_valid_seconds=need)


STATIC = {
    "SIMPLE": SimpleSecret(id="s", value=SimpleValue(passphrase="p")),
    "API_KEY": ApiKeySecret(id="s", value=ApiKeyValue(key="k")),
    "MIXED": MixedSecret(id="s", value=MixedValue(payload="p")),
    "an unknown type": UnknownSecret(id="s", kind="OF_TOMORROW", value={"a": 1}),
}
SESSION = SessionSecret(id="s", value=SessionValue(access_token="t"))


@given(lives, jitters, moments, needs)
def test_a_credential_is_served_exactly_while_it_lasts_as_long_as_is_needed(life, jitter, moment, need):
    """Expired at its end, or when less is left than the caller needs; and in no other case."""
    remaining = life - moment
    assume(abs(remaining - need) > 1e-3)
    assume(abs(remaining) > 1e-3)
    state = after(moment, made(expiring(life), jitter), need)
    assert (state is State.EXPIRED) == (remaining < need or remaining <= 0)


@given(lives, jitters)
def test_the_advisory_window_is_12_to_14_minutes_and_at_most_half_the_life(life, jitter):
    line = made(expiring(life), jitter)
    early = line.valid_until_wall - line.refresh_at_wall
    assert early <= life / 2 + 1e-3
    if life >= 28 * 60 + 1:
        assert 12 * 60 - 1e-3 <= early <= 14 * 60 + 1e-3


@given(lives, jitters)
def test_an_early_refresh_comes_when_upstream_would_refresh(life, jitter):
    """Upstream refreshes below 15 minutes only; earlier, the answer would bring nothing."""
    line = made(expiring(life), jitter)
    assert WALL + life + SKEW - line.refresh_at_wall < 15 * 60


@given(lives, jitters, moments, needs)
def test_it_is_stale_from_the_beginning_of_its_window_on(life, jitter, moment, need):
    line = made(expiring(life), jitter)
    state = after(moment, line, need)
    assume(abs(WALL + moment - line.refresh_at_wall) > 1e-3)
    assert (state is State.FRESH) == (state is not State.EXPIRED and WALL + moment < line.refresh_at_wall)


@given(lives, jitters, st.floats(0, 10**5), st.floats(0, 10**5), needs)
def test_it_never_becomes_fresher_by_waiting(life, jitter, sooner, longer, need):
    order = [State.FRESH, State.STALE, State.EXPIRED]
    line = made(expiring(life), jitter)
    one, other = (after(moment, line, need) for moment in sorted((sooner, sooner + longer)))
    assert order.index(one) <= order.index(other)


@given(lives, jitters, st.floats(-(10**6), 10**6), st.floats(0, 10**6), needs)
def test_a_wall_clock_that_jumps_never_makes_an_ended_credential_look_valid(life, jitter, jump, moment, need):
    """Either clock may be wrong: a credential that is expired by one of them is expired."""
    line = made(expiring(life), jitter)
    state = line.state(wall=WALL + moment + jump, monotonic=MONOTONIC + moment, min_valid_seconds=need)
    if moment >= life + 1e-3:
        assert state is State.EXPIRED
    if moment + jump >= life + 1e-3:
        assert state is State.EXPIRED


@given(lives, jitters, st.floats(0, 10**6), needs)
def test_a_monotonic_clock_that_stood_still_extends_no_credential(life, jitter, asleep, need):
    """A machine that slept: wall time went on, monotonic time did not."""
    line = made(expiring(life), jitter)
    if asleep >= life + 1e-3:
        state = line.state(wall=WALL + asleep, monotonic=MONOTONIC, min_valid_seconds=need)
        assert state is State.EXPIRED


@given(jitters, st.floats(0, 300))
def test_the_skew_allowance_ends_a_credential_earlier(jitter, skew):
    policy = FreshnessPolicy(skew_seconds=skew)
    line = made(expiring(3600 - SKEW), jitter, policy)
    assert line.valid_until_wall == pytest.approx(WALL + 3600 - skew, abs=1e-3)
    assert line.valid_until_monotonic == pytest.approx(MONOTONIC + 3600 - skew, abs=1e-3)


@pytest.mark.parametrize("kind", [OAuth2Secret, SessionSecret])
def test_oauth_and_sessions_with_a_date_end_by_it(kind):
    line = made(expiring(3600, kind))
    assert line.valid_until_wall == pytest.approx(WALL + 3600, abs=1e-3)
    assert after(3599, line) is State.STALE
    assert after(3601, line) is State.EXPIRED


@pytest.mark.parametrize("secret", STATIC.values(), ids=STATIC)
def test_what_has_no_end_is_served_for_ever_and_fetched_again_after_its_time(secret):
    line = made(secret)
    ttl = POLICY.static_ttl_seconds
    assert after(0.89 * ttl, line, need=10**9) is State.FRESH
    assert after(1.01 * ttl, line, need=10**9) is State.STALE
    assert after(1000 * ttl, line, need=10**9) is State.STALE


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 1.0), (0.5, 0.95), (1.0, 0.9)])
@pytest.mark.parametrize("secret", STATIC.values(), ids=STATIC)
def test_what_has_no_end_is_fetched_again_at_its_own_time(secret, jitter, share):
    """By either clock. What was fetched together is not fetched again together."""
    line, seconds = made(secret, jitter), share * POLICY.static_ttl_seconds
    assert line.refresh_at_wall == pytest.approx(WALL + seconds)
    assert line.refresh_at_monotonic == pytest.approx(MONOTONIC + seconds)


@given(jitters)
def test_a_session_without_a_date_is_never_stale_and_ends_with_its_time(jitter):
    """Fetching one logs in, so it is never refreshed early."""
    line = made(SESSION, jitter)
    assert after(0.999 * POLICY.session_ttl_seconds, line) is State.FRESH
    assert after(1.001 * POLICY.session_ttl_seconds, line) is State.EXPIRED
    assert math.isinf(line.refresh_at_wall)
    assert math.isinf(line.refresh_at_monotonic)


@given(st.floats(-(10**6), 0), jitters, needs)
def test_an_answer_that_has_ended_is_expired_at_once(life, jitter, need):
    assert after(0, made(expiring(life), jitter), need) is State.EXPIRED


def test_a_date_beyond_the_calendar_is_fresh_for_centuries():
    secret = OAuth2Secret(id="s", value=OAuth2Value(access_token="t", expires="33658-09-27T01:46:40+00:00"))
    assert after(10**9, made(secret)) is State.FRESH


class TestBoundaries:
    """Of two clocks, the earlier one counts, and each moment belongs to what comes next."""

    LINE = Timeline(100.0, 1100.0, 200.0, 1200.0)

    @pytest.mark.parametrize(
        ("wall", "monotonic", "need", "state"),
        [
            (99.9, 1099.9, 0.0, State.FRESH),
            (100.0, 1099.9, 0.0, State.STALE),
            (99.9, 1100.0, 0.0, State.STALE),
            (150.0, 1150.0, 50.0, State.STALE),
            (150.0, 1150.0, 50.1, State.EXPIRED),
            (150.0, 1199.0, 1.0, State.STALE),
            (150.0, 1199.0, 1.1, State.EXPIRED),
            (199.9, 1150.0, 0.0, State.STALE),
            (200.0, 1150.0, 0.0, State.EXPIRED),
            (150.0, 1200.0, 0.0, State.EXPIRED),
        ],
    )
    def test_states(self, wall, monotonic, need, state):
        assert self.LINE.state(wall=wall, monotonic=monotonic, min_valid_seconds=need) is state

    def test_a_static_one_is_refreshed_a_little_earlier_by_its_jitter(self):
        for jitter, seconds in ((0.0, 3600.0), (1.0, 3240.0)):
            line = made(STATIC["API_KEY"], jitter)
            assert line == Timeline(WALL + seconds, MONOTONIC + seconds, math.inf, math.inf, math.inf)

    @pytest.mark.parametrize(("life", "early"), [(100_000, 780.0), (1000, 500.0), (0, 0.0), (-5, 0.0)])
    def test_one_that_ends_is_refreshed_early_by_at_most_half_its_life(self, life, early):
        """13 minutes at a jitter of a half; after that it is certainly valid for as long."""
        line = made(expiring(life))
        assert line.refresh_at_wall == pytest.approx(WALL + life - early)
        assert line.refresh_at_monotonic == pytest.approx(MONOTONIC + life - early)
        assert (line.valid_until_wall, line.valid_until_monotonic) == pytest.approx(
            (WALL + life, MONOTONIC + life)
        )
        assert line.margin_seconds == pytest.approx(early)

    @pytest.mark.parametrize(
        ("secret", "seconds"),
        [
            (SESSION, 60.0),
            (OAuth2Secret(id="s", value=OAuth2Value(access_token="t")), 70.0),
            (OAuth1Secret(id="s", value=OAuth1Value(expires_at="odd")), 70.0),
            (OAuth1Secret(id="s", value=OAuth1Value(expires="odd")), 70.0),
            (OAuth1Secret(id="s", value=OAuth1Value()), math.inf),
            (UnknownSecret(id="s", kind="OF_TOMORROW", value={"expires": "odd"}), 70.0),
            (UnknownSecret(id="s", kind="OF_TOMORROW", value={"ends": "odd"}), math.inf),
            (UnknownSecret(id="s", kind="OF_TOMORROW", value="expires"), math.inf),
        ],
    )
    def test_how_long_one_of_unknown_end_is_used(self, secret, seconds):
        policy = FreshnessPolicy(session_ttl_seconds=60.0, oauth_ttl_seconds=70.0)
        line = made(secret, policy=policy)
        assert (line.valid_until_wall, line.valid_until_monotonic) == (WALL + seconds, MONOTONIC + seconds)

    @pytest.mark.parametrize(
        ("kind", "left", "may"),
        [
            ("API_KEY", None, False),
            ("SESSION_AUTH", None, True),
            ("OA2_AUTHORIZATION_CODE", 1019.0, True),
            ("OA2_AUTHORIZATION_CODE", 1020.0, False),
            ("OA2_AUTHORIZATION_CODE", 1020.5, False),
        ],
    )
    def test_whether_a_get_may_refresh(self, kind, left, may):
        """Upstream's 15 minutes, and 2 minutes of disagreement between two clocks."""
        expires = None if left is None else datetime.fromtimestamp(WALL + left, UTC).isoformat()
        summary = SecretSummary(id="s", type=kind, value=SummaryValue(expires=expires))
        assert may_refresh(summary, now=WALL) is may
