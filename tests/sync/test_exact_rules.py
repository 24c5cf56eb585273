"""Exact rules of a sync: spellings, the share that may be removed, the order at its end, what is skipped."""

import asyncio
import json

import pytest

from flowmate_async import (
    FlowMate,
    RateLimitedError,
    RetryPolicy,
    StoreError,
    SyncOptions,
    UserFailed,
    open_store,
)
from flowmate_async.events import UserSkipped, UserStored
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.sync.removal import remove_missing
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.testing.store_writes import listing, named, places, write

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


@pytest.fixture
async def store():
    async with open_store("memory:") as opened:
        yield opened


class Tenant:
    """Users with some API keys each; answers a GET of a secret with another answer, if it is set."""

    def __init__(self, secrets=2, answer=None):
        self.held = [f"{number:024x}" for number in range(secrets)]
        self.answer = answer
        self.gets, self.posts = [], []

    def __call__(self, method, path, headers, body):
        if method == "POST":
            self.posts.append(json.loads(body)["username"])
            return json_response(b'{"token":"t"}')
        if path.startswith("/users/"):
            users = [{"_id": "1" * 24, "username": "ann", "status": "ACTIVE", "tenant": "t"}]
            return json_response(json.dumps({"data": users, "meta": {"total": 1}}).encode())
        if path.startswith("/secrets/?"):
            data = [{"_id": one, "type": "API_KEY", "owners": []} for one in self.held]
            return json_response(json.dumps({"data": data, "meta": {"total": len(data)}}).encode())
        self.gets.append(path.rpartition("/")[2])
        if self.answer is not None:
            return self.answer
        value = {"key": "a-key-that-is-long-enough"}
        item = {"_id": self.gets[-1], "type": "API_KEY", "value": value}
        return json_response(json.dumps({"data": item}).encode())

    def client(self, **options):
        return FlowMate(
            admin_token="a",
            base_url="http://localhost",
            transport=MemoryTransport(self),
            rate=None,
            **options,
        )


async def removed(store, run, *, accounts=None, max_share=1.0):
    return await remove_missing(store, run, policy="delete", max_share=max_share, accounts=accounts, at=20.0)


class TestRemoval:
    @pytest.mark.parametrize("stored", ["ann", "Ann", "ANN"])
    @pytest.mark.parametrize("listed", ["ann", "Ann", "ANN"])
    async def test_spellings_of_one_user_are_the_same_user(self, store, stored, listed):
        """Upstream's usernames ignore case, so a stored user who is listed otherwise is not gone."""
        run = await write(store, listing(stored, *named("a")), listing("bob", *named("b")))
        assert (await removed(store, run, accounts=[listed])).removed == 1
        assert await places(store) == [f"{stored} a"]

    @pytest.mark.parametrize(
        ("max_share", "refused"), [(0.25, False), (0.2499, True), (1.0, False), (0.0, True)]
    )
    async def test_exactly_the_share_may_be_removed(self, store, max_share, refused):
        """One of four credentials is missing."""
        run = await write(store, listing("ann", *named("a", "b", "c")), listing("bob", *named("d")))
        result = await removed(store, run, accounts=["ann"], max_share=max_share)
        assert (result.refused, result.removed, result.missing) == (refused, 0 if refused else 1, 1)
        assert len(await places(store)) == (4 if refused else 3)

    async def test_with_a_share_of_0_nothing_missing_is_no_refusal(self, store):
        run = await write(store, listing("ann", *named("a")))
        assert not (await removed(store, run, accounts=["ann"], max_share=0.0)).refused

    async def test_all_of_it_may_be_removed_with_a_share_of_1(self, store):
        run = await write(store, listing("ann", *named("a", "b")))
        assert (await removed(store, run, accounts=[], max_share=1.0)).removed == 2
        assert await places(store) == []

    async def test_a_run_is_complete_only_after_its_removal(self):
        """A removal that fails is repeated by the next sync, which resumes the run."""

        class FailsOnce(MemoryStore):
            failures = 1

            async def remove_missing(self, run, *, how, at):
                if self.failures:
                    self.failures -= 1
                    raise StoreError("the disk is full")
                return await super().remove_missing(run, how=how, at=at)

        tenant, options = Tenant(secrets=20), SyncOptions(removed="delete")
        async with FailsOnce() as store, tenant.client() as fm:
            await fm.sync(store)
            tenant.held.pop()
            with pytest.raises(StoreError):
                await fm.sync(store, options=options)
            report = await fm.sync(store, options=options)
            assert (report.resumed, report.complete, report.removed) == (True, True, 1)
            assert len(await places(store)) == 19


class TestReader:
    async def test_a_throttled_user_is_not_asked_on(self):
        """The user's other secrets would be throttled as well."""
        tenant = Tenant(secrets=5, answer=json_response(b'{"message":"slow down"}', 429))
        async with tenant.client(retry=RetryPolicy(attempts=1)) as fm:
            [outcome] = [outcome async for outcome in fm.sweep(["ann"])]
        assert isinstance(outcome, UserFailed)
        assert isinstance(outcome.error, RateLimitedError)
        assert len(tenant.gets) == 1


class TestResume:
    async def interrupted(self, fm, store, names):
        """Sync one user of these and stop."""
        stop = asyncio.Event()

        def on_event(event):
            if isinstance(event, UserStored):
                stop.set()

        report = await fm.sync(store, names, stop=stop, on_event=on_event)
        assert not report.complete
        return report

    async def test_other_users_of_the_same_letters_are_other_users(self, store):
        tenant = Tenant()
        async with tenant.client(concurrency=1) as fm:
            await self.interrupted(fm, store, ["ab", "c", *map(str, range(30))])
            report = await fm.sync(store, ["a", "bc", *map(str, range(30))])
        assert (report.resumed, report.complete) == (False, True)

    async def test_the_order_of_users_does_not_matter(self, store):
        names = ["ab", "c", *map(str, range(30))]
        async with Tenant().client(concurrency=1) as fm:
            await self.interrupted(fm, store, names)
            assert (await fm.sync(store, names[::-1])).resumed

    async def test_a_name_that_cannot_be_printed_is_skipped_as_well(self, store):
        """It is stored as text that shows it, and found again under that."""
        soft = "an\u00adn"
        skipped, names = [], [soft, *map(str, range(30))]
        tenant = Tenant()

        def on_event(event):
            if isinstance(event, UserSkipped):
                skipped.append(event.username)

        async with tenant.client(concurrency=1) as fm:
            first = await self.interrupted(fm, store, names)
            report = await fm.sync(store, names, on_event=on_event)
        assert (report.resumed, report.synced, report.skipped) == (True, 31, first.synced)
        assert soft in skipped
        assert tenant.posts.count(soft) == 1
