"""What holds for every history of a credential: no false alarms, hysteresis, each change told once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async.health import HealthState
from flowmate_async.health.decide import initial
from flowmate_async.health.evidence import Evidence, add
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.records import Sighting, observed
from tests.health.observing import (
    DAY,
    INCONCLUSIVE,
    NOW,
    POLICY,
    Watched,
    failures,
    observations,
    types,
)


@given(types, st.lists(failures, max_size=12), st.randoms())
def test_the_order_of_failures_does_not_matter(secret_type, seen, random):
    shuffled = list(seen)
    random.shuffle(shuffled)
    evidence = other = Evidence()
    for one, another in zip(seen, shuffled, strict=True):
        evidence, other = add(evidence, one), add(other, another)
    assert evidence == other


@given(types, st.lists(st.tuples(observations, st.booleans()), max_size=20))
def test_another_value_always_heals(secret_type, history):
    one = Watched(secret_type)
    for observation, outage in history:
        one.see(observation).settle(outage=outage)
    one.see(Observed.CHANGED, at=NOW + 90 * DAY).settle(at=NOW + 90 * DAY)
    assert one.record is None


@given(types, st.lists(st.lists(st.sampled_from(INCONCLUSIVE), max_size=30), max_size=10))
def test_troubles_shorter_than_an_outage_never_break(secret_type, blips):
    """Whatever fails inconclusively for under an hour at a time, and works in between, is never broken."""
    one, at = Watched(secret_type), NOW
    for blip in blips:
        for number, what in enumerate(blip):
            one.see(what, at=at + number * 100).settle(at=at + number * 100)
        at += DAY
        one.see(Observed.CHANGED, at=at).settle(at=at)
    assert one.notices == []


@given(types, st.lists(st.sampled_from([Observed.REFUSED, Observed.FAILED, Observed.HUNG]), max_size=30))
def test_failures_within_outages_count_for_nothing(secret_type, failing):
    one = Watched(secret_type)
    for day, what in enumerate(failing):
        one.see(what, at=NOW + day * DAY).settle(outage=True, at=NOW + day * DAY)
        assert one.state is HealthState.PROVIDER_OUTAGE
    one.see(Observed.FAILED, at=NOW + 100 * DAY).settle(at=NOW + 100 * DAY)
    assert one.state is initial(secret_type).state
    assert one.notices == []


@given(st.lists(st.tuples(failures, st.booleans()), max_size=20))
def test_broken_stays_broken_until_a_success(later):
    one = Watched().see(Observed.REFUSED, at=NOW - DAY).settle(at=NOW - DAY)
    for observation, outage in later:
        one.see(observation).settle(outage=outage)
        assert one.state is HealthState.BROKEN
        assert (one.reason, one.record.health.since) == ("refused", NOW - DAY)
    assert one.told == ["credential.broken"]


def test_a_success_followed_by_an_outage_is_told_as_recovered_after_it():
    one = Watched().see(Observed.REFUSED, at=NOW).settle(at=NOW)
    one.see(Observed.READ, at=NOW + DAY).see(Observed.REFUSED, at=NOW + DAY + 60)
    one.settle(outage=True, at=NOW + DAY + 60)
    assert (one.state, one.told) == (HealthState.PROVIDER_OUTAGE, ["credential.broken"])
    one.see(Observed.READ, at=NOW + 2 * DAY).settle(at=NOW + 2 * DAY)
    assert one.told == ["credential.broken", "credential.recovered"]


@given(types, st.lists(st.tuples(observations, st.booleans(), st.booleans()), max_size=40))
def test_every_change_is_told_once(secret_type, history):
    one = Watched(secret_type)
    for number, (observation, settles, outage) in enumerate(history):
        one.see(observation, at=NOW + 100 * DAY + number)
        if settles:
            one.settle(outage=outage, at=NOW + 100 * DAY + number)
    for before, after in zip(one.told, one.told[1:], strict=False):
        assert before != after, "told twice"
    if one.told:
        assert one.told[0] != "credential.recovered", "recovered from something that nobody was told"
        fine = one.record is None or one.record.told is None
        assert (one.told[-1] == "credential.recovered") is fine
    assert len({notice.id for notice in one.notices}) == len(one.notices)


@settings(max_examples=10 * settings().max_examples)
@given(types, st.lists(observations, max_size=20))
def test_the_hint_never_changes_a_state(secret_type, history):
    with_hints, without = Watched(secret_type), Watched(secret_type)
    for observation in history:
        with_hints.see(Observation(Observed.LISTED_ERROR, NOW), observation).settle()
        without.see(*([] if observation.what is Observed.LISTED_ERROR else [observation])).settle()
        assert with_hints.told == without.told
        if without.record is not None:
            assert with_hints.state is without.state


@given(types, st.lists(failures, min_size=1, max_size=8))
def test_a_failure_that_arrives_after_a_later_success_is_ignored(secret_type, late):
    one = Watched(secret_type).see(Observed.CHANGED, Observed.ACCEPTED, at=NOW + 40 * DAY)
    state = one.state
    for observation in late:
        one.see(observation).settle()
    assert one.state is state
    assert one.notices == []


def test_a_credential_that_keeps_working_needs_no_write():
    ends = Observation(Observed.READ, NOW, NOW + 90 * DAY)
    one = Watched().see(ends)
    again = Observation(Observed.READ, NOW + DAY, NOW + 90 * DAY)
    after = observed(one.record, Sighting(one.credential, (again,)), now=NOW + DAY, policy=POLICY)
    assert after is one.record
    fine = Sighting(one.credential, (Observation(Observed.READ, NOW),))
    assert observed(None, fine, now=NOW, policy=POLICY) is None
