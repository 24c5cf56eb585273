"""Retries are a tenth of the traffic and a reserve, however much fails and for however long."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowmate_async import BreakerPolicy, RetryPolicy
from flowmate_async.engine.retry_budget import RetryBudget
from flowmate_async.events import RetryRefused
from flowmate_async.testing.memory_transport import json_response

pytestmark = pytest.mark.anyio

NO_BREAKER = BreakerPolicy(failures=10**9)


@given(
    st.floats(0, 1),
    st.integers(0, 50),
    st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.integers(1, 200)), max_size=10),
    st.data(),
)
@example(1.0, 5, [("request", 50), ("retry", 50)], None)
def test_over_any_stretch_there_are_at_most_the_reserve_and_the_share(share, reserve, runs, data):
    """However long nothing failed before: what was not needed is not saved up."""
    budget, granted = RetryBudget(share=share, reserve=reserve), []
    steps = [step for step, times in runs for _ in range(times)]
    for step in steps:
        if step == "request":
            budget.deposit()
        granted.append(step == "retry" and budget.withdraw())
    first = 50 if data is None else data.draw(st.integers(0, len(steps)))
    last = len(steps) if data is None else data.draw(st.integers(first, len(steps)))
    requests = steps[first:last].count("request")
    assert sum(granted[first:last]) <= reserve + share * requests + 1e-6
    statistics = budget.statistics()
    assert (statistics.spent, statistics.refused) == (sum(granted), steps.count("retry") - sum(granted))


def test_the_whole_reserve_can_be_spent():
    budget = RetryBudget(share=0.5, reserve=2)
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()


async def swept(client, upstream, users, **options):
    """The outcomes of a sweep, and the client's statistics."""
    async with client(upstream, rate=None, breaker=NO_BREAKER, **options) as fm:
        outcomes = [outcome async for outcome in fm.sweep(f"user-{number}" for number in range(users))]
        return outcomes, fm.stats()


async def test_an_upstream_that_only_fails_is_not_asked_four_times_as_often(client):
    events = []

    async def upstream(method, path, headers, body):
        return json_response(b"", 503)

    outcomes, stats = await swept(client, upstream, 2000, on_event=events.append)
    requests = sum(stats.statuses.values())
    assert requests <= 2000 * 1.1 + 50
    assert requests >= 2000 * 1.1
    assert sum(stats.retries_refused.values()) == sum(isinstance(event, RetryRefused) for event in events)
    assert stats.traffic.retry_budget.spent == requests - 2000
    assert all(outcome.error.kind == "upstream_unavailable" for outcome in outcomes)


async def test_a_client_with_little_traffic_may_retry(client):
    asked = []

    async def upstream(method, path, headers, body):
        asked.append(method)
        return json_response(b'{"token":"t"}') if len(asked) == 3 else json_response(b"", 503)

    async with client(upstream, rate=None) as fm:
        await fm.impersonate("user")
    assert len(asked) == 3


async def test_a_few_failures_among_much_traffic_are_all_retried(client):
    """Every twentieth request fails: half of what the budget pays for."""
    asked = 0

    async def upstream(method, path, headers, body):
        nonlocal asked
        asked += 1
        if asked % 20 == 0:
            return json_response(b"", 502)
        return json_response(b'{"token":"t"}' if method == "POST" else b'{"data":[],"meta":{"total":0}}')

    outcomes, stats = await swept(client, upstream, 2000)
    assert not [outcome for outcome in outcomes if hasattr(outcome, "error")]
    assert not stats.retries_refused


async def test_being_throttled_costs_nothing_of_it(strict, client, sweep_for):
    async with client(strict(rate=50, burst=5), rate=400, burst=5, retry=RetryPolicy(budget_reserve=1)) as fm:
        assert not await sweep_for(fm, 10)
        stats = fm.stats()
        assert stats.retries["rate_limited"] > 1
        assert stats.traffic.retry_budget.spent == 0


async def test_being_throttled_uses_up_no_attempts(client):
    """Six 429s and two failures are one request's bad day; without the 429s there were three attempts."""
    answers = [429, 429, 503, 429, 429, 429, 503, 429, 200]

    async def upstream(method, path, headers, body):
        return json_response(b'{"token":"t"}', answers.pop(0))

    async with client(upstream, rate=None, retry=RetryPolicy(attempts=3)) as fm:
        await fm.impersonate("user")
    assert not answers
