"""Credentials kept fresh in the background: spread out, behind interactive calls, without needless logins."""

import asyncio
import itertools
from contextlib import AsyncExitStack

import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

MINUTE = 60.0


async def world_of(kit, stack, count, *, username="ali", kind=None, options=None, **secret):
    world = await stack.enter_async_context(kit.World(**(options or {})))
    for number in range(count):
        world.upstream.add(username, f"s{number}", kind or kit.OAUTH, **secret)
    return world, [(username, f"s{number}") for number in range(count)]


@pytest.fixture
async def stack():
    async with AsyncExitStack() as made:
        yield made


async def test_a_working_set_is_fetched_and_then_never_waited_for(kit, stack):
    world, pairs = await world_of(kit, stack, 20, life=3600)
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(10)
        for _ in range(5 * 60):
            began = world.clock.monotonic()
            for pair in pairs:
                assert await world.token(*pair)
            assert world.clock.monotonic() == began
            await asyncio.sleep(MINUTE)
    # Five hours of one-hour tokens, each refreshed when 12 to 14 minutes are left.
    for _, secret_id in pairs:
        assert 6 <= world.upstream.gets[secret_id] <= 8


async def test_those_made_together_are_not_refreshed_together(kit, stack):
    world, pairs = await world_of(kit, stack, 40, life=3600)
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(3600)
    early = sorted(when for when, _, path, _ in world.upstream.requests if when > 600 and "/secrets/" in path)
    assert len(early) == 40
    assert early[-1] - early[0] > MINUTE
    assert early[0] >= 3600 - 14 * MINUTE - 10
    assert early[-1] <= 3600 - 12 * MINUTE + 10


async def test_a_session_without_a_date_is_never_logged_in_again_for_nobody(kit, stack):
    world, pairs = await world_of(kit, stack, 4, kind=kit.SESSION)
    for pair in pairs:
        await world.token(*pair)
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(24 * 3600)
    assert set(world.upstream.refreshes.values()) == {1}


async def test_a_session_without_a_date_is_left_alone_also_once_it_was_evicted(kit, stack):
    world, pairs = await world_of(kit, stack, 4, kind=kit.SESSION, options={"cache_capacity": 1})
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(24 * 3600)
    assert max(world.upstream.refreshes.values()) == 1


async def test_a_password_is_fetched_again_about_once_an_hour(kit, stack):
    world, pairs = await world_of(kit, stack, 3, kind="SIMPLE")
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(10 * 3600)
    assert all(10 <= world.upstream.gets[secret_id] <= 12 for _, secret_id in pairs)


async def test_what_fails_is_tried_again_and_stops_nothing_else(kit, stack):
    world, pairs = await world_of(kit, stack, 20, life=3600)
    world.upstream.faults["s0"] = "not found"
    world.upstream.faults["s1"] = "refresh failed"
    async with world.fm.keep_fresh([*pairs, ("ali", "no valid id!")]):
        await asyncio.sleep(3600)
        assert world.upstream.gets["s0"] <= 3600 / 30 + 1
        assert world.upstream.gets["s1"] <= 3600 / 30 + 1
        assert all(world.upstream.gets[f"s{number}"] == 2 for number in range(2, 20))
        world.upstream.faults.clear()
        await asyncio.sleep(100)
        assert world.entry("ali", "s0")
        assert world.entry("ali", "s1")


@pytest.mark.parametrize("refreshable", [True, False])
async def test_what_comes_expired_every_time_is_tried_at_the_pace_of_the_cool_down(kit, stack, refreshable):
    world, pairs = await world_of(kit, stack, 1, life=0.0, left=-60.0, refreshable=refreshable)
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(3000)
    assert world.upstream.gets["s0"] <= 3000 / 30 + 1


async def test_a_pair_named_twice_is_kept_once(kit, stack):
    world, pairs = await world_of(kit, stack, 1, life=3600)
    async with world.fm.keep_fresh(pairs * 10):
        await asyncio.sleep(100)
    assert world.upstream.gets["s0"] == 1


async def test_an_empty_working_set_is_one_too(kit, stack):
    world, _ = await world_of(kit, stack, 0)
    async with world.fm.keep_fresh([]):
        await asyncio.sleep(100)
    assert not world.upstream.requests


async def test_it_ends_with_its_block(kit, stack):
    world, pairs = await world_of(kit, stack, 20, life=3600, options={"latency": 60.0})
    before = asyncio.all_tasks()
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(70)
    await asyncio.sleep(300)
    assert asyncio.all_tasks() == before
    sent = len(world.upstream.requests)
    await asyncio.sleep(2 * 3600)
    assert len(world.upstream.requests) == sent


async def test_what_was_on_the_wire_when_it_ended_is_kept(kit, stack):
    world, pairs = await world_of(kit, stack, 4, life=3600, options={"latency": 10.0})
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(15)
    await asyncio.sleep(20)
    assert all(world.entry(*pair) for pair in pairs)


async def test_a_busy_upstream_never_brings_a_second_flight(kit, stack):
    world, pairs = await world_of(kit, stack, 10, life=1000, options={"latency": 5.0})
    async with world.fm.keep_fresh(pairs):
        for _ in range(200):
            await asyncio.gather(*(world.token(*pair) for pair in pairs))
            await asyncio.sleep(30)
    assert world.upstream.overlaps == 0


async def test_interactive_calls_go_before_a_working_set_under_one_rate(kit, stack):
    """200 credentials at 2 requests/s take 100 s in the background; interactive callers do not wait."""
    world, pairs = await world_of(kit, stack, 200, options={"rate": 2.0, "burst": 1, "concurrency": 16})
    world.upstream.add("bea", "hers")
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(5)
        began = world.clock.monotonic()
        assert await world.token("bea", "hers") == "bea/hers/1"
        assert world.clock.monotonic() - began < 5
        await asyncio.sleep(200)
    times = [when for when, *_ in world.upstream.requests]
    assert len(times) >= 200
    assert all(len([t for t in times if begin <= t < begin + 10]) <= 2 * 10 + 1 for begin in times)


async def test_a_steady_stream_of_interactive_calls_does_not_starve_the_background(kit, stack):
    # Rates are dyadic: virtual time would wait for a float's remainder for ever.
    world, pairs = await world_of(kit, stack, 40, options={"rate": 8.0, "burst": 1})
    for number in range(600):
        world.upstream.add("bea", f"b{number}")
    async with world.fm.keep_fresh(pairs), asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.token("bea", f"b{number}")) for number in range(600)]
        await asyncio.sleep(60)
        assert all(world.entry(*pair) for pair in pairs)
        assert not all(task.done() for task in tasks)


async def test_who_waits_for_what_a_working_set_has_queued_is_not_behind_it(kit, stack):
    """Joining a background flight that is not in flight yet hurries it along."""
    world, pairs = await world_of(kit, stack, 8, username="bea", options={"rate": 1.0, "burst": 1})
    for number in range(300):
        world.upstream.add("ali", f"a{number}")
    await world.token("bea", "s0")
    async with asyncio.TaskGroup() as group:
        interactive = [group.create_task(world.token("ali", f"a{number}")) for number in range(4)]
        await asyncio.sleep(1)
        async with world.fm.keep_fresh(pairs[1:]):
            await asyncio.sleep(0.01)
            began = world.clock.monotonic()
            await world.token("bea", "s7")
            # Four before it, and one turn in five for the background: not all six of the working set.
            assert world.clock.monotonic() - began < 8
        await asyncio.gather(*interactive)
    assert world.upstream.gets["s7"] == 1


async def test_with_few_long_sleepers_many_short_ones_are_still_in_time(kit, stack):
    """Workers that wait for what is due in an hour must not leave the rest to one of them."""
    world, pairs = await world_of(kit, stack, 20, kind="SIMPLE", options={"latency": 2.0})
    for number in range(30):
        world.upstream.add("bea", f"short{number}", life=120.0)
    short = [("bea", f"short{number}") for number in range(30)]
    async with world.fm.keep_fresh([*pairs, *short]):
        await asyncio.sleep(60)
        late = 0
        for _ in range(600):
            for pair in short:
                entry = world.entry(*pair)
                late += entry.timeline.valid_until_monotonic - world.clock.monotonic() < 30
            await asyncio.sleep(2)
    assert late == 0


async def test_its_rate_is_that_of_the_client(kit, stack):
    world, pairs = await world_of(kit, stack, 50, options={"rate": 4.0, "burst": 4})
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(30)
    times = [when for when, *_ in world.upstream.requests]
    for first, second in itertools.combinations(range(len(times)), 2):
        assert second - first + 1 <= 4 * (times[second] - times[first]) + 4 + 1e-6


async def test_after_a_suspension_it_refreshes_by_the_wall_clock(kit, stack):
    """The monotonic clock stood still meanwhile, as if nothing were due for a long time."""
    world, pairs = await world_of(kit, stack, 3, life=3600)
    async with world.fm.keep_fresh(pairs):
        await asyncio.sleep(10)
        world.clock.wall_is_off_by = 3000.0
        await asyncio.sleep(2 * MINUTE)
    assert {world.upstream.gets[secret_id] for _, secret_id in pairs} == {2}
