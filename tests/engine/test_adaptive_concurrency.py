"""Concurrency shrinks when an upstream queues, and for no other reason; it comes back."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import BulkheadPolicy, FlowPolicy
from flowmate_async.engine.adaptive_concurrency import AdaptiveConcurrency
from flowmate_async.events import ConcurrencyChanged

pytestmark = pytest.mark.anyio


def limit_of(fm):
    return fm.stats().traffic.limiter.current_concurrency


async def brought_within(upstream, seconds):
    """Answers a second over the next seconds."""
    before = upstream.answered
    await asyncio.sleep(seconds)
    return (upstream.answered - before) / seconds


class Sweeping:
    """A client in the midst of a sweep without end."""

    def __init__(self, fm):
        self.fm = fm

    async def __aenter__(self):
        await self.fm.__aenter__()
        self.task = asyncio.create_task(self.sweep())
        return self.fm

    async def sweep(self):
        async for _ in self.fm.sweep(f"user-{number}" for number in range(10**9)):
            pass

    async def __aexit__(self, *exception):
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.fm.__aexit__(*exception)


async def test_a_queueing_upstream_is_given_less_to_do_at_once_and_does_as_much(queueing, client):
    """20 places of 100 ms: with 128 in flight each waits six times as long for the same throughput."""
    upstream, changes = queueing(capacity=20, seconds=0.1), []
    async with Sweeping(client(upstream, rate=None, concurrency=128, on_event=changes.append)) as fm:
        await asyncio.sleep(30)
        upstream.most_inside = 0
        brought = await brought_within(upstream, 30)
        assert upstream.most_inside <= 64
        assert brought >= 0.95 * 20 / 0.1
        assert limit_of(fm) <= 64
    assert any(isinstance(event, ConcurrencyChanged) for event in changes)


async def test_it_comes_back_when_upstream_has_more_places(queueing, client):
    upstream = queueing(capacity=20, seconds=0.1)
    async with Sweeping(client(upstream, rate=None, concurrency=128)) as fm:
        await asyncio.sleep(30)
        assert limit_of(fm) <= 64
        upstream.widen(1000)
        await asyncio.sleep(40)
        assert limit_of(fm) == 128


async def test_an_upstream_that_became_slower_is_not_mistaken_for_a_queueing_one(queueing, client):
    """Latency has trebled for everybody: fewer at once would only bring less."""
    upstream = queueing(capacity=10_000, seconds=0.05)
    async with Sweeping(client(upstream, rate=None, concurrency=64)):
        await asyncio.sleep(5)
        upstream.seconds = 0.15
        await asyncio.sleep(15)
        brought = await brought_within(upstream, 10)
        assert brought >= 0.95 * 64 / 0.15


async def test_what_the_rate_holds_back_changes_nothing(queueing, client):
    upstream = queueing(capacity=10_000, seconds=0.05)
    async with Sweeping(client(upstream, rate=100, concurrency=64)) as fm:
        await asyncio.sleep(5)
        upstream.seconds = 0.3
        await asyncio.sleep(30)
        assert limit_of(fm) == 64


async def test_how_long_a_provider_takes_to_refresh_is_not_upstreams_latency(provider, client):
    """Refreshes fill every place and take ever longer; FlowMate itself is as quick as before."""

    class Upstream(provider):
        async def __call__(self, method, path, headers, body):
            await asyncio.sleep(0.05)
            return await super().__call__(method, path, headers, body)

    upstream, changes = Upstream(seconds=0), []
    options = {"concurrency": 32, "bulkhead": BulkheadPolicy(refreshes=1000)}
    async with Sweeping(client(upstream, rate=None, on_event=changes.append, **options)) as fm:
        await asyncio.sleep(10)
        upstream.seconds = 0.5
        await asyncio.sleep(60)
        assert upstream.most_inside == 32
        assert limit_of(fm) == 32
    assert not [event for event in changes if isinstance(event, ConcurrencyChanged)]


async def test_switched_off_it_stays(queueing, client):
    upstream = queueing(capacity=20, seconds=0.05)
    flow = FlowPolicy(adaptive_concurrency=False)
    async with Sweeping(client(upstream, rate=None, concurrency=128, flow=flow)) as fm:
        await asyncio.sleep(20)
        assert limit_of(fm) == 128
        assert upstream.most_inside == 128


answers = st.lists(
    st.tuples(st.floats(0, 20), st.floats(0, 0.5), st.floats(0, 1)),
    min_size=50,
    max_size=400,
)


@given(st.integers(1, 300), answers)
def test_the_limit_stays_between_4_and_the_configured_number(most, seen):
    adaptive, now = AdaptiveConcurrency(most), 0.0
    for seconds, later, occupancy in seen:
        now += later
        before = adaptive.limit
        changed = adaptive.answered([seconds], now=now, occupancy=occupancy)
        assert changed == (adaptive.limit != before)
        assert min(most, 4) <= adaptive.limit <= most
