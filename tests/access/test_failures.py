"""Callers do not notice a failed refresh while the value is good, but they do if the value was revoked."""

import asyncio

import pytest

from flowmate_async import (
    CredentialExpiredError,
    FlowMateError,
    MaskedSecretError,
    PermissionDeniedError,
    RateLimitedError,
    RefreshFailedError,
    SecretNotFoundError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserNotFoundError,
)
from flowmate_async.events import ServedStale

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

MINUTE = 60.0

TRANSIENT = {
    "503": UpstreamUnavailableError,
    "502": UpstreamUnavailableError,
    "429": RateLimitedError,
    "refresh failed": RefreshFailedError,
    "locked": RefreshFailedError,
    "database down": UpstreamUnavailableError,
    "iam down": UpstreamUnavailableError,
    "timeout": UpstreamTimeoutError,
    "reset": UpstreamUnavailableError,
    "stale": UpstreamUnavailableError,
    "unreachable": UpstreamUnavailableError,
}
FINAL = {
    "not found": SecretNotFoundError,
    "forbidden": PermissionDeniedError,
    "masked": MaskedSecretError,
}
GONE = {fault: error for fault, error in FINAL.items() if fault != "masked"}
"""A masked answer is refused, but does not say that the access is gone."""


@pytest.mark.parametrize("fault", [*TRANSIENT, "html"])
async def test_a_failed_early_refresh_is_nobodys_failure(kit, fault):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.upstream.faults["ali-s-secret"] = fault
        await asyncio.sleep(3600 - 11 * MINUTE)
        for _ in range(5):
            assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
            await asyncio.sleep(50)
        world.upstream.faults.clear()
        await asyncio.sleep(100)
        await world.token("ali", "ali-s-secret")
        await kit.settle()
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/2"


@pytest.mark.parametrize(("fault", "error"), TRANSIENT.items(), ids=TRANSIENT)
async def test_a_transient_failure_serves_only_what_is_still_valid(kit, fault, error):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.upstream.faults["ali-s-secret"] = fault
        await asyncio.sleep(3600 - 100)
        assert await world.together(5, "ali", "ali-s-secret", 300) == ["ali/ali-s-secret/1"] * 5
        assert world.served_stale() == 5
        assert sum(isinstance(event, ServedStale) for event in world.events) == 5
        await asyncio.sleep(100)
        failures = await world.together(5, "ali", "ali-s-secret", 300)
        if fault == "429":  # it is retried for longer than a caller waits
            error = UpstreamTimeoutError
        assert {type(failure) for failure in failures} == {error}
        assert len(set(map(id, failures))) == 5


@pytest.mark.parametrize(("fault", "error"), GONE.items(), ids=GONE)
async def test_a_value_that_was_taken_away_is_served_to_nobody(kit, fault, error):
    """However long it would still be valid: neither in the last minute, nor after an early refresh."""
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.upstream.faults["ali-s-secret"] = fault
        await asyncio.sleep(3600 - 50)
        with pytest.raises(error):
            await world.token("ali", "ali-s-secret")
        with pytest.raises(error):
            await world.token("ali", "ali-s-secret", 0)
        assert world.entry("ali", "ali-s-secret") is None


@pytest.mark.parametrize(("fault", "error"), GONE.items(), ids=GONE)
async def test_an_early_refresh_that_finds_it_gone_ends_it(kit, fault, error):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.upstream.faults["ali-s-secret"] = fault
        await asyncio.sleep(3600 - 11 * MINUTE)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        await kit.settle()
        with pytest.raises(error):
            await world.token("ali", "ali-s-secret")


@pytest.mark.parametrize(("fault", "error"), FINAL.items(), ids=FINAL)
async def test_absence_is_remembered_for_a_short_while(kit, fault, error):
    async with kit.world_with() as world:
        world.upstream.faults["ali-s-secret"] = fault
        for _ in range(9):
            with pytest.raises(error):
                await world.token("ali", "ali-s-secret")
            await asyncio.sleep(1)
        assert world.upstream.gets["ali-s-secret"] == 1
        world.upstream.faults.clear()
        await asyncio.sleep(2)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"


async def test_an_unknown_user_is_remembered_for_a_short_while(kit):
    async with kit.world_with() as world:
        world.upstream.sick = lambda method, *_: (
            kit.json_response(b'{"message":"FORBIDDEN"}', 404) if method == "POST" else None
        )
        for _ in range(9):
            with pytest.raises(UserNotFoundError):
                await world.token("ali", "ali-s-secret")
            await asyncio.sleep(1)
        assert world.upstream.impersonations["ali"] == 1


async def test_a_refresh_that_failed_is_left_alone_for_a_cool_down(kit):
    """30 s and up to half as much: without a value, too."""
    async with kit.world_with() as world:
        world.upstream.faults["ali-s-secret"] = "refresh failed"
        for _ in range(29):
            with pytest.raises(RefreshFailedError):
                await world.token("ali", "ali-s-secret")
            await asyncio.sleep(1)
        assert world.upstream.gets["ali-s-secret"] == 1
        world.upstream.faults.clear()
        await asyncio.sleep(17)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"


async def test_each_cool_down_is_drawn_anew(kit):
    """Those that failed together do not come back together."""
    async with kit.World() as world:
        names = [f"s{number}" for number in range(40)]
        for name in names:
            world.upstream.add("ali", name)
            world.upstream.faults[name] = "refresh failed"
            await world.together(1, "ali", name)
        back = {}
        for seconds in range(1, 46):
            await asyncio.sleep(1)
            for name in names:
                sent = len(world.upstream.requests)
                await world.together(1, "ali", name)
                if len(world.upstream.requests) > sent:
                    back.setdefault(name, seconds)
        assert len(back) == len(names)
        assert max(back.values()) - min(back.values()) > 5


@pytest.mark.parametrize("fault", ["refresh failed", "503", "timeout"])
async def test_in_the_cool_down_of_a_value_that_is_held_nothing_is_sent(kit, fault):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.upstream.faults["ali-s-secret"] = fault
        await asyncio.sleep(3600 - 11 * MINUTE)
        await world.token("ali", "ali-s-secret")
        while world.entry("ali", "ali-s-secret").refreshing:  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(0.5)
        sent = len(world.upstream.requests)
        for _ in range(28):
            await world.token("ali", "ali-s-secret")
            await world.token("ali", "ali-s-secret", 1200)
            await asyncio.sleep(1)
        assert len(world.upstream.requests) == sent


async def test_every_caller_gets_an_error_of_its_own(kit):
    async with kit.world_with() as world:
        world.upstream.faults["ali-s-secret"] = "refresh failed"
        errors = await world.together(10, "ali", "ali-s-secret") + await world.together(
            10, "ali", "ali-s-secret"
        )
        assert all(isinstance(error, RefreshFailedError) for error in errors)
        assert len(set(map(id, errors))) == 20
        assert {error.username for error in errors} == {"ali"}
        assert {error.secret_id for error in errors} == {"ali-s-secret"}


async def test_one_secrets_failure_is_no_other_ones(kit):
    async with kit.world_with() as world:
        world.upstream.add("ali", "other")
        world.upstream.faults["ali-s-secret"] = "refresh failed"
        assert isinstance((await world.together(1, "ali", "ali-s-secret"))[0], FlowMateError)
        assert await world.token("ali", "other") == "ali/other/1"


async def test_remembered_failures_are_bounded(kit):
    async with kit.World(cache_capacity=5) as world:
        for number in range(20):
            await world.together(1, "ali", f"missing-{number}")
        assert world.fm.stats().cache.failures == 5


async def test_forgetting_drops_the_value_and_the_failure(kit):
    async with kit.world_with() as world:
        world.upstream.faults["ali-s-secret"] = "not found"
        await world.together(1, "ali", "ali-s-secret")
        world.upstream.faults.clear()
        world.fm._parts.credentials.forget("ali", "ali-s-secret")
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"


async def test_after_the_expiry_the_error_is_the_failed_refresh(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.upstream.faults["ali-s-secret"] = "refresh failed"
        await asyncio.sleep(3600)
        with pytest.raises(RefreshFailedError):
            await world.token("ali", "ali-s-secret")
        world.upstream.faults.clear()
        await asyncio.sleep(46)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/2"


async def test_no_failure_mentions_a_credential(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600)
        for fault in [*TRANSIENT, *FINAL]:
            world.upstream.faults["ali-s-secret"] = fault
            for error in await world.together(1, "ali", "ali-s-secret"):
                assert isinstance(error, FlowMateError)
                assert "ali/ali-s-secret/1" not in repr(error) + str(error)
            await asyncio.sleep(60)


async def test_an_expired_need_says_what_to_do(kit):
    async with kit.world_with(left=-1.0, refreshable=False) as world:
        with pytest.raises(CredentialExpiredError) as caught:
            await world.token("ali", "ali-s-secret")
        assert caught.value.advice
        assert (caught.value.username, caught.value.secret_id) == ("ali", "ali-s-secret")
