"""A rejected user token is replaced once, however many requests it was sent with."""

import asyncio

import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]


async def test_many_requests_with_one_dead_token_make_one_new_one(kit):
    """Few may be in flight at once, so the rejections come one after the other."""
    async with kit.World(concurrency=3) as world:
        for number in range(50):
            world.upstream.add("ali", f"s{number}")
        await world.fm.impersonate("ali")
        world.upstream.revoke_tokens()
        got = await asyncio.gather(*(world.token("ali", f"s{number}") for number in range(50)))
        assert got == [f"ali/s{number}/1" for number in range(50)]
        assert world.upstream.impersonations["ali"] == 2


async def test_a_late_rejection_of_an_old_token_does_not_replace_the_new_one(kit):
    async with kit.world_with() as world:
        world.upstream.add("ali", "slow")
        await world.fm.impersonate("ali")
        world.upstream.revoke_tokens()
        world.upstream.latency = 5.0
        slow = asyncio.create_task(world.token("ali", "slow"))
        await asyncio.sleep(1)
        world.upstream.latency = 0.125
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        assert not slow.done()
        assert await slow == "ali/slow/1"
        assert world.upstream.impersonations["ali"] == 2


async def test_a_new_token_that_is_rejected_too_is_not_replaced_at_once(kit):
    async with kit.world_with() as world:
        world.upstream.sick = lambda method, *_: kit.dead_token if method == "GET" else None
        for _ in range(25):
            await world.together(1, "ali", "ali-s-secret")
            await asyncio.sleep(1)
        assert world.upstream.impersonations["ali"] == 2
        world.upstream.sick = lambda *_: None
        await asyncio.sleep(10)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
