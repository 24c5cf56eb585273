"""A provider that hangs: callers wait for a bounded time, and fail fast afterwards."""

import asyncio

import pytest

from flowmate_async import ApiLimits, RefreshFailedError, UpstreamTimeoutError
from flowmate_async.engine.priority import set_background

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]
SID = "66761aedcf268b4d68470e27"


def now():
    return asyncio.get_running_loop().time()


async def timed(awaitable):
    """How a call ended, and after how many seconds."""
    began = now()
    try:
        outcome = await awaitable
    except Exception as error:  # noqa: BLE001 - it is the outcome
        outcome = error
    return outcome, now() - began


def hang(world, seconds):
    """Let every GET take that long; then it is answered as usual."""
    get = world.upstream._get

    async def slowly(bearer, secret_id):
        await asyncio.sleep(seconds)
        return await get(bearer, secret_id)

    world.upstream._get = slowly


async def leased(world):
    async with world.fm.lease("ali", SID) as lease:
        return lease.secret


CALLS = {
    "credential": lambda world: world.fm.credential("ali", SID),
    "lease": leased,
    "get_secret": lambda world: world.fm.get_secret("ali", SID),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_caller_waits_no_longer_than_the_limit_for_a_hanging_provider(kit, call):
    """The secret is asked for once more after upstream's lock has ended, and not a third time."""
    async with kit.world_with(secret_id=SID, left=60.0) as world:
        world.upstream.faults[SID] = "timeout"
        error, seconds = await timed(call(world))
        assert isinstance(error, UpstreamTimeoutError)
        assert seconds == pytest.approx(45.0, abs=0.01)
        assert error.advice
        for _ in range(29):
            error, seconds = await timed(call(world))
            assert isinstance(error, UpstreamTimeoutError | RefreshFailedError)
            assert seconds == 0
            assert error.advice
            await asyncio.sleep(1)
        assert world.upstream.gets[SID] == 2


async def test_the_next_calls_are_told_at_once_until_the_cool_down_is_over(kit):
    async with kit.world_with(secret_id=SID, left=60.0) as world:
        world.upstream.faults[SID] = "timeout"
        await timed(world.fm.credential("ali", SID))
        world.upstream.faults.clear()
        for _ in range(29):
            error, seconds = await timed(world.fm.credential("ali", SID))
            assert isinstance(error, UpstreamTimeoutError)
            assert seconds == 0
            await asyncio.sleep(1)
        await asyncio.sleep(18)
        assert await world.token("ali", SID)
        assert world.upstream.gets[SID] == 3


async def test_a_valid_value_is_served_all_the_time(kit):
    async with kit.world_with(secret_id=SID, life=3600.0) as world:
        token = await world.token("ali", SID)
        await asyncio.sleep(3600 - 700)
        world.upstream.faults[SID] = "timeout"
        for _ in range(100):
            outcome, seconds = await timed(world.token("ali", SID))
            assert (outcome, seconds) == (token, 0)
            await asyncio.sleep(5)


async def test_a_longer_min_valid_gets_the_valid_value_during_quarantine(kit):
    async with kit.world_with(secret_id=SID, life=3600.0) as world:
        token = await world.token("ali", SID)
        await asyncio.sleep(3600 - 140)
        world.upstream.faults[SID] = "timeout"
        outcome, seconds = await timed(world.token("ali", SID, 135))
        assert outcome == token
        assert seconds == pytest.approx(45.0, abs=0.01)
        outcome, seconds = await timed(world.token("ali", SID, 135))
        assert (outcome, seconds) == (token, 0)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_no_caller_waits_longer_than_the_limit(kit, call):
    """Whatever the reason, the answer is cached, and callers that ask meanwhile fail fast."""
    options = {"limits": ApiLimits(max_wait_seconds=8.0)}
    async with kit.world_with(secret_id=SID, left=60.0, options=options) as world:
        hang(world, 20.0)
        began = now()
        for error, seconds in await asyncio.gather(*(timed(call(world)) for _ in range(50))):
            assert isinstance(error, UpstreamTimeoutError)
            assert "no answer within 8 s" in str(error)
            assert seconds == pytest.approx(8.0, abs=0.01)
        for _ in range(10):
            error, seconds = await timed(call(world))
            assert isinstance(error, UpstreamTimeoutError)
            assert seconds == 0
            await asyncio.sleep(0.5)
        assert world.upstream.gets[SID] == 1
        await asyncio.sleep(began + 21 - now())
        if call is not CALLS["get_secret"]:
            assert (await timed(call(world)))[1] == 0
            assert world.upstream.gets[SID] == 1


async def test_the_limit_counts_for_what_is_not_on_the_wire_yet(kit):
    """Such a request is dropped, and the next call asks anew."""
    options = {"limits": ApiLimits(max_wait_seconds=8.0)}
    async with kit.world_with(secret_id=SID, options=options) as world:
        pause = kit.json_response(b'{"message":""}', 503, retry_after="60")
        world.upstream.sick = lambda method, *_: pause if method == "POST" else None
        error, seconds = await timed(world.fm.get_secret("ali", SID))
        assert isinstance(error, UpstreamTimeoutError)
        assert seconds == pytest.approx(8.0, abs=0.01)
        assert world.upstream.gets[SID] == 0
        world.upstream.sick = lambda *_: None
        await asyncio.sleep(70)
        assert await world.fm.get_secret("ali", SID)


async def test_a_background_request_waits_and_a_caller_who_joins_it_does_not(kit):
    options = {"limits": ApiLimits(max_wait_seconds=8.0)}
    async with kit.world_with(secret_id=SID, left=60.0, options=options) as world:
        hang(world, 20.0)

        async def sweep():
            set_background()
            return await world.fm.get_secret("ali", SID)

        alone = asyncio.create_task(sweep())
        await asyncio.sleep(21)
        assert (await alone).id == SID
        both = asyncio.create_task(sweep())
        await asyncio.sleep(5)
        error, seconds = await timed(world.fm.get_secret("ali", SID))
        assert isinstance(error, UpstreamTimeoutError)
        assert seconds == pytest.approx(8.0, abs=0.01)
        both.cancel()


async def test_a_rejection_while_a_refresh_hangs_does_not_wait_either(kit):
    options = {"limits": ApiLimits(max_wait_seconds=8.0)}
    async with kit.world_with(secret_id=SID, life=3600.0, options=options) as world:
        async with world.fm.lease("ali", SID) as lease:
            hang(world, 20.0)
            waiting = asyncio.create_task(timed(world.fm.get_secret("ali", SID)))
            await asyncio.sleep(9)
            assert isinstance((await waiting)[0], UpstreamTimeoutError)
            error, seconds = await timed(lease.reject())
        assert isinstance(error, UpstreamTimeoutError)
        assert seconds == 0


async def test_waiting_for_the_clients_own_rate_is_not_counted(kit):
    """A cold start of many secrets takes as long as the rate that was configured."""
    options = {"limits": ApiLimits(max_wait_seconds=8.0), "rate": 4.0, "burst": 1}
    async with kit.World(**options) as world:
        for number in range(100):
            world.upstream.add("ali", f"{number:024x}", "SIMPLE")
        calls = (timed(world.fm.credential("ali", f"{number:024x}")) for number in range(100))
        outcomes = await asyncio.gather(*calls)
        assert not [error for error, _ in outcomes if isinstance(error, Exception)]
        assert max(seconds for _, seconds in outcomes) > 20
