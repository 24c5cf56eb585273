"""One secret with several owners: upstream has one lock for it, so GETs that refresh take turns across users.

docs/contract/OBSERVED.md § Second look.
"""

import asyncio

import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

OWNERS = tuple(f"owner-{number}" for number in range(10))


async def everybody(fm, how="credential", secret_id="shared"):
    return await asyncio.gather(*(getattr(fm, how)(owner, secret_id) for owner in OWNERS))


def check_values(kit, got):
    assert [kit.presented(secret).split("/")[0] for secret in got] == list(OWNERS)


@pytest.mark.parametrize("how", ["credential", "get_secret"])
async def test_ten_owners_of_an_expired_secret_cause_one_refresh(kit, how):
    """The first GET refreshes; the other nine are plain reads and run at the same time."""
    async with kit.World(latency=1.0) as world:
        world.upstream.add(OWNERS, "shared", left=-60)
        for owner in OWNERS:
            await world.fm.impersonate(owner)
        began = world.clock.monotonic()
        check_values(kit, await everybody(world.fm, how))
        assert world.clock.monotonic() - began < 2.5
        assert world.upstream.refreshes["shared"] == 1
        assert (world.upstream.lock_waits, len(world.fm._parts.fetcher.turns)) == (0, 0)


@pytest.mark.parametrize("how", ["credential", "get_secret"])
async def test_owners_of_a_session_without_an_expiry_log_in_one_after_the_other(kit, how):
    """Every GET logs in, so no answer makes the next one a plain read."""
    async with kit.World() as world:
        world.upstream.add(OWNERS, "shared", kit.SESSION)
        check_values(kit, await everybody(world.fm, how))
        assert world.upstream.refreshes["shared"] == 10
        assert (world.upstream.lock_waits, len(world.fm._parts.fetcher.turns)) == (0, 0)


async def test_short_lived_secrets_take_turns_for_ever(kit):
    """A token that lives for less than upstream's window is refreshed by every GET."""
    async with kit.World() as world:
        world.upstream.add(OWNERS, "shared", left=-60, life=600)
        check_values(kit, await everybody(world.fm))
        assert (world.upstream.refreshes["shared"], world.upstream.lock_waits) == (10, 0)


async def test_owners_of_a_fresh_secret_do_not_wait_for_each_other(kit):
    """Nor does anyone after a listing has shown that nothing is due."""
    async with kit.World(latency=1.0) as world:
        world.upstream.add(OWNERS, "shared", "API_KEY")
        for owner in OWNERS:
            await world.fm.impersonate(owner)
        await world.fm.list_secrets(OWNERS[0])
        began = world.clock.monotonic()
        await everybody(world.fm)
        assert world.clock.monotonic() - began < 1.5


async def test_it_is_due_again_when_its_time_has_come(kit):
    async with kit.World() as world:
        world.upstream.add(OWNERS, "shared", left=-60)
        for round_ in range(1, 4):
            await everybody(world.fm, "get_secret")
            assert (world.upstream.refreshes["shared"], world.upstream.lock_waits) == (round_, 0)
            await asyncio.sleep(2800)


async def test_a_sweep_meets_a_shared_secret_in_many_listings(kit):
    """All listings were made before the refresh, and still only the first GET refreshes."""
    async with kit.World() as world:
        world.upstream.add(OWNERS, "shared", left=-60)
        world.upstream.add(OWNERS, "session", kit.SESSION)
        outcomes = [outcome async for outcome in world.fm.sweep(OWNERS)]
        for outcome in outcomes:
            assert {kit.presented(secret).split("/")[0] for secret in outcome.secrets} == {outcome.username}
            assert len(outcome.secrets) == 2
        assert world.upstream.refreshes == {"shared": 1, "session": 10}
        assert world.upstream.lock_waits == 0


async def test_a_waiter_that_is_cancelled_does_not_block_the_others(kit):
    async with kit.World() as world:
        world.upstream.add(OWNERS, "shared", kit.SESSION)
        tasks = [asyncio.create_task(world.fm.credential(owner, "shared")) for owner in OWNERS]
        await asyncio.sleep(0.01)
        for task in tasks[1::2]:
            task.cancel()
        got = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, asyncio.CancelledError) for one in got) == 5
        assert (world.upstream.refreshes["shared"], world.upstream.lock_waits) == (5, 0)
        assert len(world.fm._parts.fetcher.turns) == 0


async def test_an_abandoned_get_keeps_its_turn_until_upstream_has_answered(kit):
    """Upstream holds its lock equally long, whether anyone still waits or not."""
    async with kit.World(latency=5.0) as world:
        world.upstream.add(OWNERS, "shared", kit.SESSION)
        first = asyncio.create_task(world.fm.get_secret(OWNERS[0], "shared"))
        await asyncio.sleep(6)
        first.cancel()
        await world.fm.get_secret(OWNERS[1], "shared")
        assert (world.upstream.gets["shared"], world.upstream.lock_waits) == (2, 0)


async def test_after_a_refresh_of_unknown_end_no_owner_asks_within_the_lock(kit):
    """One owner's timeout quarantines the secret for all of them."""
    async with kit.World() as world:
        world.upstream.add(OWNERS, "shared", left=-60)
        world.upstream.faults["shared"] = "reset"
        first = asyncio.create_task(world.together(1, OWNERS[0], "shared"))
        await asyncio.sleep(1)
        del world.upstream.faults["shared"]
        await world.fm.credential(OWNERS[1], "shared")
        await first
        asked = [at for at, _, path, _ in world.upstream.requests if path == "/secrets/shared"]
        assert asked[1] - asked[0] > 10
        assert world.upstream.lock_waits == 0


async def test_an_interactive_owner_does_not_wait_in_the_backgrounds_queue(kit):
    """A queued background GET that has the turn becomes interactive."""
    async with kit.World(concurrency=1, latency=1.0) as world:
        world.upstream.add(OWNERS, "shared", left=-60)
        others = [(f"user-{number}", f"secret-{number}") for number in range(50)]
        for pair in others:
            world.upstream.add(*pair, "API_KEY")
        for user in (*OWNERS[:2], *(user for user, _ in others)):
            await world.fm.impersonate(user)
        async with world.fm.keep_fresh([*others[:30], (OWNERS[0], "shared"), *others[30:]]):
            await asyncio.sleep(0.5)
            while not len(world.fm._parts.fetcher.turns):  # noqa: ASYNC110 - on virtual time
                await asyncio.sleep(0.25)
            began = world.clock.monotonic()
            await world.fm.credential(OWNERS[1], "shared")
            assert world.clock.monotonic() - began < 5
        assert world.upstream.lock_waits == 0


async def test_a_rejection_by_one_owner_takes_its_turn_too(kit):
    async with kit.World() as world:
        world.upstream.add(OWNERS, "shared", left=-60)
        leases = [world.fm.lease(owner, "shared") for owner in OWNERS]
        for lease in leases:
            await lease.__aenter__()
        world.upstream.kept["shared"].number = 7
        world.upstream.kept["shared"].expires = world.upstream.now() + 60
        got = await asyncio.gather(*(lease.reject() for lease in leases))
        check_values(kit, got)
        assert world.upstream.lock_waits == 0
