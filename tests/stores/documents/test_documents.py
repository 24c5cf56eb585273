"""Names of documents, and the run lock of services that have none."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FlowMate
from flowmate_async.errors import CheckpointError
from flowmate_async.events import UserNotStored
from flowmate_async.sandbox import Sandbox
from flowmate_async.stores.documents.base import Conflict, Document, DocumentRefused, name_of, username_of
from flowmate_async.stores.documents.store import DocumentStore
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import collect, synced, write

pytestmark = pytest.mark.anyio

USERNAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


class Shelf:
    """Documents in a dictionary, which several stores may share."""

    where = "on a shelf"
    lease_seconds = 60.0

    def __init__(self, shared: dict[str, Document] | None = None) -> None:
        self.shared = {} if shared is None else shared
        self.broken = False

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def read(self, name: str) -> Document | None:
        await asyncio.sleep(0)
        return self.shared.get(name)

    async def read_many(self, names: Sequence[str]) -> Mapping[str, Document]:
        return {name: self.shared[name] for name in names if name in self.shared}

    async def write(self, name: str, text: Plaintext, *, replacing: Document | None) -> None:
        await asyncio.sleep(0)
        if self.shared.get(name) != replacing:
            raise Conflict
        self.shared[name] = Document(text.data, 1 if replacing is None else int(replacing.version) + 1)

    async def delete(self, name: str) -> None:
        self.shared.pop(name, None)

    async def names(self, prefix: str) -> AsyncIterator[str]:
        for name in list(self.shared):
            if name.startswith(prefix):
                yield name


class Clock:
    """A clock that a test moves; sleeping ends when the clock has got there."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._moved = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            await self._moved.wait()

    async def forward(self, seconds: float) -> None:
        self.now += seconds
        self._moved.set()
        self._moved = asyncio.Event()
        for _ in range(30):
            await asyncio.sleep(0)


class TestNames:
    @given(USERNAMES)
    def test_a_name_is_one_plain_segment_and_leads_back_to_its_user(self, username: str) -> None:
        """No slash, no dot, no hyphen: neither a step in a path nor the end of an ARN."""
        name = name_of(username)
        segment = name.removeprefix("users/")
        assert segment.isascii()
        assert set(segment) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@=")
        assert username_of(name) in (username, None)
        assert (username_of(name) is None) == (len(segment) == len("=sha256=") + 64 and segment[:4] == "=sha")

    @given(USERNAMES, USERNAMES)
    def test_two_users_never_share_a_name(self, one: str, other: str) -> None:
        assert (name_of(one) == name_of(other)) == (one == other)

    async def test_the_longest_usernames_are_kept_in_order_like_others(self) -> None:
        """Longer than any service takes: the document says whose it is."""
        names = sorted(["用" * 1024, "z" * 1024, "a" * 1024 + "b", "a" * 1024 + "a", "m"])
        async with DocumentStore(Shelf()) as store:
            await write(store, *(synced(name, api_key(key=name[:3])) for name in names))
            assert [item.username async for item in store.items()] == names
            assert await collect(store.secrets("用" * 1024)) == [("用" * 1024, api_key(key="用用用"))]
        assert max(map(len, store._documents.shared)) < 420


class TestRunLock:
    async def test_whoever_vanished_holds_it_until_the_lease_ends(self) -> None:
        shelf, clock = Shelf(), Clock()
        async with DocumentStore(shelf, clock=clock) as gone, DocumentStore(shelf, clock=clock) as next_one:
            lock = gone.exclusive_run()
            await lock.__aenter__()
            vanished = next(task for task in asyncio.all_tasks() if "_renewed" in repr(task.get_coro()))
            vanished.cancel()
            await clock.forward(59)
            with pytest.raises(CheckpointError, match="until 00:17:40 UTC"):
                await next_one.exclusive_run().__aenter__()
            await clock.forward(2)
            async with next_one.exclusive_run():
                pass
            await lock.__aexit__(None, None, None)

    async def test_it_is_renewed_while_it_is_held(self) -> None:
        shelf, clock = Shelf(), Clock()
        async with DocumentStore(shelf, clock=clock) as one, DocumentStore(shelf, clock=clock) as other:
            async with one.exclusive_run():
                for _ in range(10):
                    await clock.forward(21)
                    with pytest.raises(CheckpointError):
                        await other.exclusive_run().__aenter__()
            async with other.exclusive_run():
                pass

    async def test_whoever_lost_it_is_ended_and_told(self) -> None:
        """As a process that was suspended for longer than its lease."""
        shelf, clock, theirs = Shelf(), Clock(), Clock()
        theirs.now += 61
        async with DocumentStore(shelf, clock=clock) as one, DocumentStore(shelf, clock=theirs) as other:

            async def hold() -> None:
                async with one.exclusive_run():
                    await anyio.sleep_forever()

            holder = asyncio.create_task(hold())
            await clock.forward(0)
            async with other.exclusive_run():
                await clock.forward(21)
                done, _ = await asyncio.wait([holder], timeout=5)
                assert done, "the holder goes on"
                with pytest.raises(CheckpointError, match=r"run lock .* was lost"):
                    await holder
                with pytest.raises(CheckpointError, match="another run"):
                    await one.exclusive_run().__aenter__()


async def test_runs_are_forgotten_but_for_the_last_two_of_a_selection() -> None:
    """With their checkpoints, once the user is written again."""
    async with DocumentStore(Shelf()) as store:
        first = await write(store, synced("ann", api_key()))
        for at in range(2, 60):
            run = await store.begin_run(at=float(at), selection=f"s{at % 3}")
            await store.write(run, [synced("ann", api_key())])
        assert await store.statuses(first, ["ann"]) == {"ann": "synced"}
        state = await store._state()
        assert len(state.runs) == 7
        (user,) = await store._users.read([name_of("ann")])
        assert set(user.checkpoints) <= {one.id for one in state.runs}


class Picky(Shelf):
    """Documents of a service that refuses those of some users."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: set[str] = set()

    async def write(self, name: str, text: Plaintext, *, replacing: Document | None) -> None:
        if name in {name_of(username) for username in self.refuses}:
            raise DocumentRefused("the document is too large", advice="Raise the limit")
        await super().write(name, text, replacing=replacing)


class TestRefusedDocuments:
    async def test_the_others_are_written_and_the_user_is_named(self) -> None:
        """With a checkpoint in the store's own document, since the user has none."""
        shelf = Picky()
        shelf.refuses = {"bob"}
        async with DocumentStore(shelf) as store:
            run = await write(store)
            users = [synced(name, api_key()) for name in ("ann", "bob", "cid")]
            done = await store.write(run, users)
            assert (done.changed, done.unchanged) == (2, 0)
            assert {name: str(error) for name, error in done.refused.items()} == {
                "bob": "the document is too large. Raise the limit"
            }
        async with DocumentStore(shelf) as store:
            statuses = await store.statuses(run, ["ann", "bob", "cid"])
            assert statuses == {"ann": "synced", "bob": "failed", "cid": "synced"}
            ends = await collect(store.checkpoints(run))
            assert [one.username for one in ends] == ["ann", "bob", "cid"]
            assert ends[1].message == "the document is too large. Raise the limit"
            totals = await store.totals(run)
            assert (totals.synced, totals.failed, totals.secrets) == (2, 1, 2)
            assert (await store.missing(run)).missing == 0

    async def test_a_user_that_is_written_later_is_no_longer_refused(self) -> None:
        shelf = Picky()
        shelf.refuses = {"bob", "zoe"}
        async with DocumentStore(shelf) as store:
            run = await write(store, synced("bob", api_key()), synced("zoe", api_key()))
            shelf.refuses = {"zoe"}
            assert (await store.write(run, [synced("bob", api_key())])).refused == {}
            assert await store.statuses(run, ["bob", "zoe"]) == {"bob": "synced", "zoe": "failed"}
            assert (await store.totals(run)).synced == 1
            later = await store.begin_run(at=9.0)
            assert await store.statuses(later, ["zoe"]) == {}

    async def test_a_run_ends_when_many_are_refused(self) -> None:
        """Then it is not about single users."""
        shelf = Picky()
        shelf.refuses = {f"user-{number}" for number in range(51)}
        async with DocumentStore(shelf) as store:
            run = await write(store)
            users = [synced(name, api_key()) for name in sorted(shelf.refuses)]
            assert len((await store.write(run, users[:50])).refused) == 50
            with pytest.raises(DocumentRefused, match="too large"):
                await store.write(run, users[50:])

    async def test_a_sync_ends_with_that_user_failed(self, sandbox: Sandbox, fm: FlowMate) -> None:
        """The report counts it, and the event says why."""
        shelf, events = Picky(), []
        async with DocumentStore(shelf) as store:
            shelf.refuses = {next(iter(sandbox.world.truth())).username}
            report = await fm.sync(store, on_event=events.append)
        assert report.complete
        assert (report.failed, report.synced) == (1, 19)
        (told,) = [event for event in events if isinstance(event, UserNotStored)]
        assert {told.username} == shelf.refuses
        assert "too large" in told.message
