"""From the cache while it is valid; refreshed early, once, behind everybody's back; waited for at the end."""

import asyncio
import itertools

import msgspec
import pytest

from flowmate_async import CredentialExpiredError, SecretNotFoundError
from flowmate_async.contract.freshness import FreshnessPolicy

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

MINUTE = 60.0


async def test_a_credential_is_fetched_once_and_then_served_from_the_cache(kit):
    async with kit.world_with() as world:
        assert {await world.token("ali", "ali-s-secret") for _ in range(50)} == {"ali/ali-s-secret/1"}
        assert world.upstream.gets["ali-s-secret"] == 1
        assert world.fm.stats().cache.hits == 49


async def test_however_many_ask_at_once_one_request_goes_out(kit):
    async with kit.world_with() as world:
        assert set(await world.together(100, "ali", "ali-s-secret")) == {"ali/ali-s-secret/1"}
        assert world.upstream.gets["ali-s-secret"] == 1
        assert world.upstream.impersonations["ali"] == 1


async def test_before_the_window_begins_nothing_is_refreshed(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600 - 14 * MINUTE - 10)
        await world.token("ali", "ali-s-secret")
        await kit.settle()
        assert world.upstream.gets["ali-s-secret"] == 1


async def test_in_the_window_the_old_value_is_served_and_one_refresh_sent(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600 - 12 * MINUTE)
        began = world.clock.monotonic()
        assert set(await world.together(100, "ali", "ali-s-secret")) == {"ali/ali-s-secret/1"}
        assert world.clock.monotonic() == began
        await kit.settle()
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/2"
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_refresh_under_way_is_not_started_again(kit):
    async with kit.world_with(life=3600, options={"latency": 20.0}) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600 - 11 * MINUTE)
        for _ in range(10):
            await world.token("ali", "ali-s-secret")
            await asyncio.sleep(1)
        assert world.upstream.gets["ali-s-secret"] == 2
        assert not world.fm.stats().joined


async def test_in_the_last_minute_callers_wait_for_one_refresh(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600 - 30)
        assert set(await world.together(100, "ali", "ali-s-secret")) == {"ali/ali-s-secret/2"}
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_who_needs_it_for_longer_waits_for_a_newer_one_and_the_others_do_not(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600 - 11 * MINUTE)
        short, long = await asyncio.gather(
            world.token("ali", "ali-s-secret", 60), world.token("ali", "ali-s-secret", 1200)
        )
        assert (short, long) == ("ali/ali-s-secret/1", "ali/ali-s-secret/2")
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_an_expired_credential_is_never_handed_out(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600)
        assert await world.token("ali", "ali-s-secret", 0) == "ali/ali-s-secret/2"


async def test_a_password_is_served_while_it_is_fetched_again_after_its_time(kit):
    async with kit.world_with(kind="SIMPLE") as world:
        await world.token("ali", "ali-s-secret")
        world.upstream.kept["ali-s-secret"].number = 2
        await asyncio.sleep(50 * MINUTE)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        await asyncio.sleep(11 * MINUTE)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        await kit.settle()
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/2"
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_session_without_a_date_logs_in_once_for_its_whole_time(kit):
    async with kit.world_with(kind=kit.SESSION) as world:
        for _ in range(9):
            await world.together(20, "ali", "ali-s-secret")
            await asyncio.sleep(59)
        await kit.settle()
        assert world.upstream.refreshes["ali-s-secret"] == 1
        await asyncio.sleep(10)
        assert len(set(await world.together(20, "ali", "ali-s-secret"))) == 1
        assert world.upstream.refreshes["ali-s-secret"] == 2


async def test_the_answer_of_a_request_that_nobody_waits_for_any_more_is_kept(kit):
    async with kit.world_with(options={"latency": 5.0}) as world:
        callers = [asyncio.create_task(world.token("ali", "ali-s-secret")) for _ in range(10)]
        await asyncio.sleep(7)  # the impersonation is over, the GET is on the wire
        assert world.upstream.gets["ali-s-secret"] == 1
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        await asyncio.sleep(5)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        assert world.upstream.gets["ali-s-secret"] == 1


async def test_the_answer_of_a_second_attempt_that_nobody_waits_for_any_more_is_kept(kit):
    async with kit.world_with(options={"latency": 5.0}) as world:
        world.upstream.faults["ali-s-secret"] = "503"
        caller = asyncio.create_task(world.token("ali", "ali-s-secret"))
        await asyncio.sleep(12)  # the first attempt has failed, the second is on the wire
        assert world.upstream.gets["ali-s-secret"] == 2
        world.upstream.faults.clear()
        caller.cancel()
        await asyncio.wait([caller])
        await asyncio.sleep(6)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_cancelled_caller_harms_no_other(kit):
    async with kit.world_with() as world:
        callers = [asyncio.create_task(world.token("ali", "ali-s-secret")) for _ in range(20)]
        await asyncio.sleep(0.01)
        for caller in callers[::2]:
            caller.cancel()
        assert set(await asyncio.gather(*callers[1::2])) == {"ali/ali-s-secret/1"}
        assert world.upstream.gets["ali-s-secret"] == 1


async def test_the_least_recently_used_go_first_when_there_are_too_many(kit):
    async with kit.World(cache_capacity=3) as world:
        for name in "abcd":
            world.upstream.add("ali", name)
        for name in "abcad":  # "a" is used again before "d" comes
            await world.token("ali", name)
        assert [name for name in "abcd" if world.entry("ali", name)] == ["a", "c", "d"]
        assert world.fm.stats().cache.entries == 3


async def test_a_flight_is_never_evicted(kit):
    """Many other keys come and go while one request is in flight; later callers join it."""
    async with kit.World(cache_capacity=2) as world:
        world.upstream.add("ali", "slow")
        first = asyncio.create_task(world.token("ali", "slow"))
        await asyncio.sleep(0.2)
        for number in range(10):
            world.upstream.add("bea", f"other-{number}")
        await asyncio.gather(
            *(world.token("bea", f"other-{number}") for number in range(10)), world.token("ali", "slow")
        )
        await first
        assert world.upstream.gets["slow"] == 1


async def test_as_many_keys_as_a_full_cache_is_asked_for_at_once_all_get_their_own(kit):
    async with kit.World(cache_capacity=1) as world:
        for number in range(20):
            world.upstream.add("ali", f"s{number}")
        calls = [world.token("ali", f"s{number}") for number in range(20) for _ in range(3)]
        got = await asyncio.gather(*calls)
        assert got == [f"ali/s{number}/1" for number in range(20) for _ in range(3)]
        assert world.fm.stats().cache.entries == 1


async def test_one_secret_asked_for_by_two_users_is_two_entries(kit):
    async with kit.world_with() as world:
        await world.token("ali", "ali-s-secret")
        [refusal] = await world.together(1, "bea", "ali-s-secret")
        assert type(refusal).__name__ == "PermissionDeniedError"
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"


async def test_an_expired_answer_is_an_error_and_not_requested_again_at_once(kit):
    """OAuth without a refresh token: the expired token comes back with 200, however often one asks."""
    async with kit.world_with(left=-100.0, refreshable=False) as world:
        for _ in range(20):
            with pytest.raises(CredentialExpiredError, match="connect the app again"):
                await world.token("ali", "ali-s-secret")
        assert world.upstream.gets["ali-s-secret"] == 1
        await asyncio.sleep(46)
        with pytest.raises(CredentialExpiredError):
            await world.token("ali", "ali-s-secret")
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_provider_without_a_lifetime_is_not_asked_again_and_again(kit):
    """``expires`` is now in every answer, and every GET refreshes: each value is new and has ended."""
    async with kit.world_with(life=0.0) as world:
        for _ in range(20):
            with pytest.raises(CredentialExpiredError):
                await world.token("ali", "ali-s-secret", 0)
        assert world.upstream.gets["ali-s-secret"] == 1


async def test_the_same_expiry_again_is_backed_off_from(kit):
    """A refresh that brings nothing newer is not repeated for a cool-down, however often one asks."""
    async with kit.world_with(life=1800, refreshable=False) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(1800 - 11 * MINUTE)
        for _ in range(1300):
            assert await world.token("ali", "ali-s-secret", 0) == "ali/ali-s-secret/1"
            await asyncio.sleep(0.5)
        asked = [when for when, _, path, _ in world.upstream.requests if path.endswith("/ali-s-secret")]
        assert 3 <= len(asked) <= 12
        assert all(later - earlier >= 30 for earlier, later in itertools.pairwise(asked))


async def test_the_same_expiry_again_at_the_very_end_is_backed_off_from(kit):
    async with kit.world_with(life=1800, refreshable=False) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(1800 - 40)
        for _ in range(28):
            with pytest.raises(CredentialExpiredError):
                await world.token("ali", "ali-s-secret")
            await asyncio.sleep(1)
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_a_min_valid_that_upstream_cannot_meet_is_an_error(kit):
    async with kit.world_with(life=3600) as world:
        for _ in range(20):
            with pytest.raises(CredentialExpiredError, match=r"valid for 35\d\d s, not for 7200 s"):
                await world.token("ali", "ali-s-secret", 7200)
        assert world.upstream.gets["ali-s-secret"] <= 2
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"


@pytest.mark.parametrize("life", [300.0, 1200.0])
async def test_a_need_beyond_a_short_lifetime_does_not_refresh_at_every_call(kit, life):
    """Every GET below 15 minutes makes the provider issue a new token; asking again brings nothing longer."""
    async with kit.world_with(life=life, left=min(life, 300.0)) as world:
        for _ in range(20):
            with pytest.raises(CredentialExpiredError):
                await world.token("ali", "ali-s-secret", 2 * life)
        assert world.upstream.gets["ali-s-secret"] <= 2
        assert await world.token("ali", "ali-s-secret", 0)


async def test_a_need_beyond_a_sessions_time_does_not_log_in_at_every_call(kit):
    async with kit.world_with(kind=kit.SESSION) as world:
        for _ in range(20):
            with pytest.raises(CredentialExpiredError):
                await world.token("ali", "ali-s-secret", 3600)
        assert world.upstream.refreshes["ali-s-secret"] <= 2


async def test_a_wall_clock_set_back_does_not_prolong_a_credential(kit):
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.clock.wall_is_off_by = -7200
        await asyncio.sleep(3600)
        assert await world.token("ali", "ali-s-secret", 0) == "ali/ali-s-secret/2"


async def test_a_wall_clock_set_forward_costs_one_request_and_heals(kit):
    """For a while nothing looks valid; once the clock is right again so is the answer."""
    async with kit.world_with(life=3600) as world:
        await world.token("ali", "ali-s-secret")
        world.clock.wall_is_off_by = 7200
        for _ in range(20):
            with pytest.raises(CredentialExpiredError):
                await world.token("ali", "ali-s-secret")
        assert world.upstream.gets["ali-s-secret"] == 2
        world.clock.wall_is_off_by = 0
        await asyncio.sleep(46)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"


async def test_a_clock_that_is_a_little_behind_is_allowed_for(kit):
    """With an allowance of 60 s, a wall clock 55 s behind hands out nothing that has ended."""
    policy = FreshnessPolicy(skew_seconds=60)
    async with kit.World(freshness=policy) as world:
        world.clock.wall_is_off_by = -55
        world.upstream.add("ali", "ali-s-secret", life=3600)
        handed_out = set()
        for _ in itertools.repeat(None, 80):
            await asyncio.sleep(60)
            handed_out.add(await world.token("ali", "ali-s-secret", 0))
            kept = world.upstream.kept["ali-s-secret"]
            token = await world.token("ali", "ali-s-secret", 0)
            assert token == kept.token("ali") or kept.number > 1
            assert kept.expires > world.upstream.now() or token != kept.token("ali")
        assert handed_out >= {"ali/ali-s-secret/1", "ali/ali-s-secret/2"}


async def test_what_is_forgotten_when_the_client_closes_is_everything(kit):
    async with kit.world_with() as world:
        await world.token("ali", "ali-s-secret")
    assert world.fm.stats().cache.entries == 0


async def test_closing_ends_background_refreshes(kit):
    before = asyncio.all_tasks()
    async with kit.world_with(life=3600, options={"latency": 20.0}) as world:
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(3600 - 10 * MINUTE)
        await world.token("ali", "ali-s-secret")
        await asyncio.sleep(1)
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


async def test_a_secret_added_later_is_found_once_its_absence_is_forgotten(kit):
    async with kit.World() as world:
        with pytest.raises(SecretNotFoundError):
            await world.token("ali", "ali-s-secret")
        world.upstream.add("ali", "ali-s-secret")
        with pytest.raises(SecretNotFoundError):
            await world.token("ali", "ali-s-secret")
        await asyncio.sleep(11)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        assert world.upstream.gets["ali-s-secret"] == 2


class TestBytes:
    """The cache has a budget of bytes besides its capacity."""

    KEYS = ("a" * 24, "b" * 24, "c" * 24)

    def world(self, kit, budget):
        return kit.World(cache_max_bytes=budget)

    def answer(self, world, kit, size, kind="MIXED", **value):
        def sick(_method, path, _username):
            if not path.startswith("/secrets/"):
                return None
            secret = {"_id": path[-24:], "type": kind, "value": {"payload": "x" * size} | value}
            return kit.json_response(msgspec.json.encode({"data": secret}))

        world.upstream.sick = sick

    async def cached(self, world):
        for key in self.KEYS:
            await world.fm.credential("ann", key)
        return [key for key in self.KEYS if world.entry("ann", key) is not None]

    async def test_the_least_recently_used_go_first(self, kit):
        async with self.world(kit, 250_000) as world:
            self.answer(world, kit, 100_000)
            assert await self.cached(world) == list(self.KEYS[1:])

    async def test_what_fits_stays(self, kit):
        async with self.world(kit, 310_000) as world:
            self.answer(world, kit, 100_000)
            assert await self.cached(world) == list(self.KEYS)

    async def test_text_of_wide_characters_counts_as_such(self, kit):
        async with self.world(kit, 310_000) as world:
            self.answer(world, kit, 30_000, more="\N{GRINNING FACE}")
            assert len(await self.cached(world)) < 3

    @pytest.mark.parametrize(("kind", "value"), [("NEW", {}), ("MIXED", {"unknown": [[]] * 1000})])
    async def test_parts_of_unknown_shape_count_many_times(self, kit, kind, value):
        async with self.world(kit, 310_000) as world:
            self.answer(world, kit, 5_000, kind, **value)
            assert len(await self.cached(world)) < 3

    async def test_a_secret_beyond_the_budget_is_served_and_not_cached(self, kit):
        async with self.world(kit, 5_000) as world:
            self.answer(world, kit, 10_000)
            assert await self.cached(world) == []

    async def test_a_newer_answer_with_the_same_credential_is_counted_anew(self, kit):
        async with self.world(kit, 10_000_000) as world:
            table = world.fm._parts.credentials._entries
            for size in (10, 100_000, 10):
                self.answer(world, kit, 10, "OA2_AUTHORIZATION_CODE", accessToken="t", scope="x" * size)
                await world.fm.credential("ann", self.KEYS[0])
                assert size < table.bytes < 33 * (size + 400) + 1024
                await asyncio.sleep(700)
            world.fm._parts.credentials.forget("ann", self.KEYS[0])
            assert table.bytes == 0
