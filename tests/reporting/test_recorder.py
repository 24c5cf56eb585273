"""The recorder: exact sums and bounded memory, however long it watches."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flowmate_async import FlowMate, open_store
from flowmate_async.events import Answered, Retried, Throttled, UserNotStored, UserStored
from flowmate_async.reporting.recorder import Recorder, recording
from flowmate_async.stats import StatsListener

EVENTS = (
    Answered("GET /secrets/", 200, 0.01),
    Answered("GET /secrets/{id}", 500, 2.0),
    UserStored("ali", 3, 0.5),
    UserNotStored("bob", "protocol", "m"),
    Retried("GET /secrets/", "protocol", 0.1),
    Throttled(1.0),
)


@pytest.fixture(scope="module")
def traffic():
    """How a fresh client's traffic stands."""

    async def fresh():
        async with FlowMate(admin_token="t", base_url="http://127.0.0.1:9") as fm:
            return fm.stats()

    return asyncio.run(fresh())


@given(st.lists(st.lists(st.sampled_from(EVENTS), max_size=5), max_size=200), st.sampled_from([2, 4, 10]))
def test_what_happened_adds_up_and_time_moves_on(traffic, slices, most):
    """Every event is in exactly one sample, whatever was merged; the last sample ends now."""
    listener, now = StatsListener(), 0.0

    def stats():
        return listener.snapshot(transport="", traffic=traffic.traffic, cache=traffic.cache, flights={})

    recorder = Recorder(stats, monotonic=lambda: now, most=most, step_seconds=1.0)
    for happened in slices:
        now += recorder.step_seconds
        for event in happened:
            listener(event)
        recorder.sample()
        assert len(recorder.observation().samples) < most or most == 2
    samples = recorder.observation().samples
    told = [event for happened in slices for event in happened]

    def count(*kinds):
        return sum(isinstance(event, kinds) for event in told)

    assert sum(sample.requests for sample in samples) == count(Answered)
    assert sum(sample.synced for sample in samples) == count(UserStored)
    assert sum(sample.failed for sample in samples) == count(UserNotStored)
    assert sum(sample.retries for sample in samples) == count(Retried)
    assert sum(sample.throttled for sample in samples) == count(Throttled)
    ends = [sample.at_seconds for sample in samples]
    assert ends == sorted(set(ends))
    assert not slices or ends[-1] == now


@pytest.mark.anyio
async def test_a_sync_is_watched_to_its_end(sandbox, fm):
    async with open_store("memory:") as store:
        with recording(fm.stats) as recorder:
            report = await fm.sync(store)
    seen = recorder.observation()
    assert sum(sample.synced for sample in seen.samples) == report.synced == 20
    assert sum(sample.requests for sample in seen.samples) == report.requests + 1
    assert sum(sum(statuses.values()) for statuses in seen.answers.values()) == report.requests + 1
    assert (seen.rate, seen.concurrency) == (None, 64)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("open", "closed", "open"),
        ("closed", "open", "open"),
        ("half-open", "closed", "half-open"),
        ("open", "half-open", "half-open"),
        ("closed", "closed", "closed"),
    ],
)
def test_merged_samples_keep_the_worse_state_and_the_tighter_limits(traffic, first, second, merged):
    """Two samples become one: an open breaker stays visible, limits are the lowest, loads the highest."""
    listener, now = StatsListener(), 0.0
    breaker, rate, concurrency, in_flight, waiting = first, 10.0, 8, 1, 5

    def stats():
        limiter = replace(
            traffic.traffic.limiter, current_rate=rate, current_concurrency=concurrency, waiting=waiting
        )
        shown = replace(
            traffic.traffic,
            limiter=limiter,
            in_flight=in_flight,
            breaker=replace(traffic.traffic.breaker, state=breaker),
        )
        return listener.snapshot(transport="", traffic=shown, cache=traffic.cache, flights={})

    recorder = Recorder(stats, monotonic=lambda: now, most=2, step_seconds=1.0)
    now = 1.0
    recorder.sample()
    now, breaker, rate, concurrency, in_flight, waiting = 2.0, second, 20.0, 4, 3, 2
    recorder.sample()
    [sample] = recorder.observation().samples
    assert (sample.at_seconds, sample.breaker, sample.rate, sample.concurrency) == (2.0, merged, 10.0, 4)
    assert (sample.in_flight, sample.waiting) == (3, 5)
