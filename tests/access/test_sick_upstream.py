"""A failing upstream, seen by many users: no new impersonations; an error at once, or the cached value."""

import asyncio

import pytest

from flowmate_async import UpstreamUnavailableError
from flowmate_async.engine.breaker import BreakerPolicy
from flowmate_async.events import BreakerOpened

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

MINUTE = 60.0


def populate(world, users, per_user=1, **secret):
    pairs = [(f"u{user}", f"{user:020x}{number:04x}") for user in range(users) for number in range(per_user)]
    for pair in pairs:
        world.upstream.add(*pair, **secret)
    return pairs


async def ask_all(world, pairs, min_valid=60.0):
    return await asyncio.gather(*(world.token(*pair, min_valid) for pair in pairs), return_exceptions=True)


def opened(world):
    return sum(isinstance(event, BreakerOpened) for event in world.events)


def answering(kit, status, message):
    answer = kit.json_response(b'{"message":"%s"}' % message.encode(), status)
    return lambda method, *_: answer if method == "GET" else None


SICK = {
    "503 for all": (503, "down"),
    "500 of the gateway": (502, "bad gateway"),
    "the database is down": (401, ""),
    "IAM is down": (401, "Details: Authorization failed"),
    "no token is known": (401, "Token not found in IAM"),
}


@pytest.mark.parametrize(("status", "message"), SICK.values(), ids=SICK)
async def test_many_users_with_a_sick_upstream_open_it(kit, status, message):
    async with kit.World(concurrency=16) as world:
        pairs = populate(world, 400)
        for user, _ in pairs:
            await world.fm.impersonate(user)
        world.upstream.sick = answering(kit, status, message)
        for some in _batched(pairs, 50):
            await ask_all(world, some)
        assert opened(world)
        assert sum(world.upstream.impersonations.values()) <= 400 + 100


async def test_new_users_are_not_impersonated_while_no_token_is_accepted(kit):
    """Each impersonation works, each token is rejected: the one must not hide the other."""
    async with kit.World(concurrency=16) as world:
        world.upstream.sick = answering(kit, 401, "Token not found in IAM")
        pairs = populate(world, 3000)
        for some in _batched(pairs, 10):
            await ask_all(world, some)
            await asyncio.sleep(0.1)
        assert opened(world)
        assert sum(world.upstream.impersonations.values()) < 600


def _batched(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


@pytest.mark.parametrize(("status", "message"), SICK.values(), ids=SICK)
@pytest.mark.parametrize("users", [1, 2, 4])
async def test_the_trouble_of_a_few_users_never_opens_it(kit, users, status, message):
    """However many tokens and secrets they have."""
    async with kit.World() as world:
        pairs = populate(world, users, per_user=25)
        world.upstream.sick = answering(kit, status, message)
        for _ in range(4):
            await ask_all(world, pairs)
            world.upstream.revoke_tokens()
        assert not opened(world)


@pytest.mark.parametrize("fault", ["refresh failed", "timeout", "locked"])
async def test_the_trouble_of_one_provider_never_opens_it(kit, fault):
    async with kit.World(concurrency=500) as world:
        pairs = populate(world, 200)
        world.upstream.faults = {secret_id: fault for _, secret_id in pairs}
        await ask_all(world, pairs)
        assert not opened(world)


async def test_a_mass_revocation_costs_one_token_each_and_no_error(kit):
    async with kit.World() as world:
        pairs = populate(world, 300, life=3600.0)
        await ask_all(world, pairs)
        world.upstream.revoke_tokens()
        await asyncio.sleep(3600 - 30)
        got = await ask_all(world, pairs)
        assert all(token.endswith("/2") for token in got)
        assert not opened(world)
        assert set(world.upstream.impersonations.values()) == {2}


async def test_a_mass_revocation_does_not_keep_it_open(kit):
    """Upstream comes back and knows no token any more: probes meet dead tokens, and it closes."""
    async with kit.World() as world:
        pairs = populate(world, 100)
        for user, _ in pairs:
            await world.fm.impersonate(user)
        world.upstream.sick = answering(kit, 503, "down")
        await ask_all(world, pairs)
        assert opened(world)
        world.upstream.sick = lambda *_: None
        world.upstream.revoke_tokens()
        await asyncio.sleep(7)
        for _ in range(4):
            await ask_all(world, pairs)
            await asyncio.sleep(1)
        assert set(await ask_all(world, pairs)) == {f"{user}/{secret_id}/1" for user, secret_id in pairs}


async def sicken(kit, world, count=60):
    """Open the breaker with other users."""
    for user in range(count):
        world.upstream.add(f"v{user}", f"v{user}-s")
    world.upstream.sick = answering(kit, 503, "down")
    await ask_all(world, [(f"v{user}", f"v{user}-s") for user in range(count)])
    assert world.fm.stats().traffic.breaker.state == "open"


async def test_while_it_is_open_interactive_calls_fail_at_once_and_nothing_is_sent(kit):
    async with kit.World(rate=4.0, burst=32, breaker=BreakerPolicy(open_seconds=60)) as world:
        pairs = populate(world, 200)
        await sicken(kit, world)
        began, sent = world.clock.monotonic(), len(world.upstream.requests)
        errors = await ask_all(world, pairs)
        assert {type(error) for error in errors} == {UpstreamUnavailableError}
        assert "nothing was sent" in str(errors[0])
        # At once: a refusal costs no turn of the rate limit, which 200 calls would wait 50 s for.
        assert world.clock.monotonic() - began < 1
        assert len(world.upstream.requests) == sent


async def test_while_it_is_open_a_secret_in_quarantine_fails_at_once_too(kit):
    async with kit.World(breaker=BreakerPolicy(open_seconds=60)) as world:
        [pair] = populate(world, 1)
        world.upstream.faults[pair[1]] = "reset"
        waiting = asyncio.create_task(world.together(1, *pair))
        await asyncio.sleep(1)
        await sicken(kit, world)
        await waiting
        world.fm._parts.traffic._gates.quarantine.impose(pair[1], 10)
        began = world.clock.monotonic()
        await world.together(1, *pair)
        assert world.clock.monotonic() == began


async def test_while_it_is_open_cached_values_are_still_served(kit):
    async with kit.World(breaker=BreakerPolicy(open_seconds=60)) as world:
        pairs = populate(world, 20, life=3600.0)
        first = await ask_all(world, pairs)
        await asyncio.sleep(3600 - 100)
        await sicken(kit, world)
        sent = len(world.upstream.requests)
        assert await ask_all(world, pairs) == first  # in the advisory window
        assert await ask_all(world, pairs, 200) == first  # valid for less than is needed, better than nothing
        assert world.served_stale() == len(pairs)
        assert len(world.upstream.requests) == sent


async def test_a_few_probes_find_out_when_it_is_well_again(kit):
    async with kit.World() as world:
        await sicken(kit, world)
        sent = len(world.upstream.requests)
        await asyncio.sleep(6.5)
        pairs = populate(world, 100)
        world.upstream.sick = answering(kit, 503, "down")
        await ask_all(world, pairs)
        assert len(world.upstream.requests) - sent <= 2 * 3
        assert world.fm.stats().traffic.breaker.state == "open"
        world.upstream.sick = lambda *_: None
        await asyncio.sleep(13)
        await ask_all(world, pairs)
        assert world.fm.stats().traffic.breaker.state == "closed"
        assert set(await ask_all(world, pairs)) == {f"{user}/{secret_id}/1" for user, secret_id in pairs}


async def test_a_probe_that_is_waited_for_in_vain_does_not_close_it(kit):
    async with kit.World() as world:
        [pair] = populate(world, 1)
        await world.fm.impersonate(pair[0])
        await sicken(kit, world)
        world.upstream.sick = lambda *_: None
        world.upstream.faults[pair[1]] = "timeout"
        await asyncio.sleep(6.5)
        probe = asyncio.create_task(world.together(1, *pair))
        await asyncio.sleep(31)
        assert world.fm.stats().traffic.breaker.state == "half-open"
        probe.cancel()


async def test_impersonations_alone_do_not_close_it(kit):
    """Making tokens works, using them does not: closing would impersonate everybody anew."""
    async with kit.World() as world:
        pairs = populate(world, 200)
        world.upstream.sick = answering(kit, 401, "Token not found in IAM")
        for some in _batched(pairs, 10) * 4:
            await ask_all(world, some)
            await asyncio.sleep(1)
        assert sum(world.upstream.impersonations.values()) < 150


async def test_the_background_waits_it_out(kit):
    async with kit.World() as world:
        pairs = populate(world, 10)
        await sicken(kit, world)
        async with world.fm.keep_fresh(pairs):
            await asyncio.sleep(2)
            world.upstream.sick = lambda *_: None
            await asyncio.sleep(20)
            assert all(world.entry(*pair) for pair in pairs)


async def test_an_interactive_call_for_what_the_background_waits_for_fails_at_once(kit):
    """It joins the flight; it must not inherit its patience."""
    async with kit.World(breaker=BreakerPolicy(open_seconds=60)) as world:
        pairs = populate(world, 4)
        for user, _ in pairs:
            await world.fm.impersonate(user)
        await sicken(kit, world)
        async with world.fm.keep_fresh(pairs):
            await asyncio.sleep(1)
            began = world.clock.monotonic()
            [error] = await world.together(1, *pairs[0])
            assert isinstance(error, UpstreamUnavailableError)
            assert world.clock.monotonic() == began


async def test_a_malformed_id_neither_opens_nor_closes_the_breaker(kit):
    """Upstream answers 401 to it whether it is well or not."""
    async with kit.World(concurrency=16) as world:
        pairs = [(f"u{user}", f"old-id-of-{user:04}") for user in range(100)]
        for user, _ in pairs:
            await world.fm.impersonate(user)
        malformed, listed = kit.json_response(b'{"message":""}', 401), kit.json_response(b'{"data":[]}')
        world.upstream.sick = lambda method, path, _: (
            None if method != "GET" else listed if "?" in path else malformed
        )
        await ask_all(world, pairs)
        assert not opened(world)
        assert sum(world.upstream.impersonations.values()) == 100
        await ask_all(world, populate(world, 100))
        assert world.fm.stats().traffic.breaker.state == "open"
        await asyncio.sleep(7)
        assert world.fm.stats().traffic.breaker.state == "half-open"
        await ask_all(world, [("u0", "another-stale-id")])
        assert world.fm.stats().traffic.breaker.state == "half-open"
