"""A lease: "the app answered 401" brings a newer credential, once for however many say so, or an error."""

import asyncio

import pytest

from flowmate_async import (
    CredentialExpiredError,
    CredentialRejectedError,
    FlowMateError,
    RefreshFailedError,
    SecretNotFoundError,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

MINUTE = 60.0


async def rejected(lease, kit):
    """What rejecting brings: the credential as the app sees it, or the error's class."""
    try:
        return kit.presented(await lease.reject())
    except FlowMateError as error:
        return type(error)


async def test_a_lease_is_a_credential_that_lasts(kit):
    async with kit.world_with() as world, world.fm.lease("ali", "ali-s-secret", min_valid=300) as lease:
        assert kit.presented(lease.secret) == "ali/ali-s-secret/1"
        assert (lease.username, lease.secret_id) == ("ali", "ali-s-secret")


async def test_rejecting_brings_a_newer_credential_to_this_lease_and_to_everybody(kit):
    async with kit.world_with(kind=kit.SESSION) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        old, before = kit.presented(lease.secret), lease.generation
        newer = kit.presented(await lease.reject())
        assert newer != old
        assert kit.presented(lease.secret) == newer
        assert lease.generation > before
        assert await world.token("ali", "ali-s-secret") == newer


@pytest.mark.parametrize("how", ["at once", "one by one"])
async def test_a_hundred_rejections_of_one_value_cause_one_refetch(kit, how):
    async with kit.world_with(kind=kit.SESSION) as world, asyncio.timeout(1000):
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(100)]
        await asyncio.gather(*(lease.__aenter__() for lease in leases))
        if how == "at once":
            newer = await asyncio.gather(*(rejected(lease, kit) for lease in leases))
        else:
            newer = [await rejected(lease, kit) for lease in leases]
        assert len(set(newer)) == 1
        assert world.upstream.gets["ali-s-secret"] == 2


@pytest.mark.parametrize("how", ["at once", "one by one"])
async def test_the_same_value_again_is_an_error_that_is_remembered_for_a_cool_down(kit, how):
    async with kit.world_with() as world:
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(100)]
        await asyncio.gather(*(lease.__aenter__() for lease in leases))
        if how == "at once":
            got = await asyncio.gather(*(rejected(lease, kit) for lease in leases))
        else:
            got = [await rejected(lease, kit) for lease in leases]
        assert set(got) == {CredentialRejectedError}
        assert world.upstream.gets["ali-s-secret"] == 2
        await asyncio.sleep(46)
        assert await rejected(leases[0], kit) is CredentialRejectedError
        assert world.upstream.gets["ali-s-secret"] == 3


async def test_after_the_cool_down_a_value_that_changed_is_found(kit):
    async with kit.world_with(kind="API_KEY") as world, world.fm.lease("ali", "ali-s-secret") as lease:
        assert await rejected(lease, kit) is CredentialRejectedError
        world.upstream.kept["ali-s-secret"].number = 2
        assert await rejected(lease, kit) is CredentialRejectedError
        await asyncio.sleep(46)
        assert await rejected(lease, kit) == "ali/ali-s-secret/2"


async def test_the_same_token_with_another_date_is_the_same_credential(kit):
    """The app sees the token, not when it ends."""
    async with kit.world_with(life=3600) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        world.upstream.kept["ali-s-secret"].expires += 60
        assert await rejected(lease, kit) is CredentialRejectedError


async def test_other_refresh_fields_do_not_make_another_credential(kit):
    """They come in plain text or as ciphertext, whichever GET it was."""
    async with kit.world_with(options={"keep_refresh_fields": True}) as world:
        kept = world.upstream.kept["ali-s-secret"]
        kept.refresh_token = "in clear"
        async with world.fm.lease("ali", "ali-s-secret") as lease:
            kept.refresh_token = "\x01\x02ciphertext"
            assert await rejected(lease, kit) is CredentialRejectedError


async def test_a_rejection_after_somebody_elses_refresh_takes_theirs(kit):
    async with kit.world_with(life=3600) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        await asyncio.sleep(3600 - 30)
        await world.token("ali", "ali-s-secret")
        assert await rejected(lease, kit) == "ali/ali-s-secret/2"
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_forced_refresh_never_joins_an_unforced_flight(kit):
    """The flight's answer was asked for before the app said 401."""
    options = {"latency": 5.0}
    async with (
        kit.world_with(kind="API_KEY", options=options) as world,
        world.fm.lease("ali", "ali-s-secret") as lease,
    ):
        ordinary = asyncio.create_task(world.fm.get_secret("ali", "ali-s-secret"))
        await asyncio.sleep(1)
        forced = asyncio.create_task(rejected(lease, kit))
        await asyncio.sleep(1)
        assert world.upstream.gets["ali-s-secret"] == 2
        await ordinary
        assert await forced is CredentialRejectedError
        assert world.upstream.gets["ali-s-secret"] == 3
        assert world.upstream.overlaps == 0


async def test_the_lease_of_an_evicted_entry_can_be_rejected(kit):
    async with kit.world_with(kind=kit.SESSION, options={"cache_capacity": 1}) as world:
        world.upstream.add("ali", "other")
        async with world.fm.lease("ali", "ali-s-secret") as lease:
            old = kit.presented(lease.secret)
            await world.token("ali", "other")
            assert world.entry("ali", "ali-s-secret") is None
            newer = await rejected(lease, kit)
            assert newer not in {old, CredentialRejectedError}


async def test_a_value_that_was_evicted_and_fetched_again_is_no_newer_one(kit):
    """The generation is another, the value is not: handing it out again would be no answer to a 401."""
    async with kit.world_with(options={"cache_capacity": 1}) as world:
        world.upstream.add("ali", "other")
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(3)]
        for lease in leases:
            await lease.__aenter__()
            await world.token("ali", "other")
        await world.token("ali", "ali-s-secret")
        gets = world.upstream.gets["ali-s-secret"]
        for lease in leases:
            assert await rejected(lease, kit) is CredentialRejectedError
        assert world.upstream.gets["ali-s-secret"] == gets + 1


async def test_rejecting_never_hands_out_an_expired_credential(kit):
    """The newer one of a long job's lease may itself have ended long ago."""
    async with kit.world_with(life=3600) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        await asyncio.sleep(3600 - 30)
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3700)
        assert await rejected(lease, kit) == "ali/ali-s-secret/3"


async def test_rejecting_never_hands_out_an_answer_that_has_ended(kit):
    async with kit.world_with(life=3600) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        kept = world.upstream.kept["ali-s-secret"]
        kept.number, kept.expires, kept.refreshable = 2, world.upstream.now() - 1, False
        assert await rejected(lease, kit) is CredentialExpiredError


async def test_the_newer_credential_lasts_as_long_as_the_lease_asked_for(kit):
    async with (
        kit.world_with(life=3600) as world,
        world.fm.lease("ali", "ali-s-secret", min_valid=600) as lease,
    ):
        kept = world.upstream.kept["ali-s-secret"]
        kept.number, kept.expires, kept.refreshable = 2, world.upstream.now() + 300, False
        assert await rejected(lease, kit) is CredentialExpiredError


@pytest.mark.parametrize("how", ["at once", "one by one"])
async def test_rejections_during_a_failed_refresh_share_its_cool_down(kit, how):
    async with kit.world_with() as world:
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(50)]
        await asyncio.gather(*(lease.__aenter__() for lease in leases))
        world.upstream.faults["ali-s-secret"] = "refresh failed"
        if how == "at once":
            got = await asyncio.gather(*(rejected(lease, kit) for lease in leases))
        else:
            got = [await rejected(lease, kit) for lease in leases]
        assert set(got) == {RefreshFailedError}
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_rejections_of_a_secret_that_is_gone_ask_once(kit):
    async with kit.world_with() as world:
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(50)]
        await asyncio.gather(*(lease.__aenter__() for lease in leases))
        del world.upstream.kept["ali-s-secret"]
        got = [await rejected(lease, kit) for lease in leases]
        assert set(got) == {SecretNotFoundError}
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_cancelled_rejection_harms_no_other(kit):
    async with kit.world_with(kind=kit.SESSION, options={"latency": 2.0}) as world:
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(10)]
        await asyncio.gather(*(lease.__aenter__() for lease in leases))
        tasks = [asyncio.create_task(rejected(lease, kit)) for lease in leases]
        await asyncio.sleep(1)
        for task in tasks[::2]:
            task.cancel()
        assert len(set(await asyncio.gather(*tasks[1::2]))) == 1
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_outside_its_block_a_lease_has_nothing(kit):
    async with kit.world_with() as world:
        lease = world.fm.lease("ali", "ali-s-secret")
        for use in (lambda: lease.secret, lambda: lease.generation):
            with pytest.raises(RuntimeError, match="async with"):
                use()
        with pytest.raises(RuntimeError, match="async with"):
            await lease.reject()


async def test_while_a_rejected_value_is_replaced_nobody_is_handed_it(kit):
    """At thousands of jobs a second, one round trip of a dead credential is many failed jobs."""
    async with kit.world_with(kind=kit.SESSION) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        old = kit.presented(lease.secret)
        rejecting = asyncio.create_task(lease.reject())
        await asyncio.sleep(0.05)  # its request is on the wire
        got = await asyncio.gather(*(world.token("ali", "ali-s-secret") for _ in range(20)))
        newer = kit.presented(await rejecting)
        assert newer != old
        assert set(got) == {newer}
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_waiter_for_a_rejected_value_is_not_told_it_expired(kit):
    """A lease learns of the landing in the same step as they do, and some of them after it."""
    async with kit.world_with(kind="API_KEY") as world, world.fm.lease("ali", "ali-s-secret") as lease:
        world.fm._parts.credentials.forget("ali", "ali-s-secret")
        waiting = asyncio.create_task(world.together(50, "ali", "ali-s-secret"))
        await asyncio.sleep(0.05)  # its request is on the wire
        assert await rejected(lease, kit) is CredentialRejectedError
        assert set(await waiting) == {"ali/ali-s-secret/1"}
        assert world.upstream.gets["ali-s-secret"] == 3


async def test_a_replacement_is_awaited_also_if_there_was_nothing_newer(kit):
    """The cool-down is for the value that upstream has; an app's rejection puts just that in doubt."""
    async with kit.world_with(life=3600) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        with pytest.raises(CredentialExpiredError):
            await world.token("ali", "ali-s-secret", min_valid=5000)
        world.upstream.kept["ali-s-secret"].number = 2
        rejecting = asyncio.create_task(rejected(lease, kit))
        await asyncio.sleep(0.05)  # its request is on the wire
        assert set(await world.together(20, "ali", "ali-s-secret")) == {"ali/ali-s-secret/2"}
        assert await rejecting == "ali/ali-s-secret/2"
        assert world.upstream.gets["ali-s-secret"] == 3


async def test_a_renewal_under_way_is_taken_for_the_newer_value(kit):
    """Asked for before the rejection, it still brings another value; one more login might end that one."""
    async with kit.world_with(kind=kit.SESSION) as world, world.fm.lease("ali", "ali-s-secret") as lease:
        world.fm._parts.credentials.forget(
            "ali", "ali-s-secret"
        )  # so that somebody has to ask for a newer one
        first = asyncio.create_task(world.token("ali", "ali-s-secret"))
        await asyncio.sleep(0.05)  # its request is on the wire
        newer = kit.presented(await lease.reject())
        assert newer == await first
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_rejection_that_is_given_up_stays_one_for_others(kit):
    """As long as somebody else waits for the newer one."""
    options = {"latency": 5.0}
    async with kit.world_with(kind=kit.SESSION, options=options) as world:
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(2)]
        for lease in leases:
            await lease.__aenter__()
        old = kit.presented(leases[0].secret)
        first, second = [asyncio.create_task(rejected(lease, kit)) for lease in leases]
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.sleep(1)
        newer = await world.token("ali", "ali-s-secret")
        assert newer == await second != old
