"""A laptop or VM was suspended: the monotonic clock stood still, and the wall clock is hours later."""

import asyncio

import pytest

from flowmate_async import CredentialRejectedError, RefreshFailedError, RetryPolicy, SecretNotFoundError

pytestmark = pytest.mark.anyio
SID = "66761aedcf268b4d68470e27"
HOURS = 3600.0


def suspend(world, seconds=3 * HOURS):
    world.clock.wall_is_off_by += seconds


async def test_a_session_without_an_expiry_is_not_served(kit):
    async with kit.world_with(secret_id=SID, kind=kit.SESSION) as world:
        first = await world.token("ali", SID)
        suspend(world, 599.0)
        assert await world.token("ali", SID, 0) == first
        suspend(world, 2.0)
        assert await world.token("ali", SID, 0) != first
        assert world.upstream.gets[SID] == 2


@pytest.mark.parametrize("kind", ["SIMPLE", "API_KEY"])
async def test_a_password_is_fetched_again(kit, kind):
    async with kit.world_with(secret_id=SID, kind=kind) as world:
        await world.token("ali", SID)
        suspend(world, 53 * 60.0)
        await world.token("ali", SID)
        await kit.settle()
        assert world.upstream.gets[SID] == 1
        suspend(world, 8 * 60.0)
        await world.token("ali", SID)
        await kit.settle()
        assert world.upstream.gets[SID] == 2


async def test_a_user_token_that_idled_is_replaced_before_it_is_sent(kit):
    async with kit.world_with(secret_id=SID) as world:
        await world.fm.get_secret("ali", SID)
        suspend(world, 2.74 * HOURS)
        await world.fm.get_secret("ali", SID)
        suspend(world, 2.76 * HOURS)
        await world.fm.get_secret("ali", SID)
        assert world.upstream.impersonations["ali"] == 2


async def test_absence_is_asked_for_again(kit):
    async with kit.World() as world:
        for seconds, gets in ((0.0, 1), (9.0, 1), (1.0, 2)):
            suspend(world, seconds)
            with pytest.raises(SecretNotFoundError):
                await world.token("ali", SID)
            assert world.upstream.gets[SID] == gets


async def test_a_cool_down_without_a_value_ends(kit):
    async with kit.world_with(secret_id=SID) as world:
        world.upstream.faults[SID] = "refresh failed"
        for seconds, gets in ((0.0, 1), (29.0, 1), (17.0, 2)):
            suspend(world, seconds)
            with pytest.raises(RefreshFailedError):
                await world.token("ali", SID)
            await asyncio.sleep(11)  # upstream's lock of the secret
            assert world.upstream.gets[SID] == gets
            suspend(world, -11.0)


async def test_a_cool_down_of_a_value_that_could_not_be_refreshed_ends(kit):
    async with kit.world_with(secret_id=SID, life=3600.0) as world:
        first = await world.token("ali", SID)
        await asyncio.sleep(2400.0)
        world.upstream.faults[SID] = "html"
        for seconds, gets in ((0.0, 2), (29.0, 2), (17.0, 3)):
            suspend(world, seconds)
            assert await world.token("ali", SID, 1300.0) == first
            assert world.upstream.gets[SID] == gets


async def test_a_rejected_value_is_asked_for_again(kit):
    async with kit.world_with(secret_id=SID, refreshable=False, life=10 * HOURS) as world:
        lease = world.fm.lease("ali", SID)
        await lease.__aenter__()
        for seconds, gets in ((0.0, 2), (29.0, 2), (17.0, 3)):
            suspend(world, seconds)
            with pytest.raises(CredentialRejectedError):
                await lease.reject()
            assert world.upstream.gets[SID] == gets


async def test_a_pause_ends(kit):
    """At most a few seconds after the machine has woken."""
    async with kit.world_with(secret_id=SID, options={"retry": RetryPolicy(attempts=1)}) as world:
        pause = kit.json_response(b'{"message":""}', 503, retry_after="60")
        world.upstream.sick = lambda method, *_: pause if method == "GET" else None
        await world.together(1, "ali", SID)
        world.upstream.sick = lambda *_: None
        began = asyncio.get_running_loop().time()
        waiting = asyncio.create_task(world.fm.get_secret("ali", SID))
        await asyncio.sleep(20)
        assert not waiting.done()
        suspend(world)
        await waiting
        assert asyncio.get_running_loop().time() - began < 27


async def test_a_working_set_is_kept_fresh(kit):
    async with kit.world_with(secret_id=SID, life=3600.0) as world, world.fm.keep_fresh([("ali", SID)]):
        await asyncio.sleep(60)
        world.upstream.kept[SID].expires -= 50 * 60.0  # upstream's clock went on
        suspend(world, 50 * 60.0)
        await asyncio.sleep(61)
        assert world.upstream.gets[SID] == 2
