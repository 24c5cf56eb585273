"""The batch job against the running sandbox: exact contents, resuming, ending early, nothing lost."""

import asyncio
from collections import Counter

import msgspec
import pytest

from flowmate_async import (
    AuthenticationError,
    CheckpointError,
    DeltaPolicy,
    FlowMate,
    StoreError,
    SyncOptions,
    TooManyFailuresError,
    UpstreamUnavailableError,
    open_store,
)
from flowmate_async.engine.retry import RetryPolicy
from flowmate_async.events import RunBegan, RunEnded, UserNotStored, UserStored
from flowmate_async.sandbox import ProviderFault

pytestmark = pytest.mark.anyio

NAMES = [f"user-{number:06d}@tenant.example" for number in range(20)]


@pytest.fixture
async def store():
    async with open_store("memory:") as opened:
        yield opened


async def contents(store):
    """(user, id) -> (type, value as upstream writes it) of everything stored."""

    def bare(secret):
        value = msgspec.json.decode(msgspec.json.encode(secret))["value"]
        return value | value.pop("_extra", {})

    return {(username, secret.id): (secret.kind, bare(secret)) async for username, secret in store.secrets()}


def truth(sandbox):
    def bare(value):
        return {name: part for name, part in value.items() if part is not None}

    return {(t.username, t.secret_id): (t.type, bare(t.value)) for t in sandbox.world.truth()}


async def test_the_store_holds_exactly_what_upstream_has(sandbox, fm, store):
    """Rotated by the sync itself where they were expired; the sandbox's truth is what it is afterwards."""
    report = await fm.sync(store)
    assert await contents(store) == truth(sandbox)
    assert (report.synced, report.failed, report.complete, report.errors) == (20, 0, True, {})
    assert report.secrets == report.changed == len(truth(sandbox))
    assert report.requests == sandbox.stats().total_requests() - 1  # but for the list of users
    assert max(sandbox.stats().secret_gets.values()) == 1
    assert max(sandbox.stats().refreshes.values()) == 1


async def test_all_users_means_active_ones_of_the_tenant_and_says_who_is_left_out(sandbox, fm, store):
    report = await fm.sync(store)
    active = {user.username for user in sandbox.world.users() if user.active_tenant_user}
    others = {user.username for user in sandbox.world.users()} - active
    assert {username async for username, _ in store.secrets()} <= active
    assert {left.username for left in report.left_out} == others
    assert all(left.reason for left in report.left_out)


async def test_the_next_run_rewrites_only_what_changed(sandbox, fm, store):
    """The first refreshes, which moves upstream's dates behind its answer; the second settles that."""
    full = SyncOptions(delta=DeltaPolicy(full=True))
    await fm.sync(store)
    await fm.sync(store, options=full)
    before = truth(sandbox)
    changed = sandbox.world.secret(next(t.secret_id for t in sandbox.world.truth() if t.type == "SIMPLE"))
    changed.value = {**changed.value, "passphrase": "a new one"}
    second = await fm.sync(store, options=full)
    after = truth(sandbox)
    assert await contents(store) == after
    assert second.changed == sum(before[key] != after[key] for key in after) >= 1
    assert second.changed + second.unchanged == len(after)


async def test_somebody_named_twice_is_stored_once(sandbox, fm, store):
    report = await fm.sync(store, [NAMES[1], NAMES[2], NAMES[1]])
    wanted = {key: value for key, value in truth(sandbox).items() if key[0] in (NAMES[1], NAMES[2])}
    assert await contents(store) == wanted
    assert (report.synced, report.secrets) == (2, len(wanted))


class TestResuming:
    async def interrupted(self, fm, store, users=NAMES):
        """A run that was stopped after some users."""
        stop, stored = asyncio.Event(), []

        def on_event(event):
            if isinstance(event, UserStored):
                stored.append(event.username)
                stop.set()

        report = await fm.sync(store, users, on_event=on_event, stop=stop)
        assert not report.complete
        return stored, report

    @pytest.fixture(params=["aiohttp", "wire"])
    async def fm(self, sandbox, request):
        async with FlowMate(
            admin_token=sandbox.admin_token,
            base_url=sandbox.url,
            rate=None,
            concurrency=3,
            transport=request.param,
        ) as client:
            yield client

    async def test_stopped_it_keeps_what_was_acknowledged_and_begins_nobody_else(self, sandbox, fm, store):
        stored, report = await self.interrupted(fm, store)
        assert 1 <= len(stored) < 20
        assert report.synced == len(stored)
        assert set(sandbox.stats().impersonations_by_username) == set(stored)
        assert {username for username, _ in await contents(store)} <= set(stored)

    async def test_run_again_nobody_is_done_twice_and_the_result_is_the_same(self, sandbox, fm, store):
        stored, first = await self.interrupted(fm, store)
        sandbox.reset_stats()
        second = await fm.sync(store, NAMES)
        assert set(sandbox.stats().impersonations_by_username) == set(NAMES) - set(stored)
        assert (second.run_id, second.resumed, second.complete) == (first.run_id, True, True)
        assert (second.synced, second.skipped) == (20, len(stored))
        assert await contents(store) == truth(sandbox)

    async def test_an_async_iterable_resumes_as_well(self, sandbox, fm, store):
        async def names(failing):
            for name in NAMES[:10]:
                yield name
            if failing:
                raise LookupError("the caller's own")
            for name in NAMES[10:]:
                yield name

        with pytest.raises(LookupError):
            await fm.sync(store, names(failing=True))
        stored = {username async for username, _ in store.secrets()}
        report = await fm.sync(store, names(failing=False))
        assert (report.resumed, report.skipped, report.synced) == (True, len(stored), 20)
        assert stored

    async def test_a_run_of_other_users_is_neither_resumed_nor_completed(self, fm, store):
        """What one selection left half-done is not another's to go on with."""
        _, half = await self.interrupted(fm, store)
        other = await fm.sync(store, NAMES[:2])
        assert (other.resumed, other.synced, other.complete) == (False, 2, True)
        resumed = await fm.sync(store, NAMES)
        assert (resumed.run_id, resumed.resumed, resumed.synced) == (half.run_id, True, 20)

    async def test_the_order_and_the_kind_of_collection_do_not_matter(self, fm, store):
        _, half = await self.interrupted(fm, store)
        assert (await fm.sync(store, frozenset(NAMES))).run_id == half.run_id

    async def test_a_run_that_is_too_old_is_not_resumed(self, fm, store):
        _, first = await self.interrupted(fm, store)
        second = await fm.sync(store, NAMES, options=SyncOptions(max_age_seconds=0))
        assert second.run_id != first.run_id
        assert (second.resumed, second.skipped, second.synced) == (False, 0, 20)

    async def test_a_complete_run_is_followed_by_a_new_one(self, fm, store):
        first = await fm.sync(store, NAMES[:3])
        second = await fm.sync(store, NAMES[:3])
        assert (second.resumed, second.run_id == first.run_id) == (False, False)

    async def test_failed_users_are_tried_again_when_asked_to(self, sandbox, fm, store):
        bad = sandbox.world.user(NAMES[4])
        bad.status = "DISABLED"
        first = await fm.sync(store, NAMES)
        assert (first.synced, first.failed, first.errors) == (19, 1, {"user_not_found": 1})
        bad.status = "ACTIVE"
        sandbox.reset_stats()
        second = await fm.sync(store, NAMES, options=SyncOptions(retry_failed=True))
        assert set(sandbox.stats().impersonations_by_username) == {NAMES[4]}
        assert (second.synced, second.failed, second.skipped, second.run_id) == (20, 0, 19, first.run_id)
        assert await contents(store) == truth(sandbox)


class TestFailures:
    async def test_one_bad_secret_does_not_stop_its_user_and_one_bad_user_not_the_run(
        self, sandbox, fm, store
    ):
        value = {"accessToken": "old", "refreshToken": "r", "expires": "2020-01-01T00:00:00Z"}
        bad = sandbox.world.add_secret(NAMES[3], type="OA2_AUTHORIZATION_CODE", value=value)
        bad.fault = ProviderFault.ERROR_BODY
        seen = []
        report = await fm.sync(store, on_event=seen.append)
        assert (report.synced, report.failed, report.errors) == (19, 1, {"refresh_failed": 1})
        wanted = truth(sandbox)
        del wanted[NAMES[3], bad.id]
        assert await contents(store) == wanted
        assert [event.username for event in seen if isinstance(event, UserNotStored)] == [NAMES[3]]
        kinds = Counter(type(event).__name__ for event in seen)
        assert (kinds["RunBegan"], kinds["UserStored"], kinds["RunEnded"]) == (1, 19, 1)
        assert isinstance(seen[-1], RunEnded)
        assert next(event for event in seen if isinstance(event, RunBegan)).total == 20

    async def test_more_than_allowed_ends_the_run(self, sandbox, fm, store):
        unknown = [f"nobody-{number}" for number in range(500)]
        with pytest.raises(TooManyFailuresError):
            await fm.sync(store, unknown, options=SyncOptions(max_failures=5))
        assert sandbox.stats().total_requests() < 400
        assert (await store.last_run()).finished_at is None

    async def test_as_many_as_allowed_do_not(self, fm, store):
        unknown = [f"nobody-{number}" for number in range(5)]
        report = await fm.sync(store, [*unknown, *NAMES], options=SyncOptions(max_failures=5))
        assert (report.failed, report.synced, report.complete) == (5, 20, True)

    async def test_a_crash_of_the_names_is_raised_and_the_run_can_be_resumed(self, sandbox, fm, store):
        def names(failing):
            yield from NAMES[:10]
            if failing:
                raise LookupError("the caller's own")
            yield from NAMES[10:]

        with pytest.raises(LookupError):
            await fm.sync(store, names(failing=True))
        assert (await store.last_run()).finished_at is None
        report = await fm.sync(store, names(failing=False))
        assert (report.resumed, report.synced) == (True, 20)

    @pytest.mark.parametrize("name", ["x\udcff", None, 5, "", " padded", "a\x00b"])
    async def test_what_is_no_username_fails_alone(self, fm, store, name):
        report = await fm.sync(store, [*NAMES[:5], name])
        assert (report.complete, report.synced, report.errors) == (True, 5, {"invalid_id": 1})


class TestEndingAtOnce:
    """A thousand users, all of whom would fail: the run ends, and can be resumed."""

    MANY = tuple(f"nobody-{number}" for number in range(1000))

    async def test_when_the_admin_token_is_rejected(self, sandbox, store):
        async with FlowMate(admin_token="wrong", base_url=sandbox.url, rate=None) as fm:
            with pytest.raises(AuthenticationError):
                await fm.sync(store, self.MANY)
        assert sandbox.stats().total_requests() < 300
        assert (await store.last_run()).finished_at is None

    async def test_when_upstream_is_gone(self, store):
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        seen = []
        async with FlowMate(
            admin_token="a",
            base_url=url,
            rate=None,
            concurrency=8,
            retry=RetryPolicy(attempts=1),
            on_event=seen.append,
        ) as fm:
            with pytest.raises(UpstreamUnavailableError):
                await fm.sync(store, self.MANY)
        assert sum(isinstance(event, UserNotStored) for event in seen) < 60
        assert (await store.last_run()).finished_at is None


class TestTheStoresSide:
    async def test_two_runs_of_one_store_exclude_each_other(self, fm, store):
        outcomes = await asyncio.gather(fm.sync(store, NAMES), fm.sync(store, NAMES), return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["RunInProgressError", "SyncReport"]
        assert isinstance(outcomes[1], CheckpointError)

    async def test_a_store_of_another_upstream_is_refused_before_anything_is_read(self, sandbox, fm, store):
        await store.bind("https://another.example")
        with pytest.raises(StoreError):
            await fm.sync(store, NAMES)
        assert sandbox.stats().total_requests() == 0

    async def test_a_user_is_only_checkpointed_with_what_was_written(self, sandbox, fm, store, monkeypatch):
        """A write that fails ends the run; what was not acknowledged is fetched again by the next."""
        write, calls = store.write, []

        async def fails_once(run, batch):
            calls.append(batch)
            if len(calls) == 2:
                raise StoreError("the disk is full")
            return await write(run, batch)

        monkeypatch.setattr(store, "write", fails_once)
        async with FlowMate(
            admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, concurrency=2
        ) as few:
            with pytest.raises(StoreError, match="full"):
                await few.sync(store, NAMES)
            acknowledged = {user.checkpoint.username for user in calls[0]}
            assert {username for username, _ in await contents(store)} <= acknowledged
            report = await few.sync(store, NAMES)
        assert (report.synced, report.skipped) == (20, len(acknowledged))
        assert await contents(store) == truth(sandbox)
