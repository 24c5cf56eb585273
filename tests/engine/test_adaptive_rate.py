"""A strict limit is fully used without a 429; an unknown limit is found, kept, and outgrown."""

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FlowPolicy, RetryPolicy
from flowmate_async.engine.adaptive_rate import AdaptiveRate
from flowmate_async.engine.bucket import capacity_of
from flowmate_async.events import RateChanged
from flowmate_async.testing.memory_transport import json_response

pytestmark = pytest.mark.anyio

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2))]


class TestTold:
    @pytest.mark.parametrize("rate", [50, 250])
    @pytest.mark.parametrize("seed", SEEDS)
    async def test_at_the_very_limit_all_of_it_is_used_and_nothing_is_throttled(
        self, strict, client, sweep_for, rate, seed
    ):
        """However the requests bunch up on their way: by up to 30 ms."""
        upstream = strict(rate=rate, burst=rate // 10, seed=seed)
        async with client(upstream, rate=rate, burst=rate // 10) as fm:
            await sweep_for(fm, 11)
        passed, throttled = upstream.between(0, 10)
        assert throttled == 0
        assert passed >= 0.98 * 10 * rate

    async def test_a_burst_that_meets_stragglers_is_not_throttled(self, strict, client):
        assert not await self.throttled_in_waves(strict, client)

    async def test_without_slack_it_would_be(self, strict, client, monkeypatch):
        monkeypatch.setattr("flowmate_async.engine.bucket.capacity_of", lambda _rate, burst: burst)
        assert await self.throttled_in_waves(strict, client)

    async def throttled_in_waves(self, strict, client):
        """The 429s of bursts out of full buckets, each with a few requests still on their way before it."""
        upstream = strict(rate=500, burst=50, batch_seconds=0.04)
        async with client(upstream, rate=500, burst=50) as fm, asyncio.TaskGroup() as group:
            for wave in range(20):
                for number in range(60):
                    group.create_task(fm.impersonate(f"user-{wave}-{number}"))
                    await asyncio.sleep(0.025 if number == 9 else 0)
                await asyncio.sleep(0.477)
        return upstream.throttled


@given(st.floats(0.01, 1e5), st.integers(1, 10_000))
def test_at_least_half_of_the_burst_is_sent_with_50_ms_of_slack(rate, burst):
    capacity = capacity_of(rate, burst)
    assert burst / 2 <= capacity <= burst
    assert burst - capacity <= rate * 0.05 + 1
    assert capacity >= 1


class TestUntold:
    @pytest.mark.parametrize("rate", [50, 250])
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("configured", [4, None])
    async def test_the_limit_is_found_within_five_seconds_and_kept_to(
        self, strict, client, sweep_for, rate, seed, configured
    ):
        upstream = strict(rate=rate, burst=rate // 10, seed=seed)
        wanted = None if configured is None else configured * rate
        async with client(upstream, rate=wanted, burst=rate // 10) as fm:
            failed = await sweep_for(fm, 16)
        passed, throttled = upstream.between(5, 15)
        assert passed >= (0.85 if configured else 0.8) * 10 * rate
        assert throttled < 0.02 * (passed + throttled)
        assert not failed, "being throttled is no failure of any user"

    async def test_a_burst_that_upstream_never_takes_is_unlearned(self, strict, client):
        upstream = strict(rate=100, burst=4)
        async with client(upstream, rate=100, burst=64) as fm:
            for wave in range(12):
                await asyncio.gather(*(fm.impersonate(f"user-{wave}-{number}") for number in range(40)))
                await asyncio.sleep(2)
            assert fm.stats().traffic.limiter.burst <= 8
        middle = (upstream.throttled[0] + max(upstream.passed)) / 2
        late = sum(at > middle for at in upstream.throttled)
        assert late < 0.25 * len(upstream.throttled)

    async def test_it_is_outgrown_when_upstream_lifts_it(self, strict, client, sweep_for):
        """Up to the configured rate and not above, which then is the limit as if nothing had been."""
        upstream, events = strict(rate=50, burst=5), []
        async with client(upstream, rate=200, burst=20, on_event=events.append) as fm:
            await sweep_for(fm, 5)
            assert fm.stats().traffic.limiter.current_rate < 100
            upstream.rate = upstream.burst = 10_000
            await sweep_for(fm, 75)
            limiter = fm.stats().traffic.limiter
            assert (limiter.rate, limiter.current_rate, limiter.burst) == (200, 200, 20)
        seen = [event.rate for event in events if isinstance(event, RateChanged)]
        assert max(seen) == seen[-1] == 200
        passed, _ = upstream.between(70, 80)
        assert passed == pytest.approx(2000, rel=0.02)

    async def test_switched_off_the_rate_stays_and_only_the_pause_is_kept(self, strict, client, sweep_for):
        upstream = strict(rate=50, burst=5)
        async with client(upstream, rate=200, burst=5, flow=FlowPolicy(adaptive_rate=False)) as fm:
            await sweep_for(fm, 10)
            assert fm.stats().traffic.limiter.current_rate == 200
        _, throttled = upstream.between(5, 10)
        assert throttled > 3


class TestPauses:
    async def first_ask(self, client, answer, **options):
        """Whether, and until when, a second caller is held when the first one's request is answered so."""
        sent, loop = [], asyncio.get_running_loop()

        async def upstream(method, path, headers, body):
            sent.append(loop.time())
            return answer if len(sent) == 1 else json_response(b'{"token":"t"}')

        async with client(upstream, rate=None, **options) as fm:
            first = asyncio.create_task(fm.impersonate("a"))
            await asyncio.sleep(0.01)
            began = loop.time()
            await fm.impersonate("b")
            held = loop.time() - began
            await first
        return held

    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    async def test_retry_after_holds_everybody_whatever_it_came_with(self, client, status):
        held = await self.first_ask(client, json_response(b"{}", status, retry_after="7"))
        assert 6.9 <= held <= 7.8

    async def test_retry_after_may_be_a_date(self, client):
        class Clock:
            def wall(self):
                return datetime(2026, 1, 1, tzinfo=UTC).timestamp()

            def monotonic(self):
                return asyncio.get_running_loop().time()

            async def sleep(self, seconds):
                await asyncio.sleep(seconds)

        date = "Thu, 01 Jan 2026 00:00:20 GMT"
        held = await self.first_ask(client, json_response(b"{}", 429, retry_after=date), clock=Clock())
        assert 19.9 <= held <= 22.1

    async def test_a_429_without_one_holds_everybody_for_a_moment(self, client):
        held = await self.first_ask(
            client, json_response(b"{}", 429), retry=RetryPolicy(base_seconds=2, cap_seconds=2)
        )
        assert 1.9 <= held <= 2.4

    async def test_a_503_without_one_holds_nobody(self, client):
        assert await self.first_ask(client, json_response(b"{}", 503)) < 0.1

    async def test_processes_do_not_wake_together(self, client):
        """Up to a tenth of the pause is added at random."""
        throttled = json_response(b"", 429, retry_after="10")
        ends = [await self.first_ask(client, throttled) for _ in range(20)]
        assert len({round(end, 2) for end in ends}) > 5
        assert 9.9 <= min(ends) <= max(ends) <= 11.1

    async def test_nobody_wakes_in_a_burst(self, strict, client, sweep_for):
        """Within a process those who wait set off one after the other, at the rate, after every pause."""
        upstream, sent = strict(rate=100, burst=10), []

        async def noted(*request):
            sent.append(asyncio.get_running_loop().time())
            return await upstream(*request)

        async with client(noted, rate=400, burst=10) as fm:
            await sweep_for(fm, 10)
        gaps = [later - earlier for earlier, later in pairwise(sent)]
        pauses = [place for place, gap in enumerate(gaps) if gap >= 0.9]
        assert pauses
        for place in pauses:
            assert min(gaps[place + 1 : place + 6]) > 1 / 400

    async def test_nor_after_a_pause_that_leaves_the_rate_as_it_was(self, client):
        sent = []

        async def upstream(method, path, headers, body):
            sent.append(asyncio.get_running_loop().time())
            return (
                json_response(b"", 503, retry_after="5")
                if len(sent) == 1
                else json_response(b'{"token":"t"}')
            )

        async with client(upstream, rate=100, burst=20) as fm:
            first = asyncio.create_task(fm.impersonate("first"))
            await asyncio.sleep(1)
            await asyncio.gather(first, *(fm.impersonate(f"user-{number}") for number in range(20)))
        assert min(later - earlier for earlier, later in pairwise(sent[1:])) > 0.99 / 100


class TestAlone:
    """The pure room, for what the public face cannot tell apart."""

    @given(
        st.floats(1, 1000) | st.none(),
        st.lists(st.tuples(st.sampled_from(["pass", "throttle", "rest"]), st.floats(0.001, 30)), max_size=60),
    )
    def test_one_throttle_at_most_halves_the_rate(self, configured, steps):
        adaptive, now = AdaptiveRate(configured=configured, burst=10, recovery_seconds=15), 0.0
        for what, seconds in steps:
            now += seconds
            before = adaptive.rate(now)
            if what == "pass":
                adaptive.passed.note([now])
            elif what == "throttle":
                adaptive.throttled(sent_at=now, now=now)
                adaptive.resume(now)
                after = adaptive.rate(now)
                assert after > 0
                assert before is None or 0.44 * before <= after <= 0.91 * before or after < 0.0091
            rate = adaptive.rate(now)
            assert configured is None or rate <= configured

    def test_what_was_in_flight_belongs_to_the_same_reaction(self):
        adaptive = AdaptiveRate(configured=100, burst=10, recovery_seconds=15)
        for number in range(64):
            adaptive.throttled(sent_at=1.0 + number / 1000, now=1.1 + number / 100)
        adaptive.resume(3.0)
        lowered = adaptive.rate(3.0)
        assert lowered == pytest.approx(45)
        adaptive.throttled(sent_at=1.06, now=3.1)  # a straggler
        adaptive.resume(4.0)
        assert adaptive.rate(4.0) == pytest.approx(45)
        adaptive.throttled(sent_at=4.5, now=4.6)
        adaptive.resume(5.0)
        assert adaptive.rate(5.0) < 30

    @given(st.floats(5, 5000), st.floats(0.05, 0.5), st.floats(1.3, 8))
    def test_what_a_bucket_let_pass_proves_its_rate(self, rate, burst_seconds, faster):
        """Sent evenly and faster than a bucket is filled, until it is dry: the rate is known to a tenth."""
        burst = max(2, round(rate * burst_seconds))
        adaptive, tokens, sent_at, step = (
            AdaptiveRate(configured=1e6, burst=burst, recovery_seconds=15),
            float(burst),
            0.0,
            1 / (rate * faster),
        )
        while tokens >= 1:
            adaptive.passed.note([sent_at])
            sent_at += step
            tokens = min(burst, tokens - 1 + rate * step)
        adaptive.throttled(sent_at=sent_at, now=sent_at)
        proven, _ = adaptive._proven(sent_at, limit=rate * faster)
        assert proven <= rate * 1.01 + 1 / max(sent_at, 0.005)
        assert proven >= rate - 2 / max(sent_at, 0.005) - 0.1 * rate
