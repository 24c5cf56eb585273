"""What of a listing is worth fetching, and what can be left as it is stored: pure rules."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import ApiKeySecret, ApiKeyValue, DeltaPolicy, OAuth2Secret, OAuth2Value
from flowmate_async.sync.plan import Plan
from flowmate_async.values.models import SecretSummary, SummaryValue

NOW = 1_800_000_000.0
HOUR = 3600.0
OAUTH, KEY = "OA2_AUTHORIZATION_CODE", "API_KEY"


def at(seconds):
    return (datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)).isoformat()


def oauth(left=10 * HOUR, **fields):
    return SecretSummary(id="s", type=OAUTH, value=SummaryValue(expires=at(left)), **fields)


def key(**fields):
    return SecretSummary(id="s", type=KEY, **fields)


def token(left=10 * HOUR):
    return OAuth2Secret(id="s", value=OAuth2Value(access_token="t", expires=at(left)))


API_KEY = ApiKeySecret(id="s", value=ApiKeyValue(key="k"))


def after(summary, secret, *, policy=None, then=NOW):
    """What a checkpoint keeps once this was fetched."""
    plan = Plan(policy or DeltaPolicy())
    assert plan.wants(summary, now=then)
    plan.fetched(summary, secret, now=then)
    return plan.seen()


def why(summary, seen, *, later=0.0, **policy):
    plan = Plan(DeltaPolicy(**policy), seen)
    if plan.wants(summary, now=NOW + later):
        (reason,) = plan.reasons
        return reason
    return plan.left["s"]


def test_what_was_never_seen_is_new():
    assert why(key(), "") == "new"
    assert why(key(), "{}") == "new"


@pytest.mark.parametrize(("summary", "secret"), [(key(), API_KEY), (oauth(), token())], ids=[KEY, OAUTH])
def test_what_shows_no_change_is_left_until_it_is_old(summary, secret):
    seen = after(summary, secret)
    assert why(summary, seen, later=HOUR) == "unchanged"
    assert why(summary, seen, later=13 * HOUR) in ("old", "due")
    assert why(summary, seen, later=HOUR, staleness_seconds=0) == "old"
    assert why(summary, seen, later=HOUR, staleness_by_type={summary.type: 60.0}) == "old"
    assert why(summary, seen, later=HOUR, staleness_by_type={"SIMPLE": 60.0}) == "unchanged"
    assert why(summary, seen, later=HOUR, full=True) == "old"


def test_a_clock_that_went_back_makes_it_old():
    """Or a sync with a clock ahead would leave everything alone for as long as it was."""
    assert why(key(), after(key(), API_KEY, then=NOW + 9 * HOUR), later=0.0) == "old"


def test_an_expiry_that_moved_tells_of_a_new_token():
    assert why(oauth(11 * HOUR), after(oauth(), token())) == "changed"


def test_the_refresh_that_a_sync_itself_caused_is_no_change():
    """The listing was older than the answer."""
    assert why(oauth(), after(oauth(60), token()), later=60) == "unchanged"


def test_what_upstream_would_refresh_is_due():
    assert why(oauth(600), after(oauth(600), token(600)), later=60) == "due"


def test_a_refresh_that_has_failed_since_is_looked_at_once():
    """Upstream never clears the error, so the same one again says nothing new."""
    failed = oauth(current_error={"message": "no grant"})
    seen = after(oauth(), token())
    assert why(failed, seen) == "errored"
    assert why(failed, after(failed, token())) == "unchanged"
    assert why(oauth(current_error={"message": "other"}), after(failed, token())) == "errored"
    assert "no grant" not in after(failed, token())


def test_a_failed_refresh_is_skipped_until_a_change_or_staleness():
    summary = oauth(-60, current_error="x")
    plan = Plan(DeltaPolicy())
    assert plan.wants(summary, now=NOW)
    plan.failed(summary, now=NOW)
    assert why(summary, plan.seen(), later=HOUR) == "failed_before"
    assert why(oauth(10 * HOUR, current_error="x"), plan.seen()) == "changed"
    assert why(summary, plan.seen(), later=13 * HOUR) == "old"


def test_what_failed_otherwise_is_tried_again_for_the_same_reason():
    plan = Plan(DeltaPolicy(), after(oauth(), token()))
    assert plan.wants(oauth(11 * HOUR), now=NOW)
    assert why(oauth(11 * HOUR), plan.seen()) == "changed"


def test_what_came_masked_is_wanted_until_it_comes_in_clear():
    """Also a secret that was stored before the permission was taken away."""
    plan = Plan(DeltaPolicy(), after(key(), API_KEY))
    plan.masked(key(), now=NOW)
    plan = Plan(DeltaPolicy(), plan.seen())
    assert plan.was_masked
    assert plan.wants(key(), now=NOW + HOUR)
    plan.fetched(key(), API_KEY, now=NOW + HOUR)
    again = Plan(DeltaPolicy(), plan.seen())
    assert not again.was_masked
    assert not again.wants(key(), now=NOW + 2 * HOUR)


class TestNames:
    def renamed(self, summary, seen, **policy):
        plan = Plan(DeltaPolicy(**policy), seen)
        assert not plan.wants(summary, now=NOW)
        return plan.left["s"], plan.renamed, plan.seen()

    def test_a_new_name_is_stored_once(self):
        seen = after(key(name="old"), API_KEY)
        left, renamed, seen = self.renamed(key(name="new"), seen)
        assert (left, renamed) == ("renamed", {"s": "new"})
        assert self.renamed(key(name="new"), seen)[:2] == ("unchanged", {})

    @pytest.mark.parametrize("name", [None, "old"])
    def test_no_name_and_the_same_name_change_nothing(self, name):
        assert self.renamed(key(name=name), after(key(name="old"), API_KEY))[:2] == ("unchanged", {})

    def test_an_unknown_earlier_name_is_only_noted(self):
        """Checkpoints of earlier versions have none: their secrets are not all written again."""
        earlier = f'{{"s":[{NOW},"","",false]}}'
        left, renamed, seen = self.renamed(key(name="any"), earlier)
        assert (left, renamed) == ("unchanged", {})
        assert self.renamed(key(name="new"), seen)[1] == {"s": "new"}

    def test_a_secret_left_for_another_reason_is_renamed_as_well(self):
        seen = after(oauth(600, name="old"), token(600))
        left, renamed, _ = self.renamed(oauth(600, name="new"), seen, skip_volatile=True)
        assert (left, renamed) == ("volatile", {"s": "new"})

    def test_a_failed_refresh_keeps_the_name_that_is_stored(self):
        plan = Plan(DeltaPolicy(), after(oauth(600, name="old"), token(600)))
        assert plan.wants(oauth(600, name="new"), now=NOW)
        assert not plan.renamed, "it is fetched, with its name"
        plan.failed(oauth(600, name="new"), now=NOW)
        assert self.renamed(oauth(600, name="new"), plan.seen())[:2] == ("failed_before", {"s": "new"})


def test_volatile_ones_can_be_left_to_the_workers():
    assert why(oauth(600), "", skip_volatile=True) == "volatile"
    assert why(SecretSummary(id="s", type="SESSION_AUTH"), "", skip_volatile=True, full=True) == "volatile"
    assert why(key(), "", skip_volatile=True) == "new"


@given(st.text(max_size=40) | st.sampled_from(['{"s":1}', '{"s":[]}', "[]", '{"s":["x"]}']))
def test_whatever_a_checkpoint_keeps_the_worst_is_fetching_once_more(seen):
    assert why(key(), seen) in ("new", "changed", "old", "unchanged", "errored")
