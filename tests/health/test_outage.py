"""During a provider's outage, users are not asked to reconnect."""

from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.health.outage import Renewals
from tests.health.observing import DAY, NOW, POLICY


def counted(succeeded, failed, *, ongoing=()):
    renewals = Renewals(POLICY, ongoing=ongoing)
    for client, at in succeeded:
        renewals.succeeded(client, at=at)
    for client, at in failed:
        renewals.failed(client, at=at)
    return renewals


@given(
    st.integers(POLICY.outage_credentials, 500),
    st.lists(st.tuples(st.floats(0, 3600), st.booleans()), max_size=40),
    st.integers(0, 10),
)
def test_when_a_whole_client_fails_every_failure_is_covered(users, others, slow_minutes):
    at = [NOW + number * slow_minutes * 60 / users for number in range(users)]
    healthy = [("other", NOW + offset) for offset, _ in others]
    found = counted(healthy, [("client", moment) for moment in at])
    assert all(found.are_outage("client", at=moment) for moment in at)


@given(st.integers(1, 400), st.data())
def test_a_few_failures_among_many_successes_are_not_an_outage(failures, data):
    successes = failures + data.draw(st.integers(1, 1000))
    found = counted([("client", NOW)] * successes, [("client", NOW)] * failures)
    assert not found.are_outage("client", at=NOW)


def test_few_credentials_are_not_an_outage():
    found = counted([], [("client", NOW)] * (POLICY.outage_credentials - 1))
    assert not found.are_outage("client", at=NOW)


def test_an_outage_covers_its_own_time_and_client_only():
    good = [("client", NOW + DAY)] * 20 + [("other", NOW)] * 20
    found = counted(good, [("client", NOW)] * 10 + [("client", NOW + DAY), ("other", NOW)])
    assert found.are_outage("client", at=NOW)
    assert not found.are_outage("client", at=NOW + DAY)
    assert not found.are_outage("other", at=NOW)
    assert not found.are_outage(None, at=NOW)


def test_an_outage_in_the_middle_of_a_slow_run_is_found():
    """An hour of failures in a run of six hours is a sixth of the renewals, and still an outage."""
    every_minute = [NOW + 60 * minute for minute in range(360)]
    down = every_minute[120:180]
    found = counted([("c", at) for at in every_minute if at not in down], [("c", at) for at in down])
    assert sum(found.are_outage("c", at=at) for at in down) >= len(down) - 15
    assert found.are_outage("c", at=down[30])


def test_many_clients_failing_together_are_an_outage_of_flowmate():
    found = counted([], [(f"client-{number}", NOW) for number in range(8)] + [(None, NOW)])
    assert found.are_outage("client-3", at=NOW)
    assert found.are_outage(None, at=NOW)


def test_an_outage_does_not_flicker_at_the_limit():
    failed, good = [("client", NOW)] * 6, [("client", NOW)] * 8 + [("other", NOW)] * 30
    assert not counted(good, failed).are_outage("client", at=NOW)
    assert counted(good, failed, ongoing=["client"]).are_outage("client", at=NOW)
    over = [("client", NOW)] * 30 + [("other", NOW)] * 30
    assert not counted(over, failed, ongoing=["client"]).are_outage("client", at=NOW)
