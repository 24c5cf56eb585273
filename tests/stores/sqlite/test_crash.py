"""What a sqlite store survives: kill -9, a full disk, a busy file, cancellation."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flowmate_async.errors import StoreError
from flowmate_async.stores import Checkpoint, Run, StoreKey, UserWrite, Written
from flowmate_async.stores.sqlite import schema as sqlite_schema
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.testing.samples import api_key

pytestmark = pytest.mark.anyio

OpenSqlite = Callable[[], SqliteStore]
SECRETS_EACH = 8


def user(name: str, version: str = "1") -> UserWrite:
    secrets = tuple(api_key(f"s{number}", key=version * 300) for number in range(SECRETS_EACH))
    checkpoint = Checkpoint(username=name, status="synced", secrets=SECRETS_EACH)
    return UserWrite(checkpoint=checkpoint, secrets=secrets)


async def begin(store: SqliteStore) -> Run:
    await store.bind("https://flowmate.example")
    return await store.begin_run(at=1.0)


WRITER = """
import anyio, itertools, sys
from pathlib import Path
from flowmate_async.stores import Checkpoint, StoreKey, UserWrite
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.testing.samples import api_key

async def write(path, key):
    async with SqliteStore(path, key=key) as store:
        await store.bind("https://flowmate.example")
        run = await store.last_run() or await store.begin_run(at=1.0)
        for number in itertools.count():
            name = f"{sys.argv[2]}-{number}"
            secrets = tuple(api_key(f"s{n}", key=name * 50) for n in range(8))
            checkpoint = Checkpoint(username=name, status="synced", secrets=8)
            await store.write(run, [UserWrite(checkpoint=checkpoint, secrets=secrets)])
            print(name, flush=True)

anyio.run(write, Path(sys.argv[1]), StoreKey.parse(sys.stdin.readline()))
"""


def killed_writer(path: Path, key: StoreKey, label: str, *, after: int) -> list[str]:
    """Run the writer, kill it in the middle, and return the users that were acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), label],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(key.encoded() + "\n")
        writer.stdin.flush()
        acknowledged = [writer.stdout.readline().strip() for _ in range(after)]
        writer.kill()
        # A line cut in the middle was not acknowledged to anyone.
        rest = writer.stdout.read()
    return acknowledged + rest.split("\n")[:-1]


async def test_kill_9_loses_nothing_and_leaves_nothing_half_written(
    open_sqlite: OpenSqlite, path: Path, key: StoreKey
) -> None:
    """Every acknowledged user is there, every user there is complete, and the store keeps working."""
    acknowledged: list[str] = []
    for label in "abcde":
        after = random.randint(1, 60)
        acknowledged += killed_writer(path, key, label, after=after)
        async with open_sqlite() as store:
            run = await store.last_run()
            assert run is not None
            present = {checkpoint.username async for checkpoint in store.checkpoints(run)}
            assert present >= set(acknowledged)
            stored = [(item.username, item.secret_id) async for item in store.items()]
            assert stored == sorted(
                (name, f"s{number}") for name in present for number in range(SECRETS_EACH)
            )
            assert (await store.verify()).damaged == ()


async def test_a_killed_writers_log_is_left_alone_under_a_wrong_key(
    path: Path, key: StoreKey, snapshot: Callable[[], object]
) -> None:
    """Recovery needs the key."""
    killed_writer(path, key, "a", after=3)
    before = snapshot()
    with pytest.raises(StoreError, match="sealed with key"):
        await SqliteStore(path, key=StoreKey.generate()).__aenter__()
    assert snapshot() == before


async def test_making_a_store_can_be_interrupted(open_sqlite: OpenSqlite, path: Path) -> None:
    """A rollback journal left by the making of the tables is rolled back, and the tables are made anew."""
    async with open_sqlite():
        pass
    whole = path.read_bytes()
    path.write_bytes(whole[:4096])
    empty = (
        b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(4) + b"\0\0\0\x01" + bytes(4) + b"\0\0\x02\0\0\0\x10\0"
    )
    journal = Path(f"{path}-journal")
    journal.write_bytes(empty.ljust(512, b"\0"))
    async with open_sqlite() as store:
        assert await store.write(await begin(store), [user("ann")]) == Written(SECRETS_EACH, 0)
    assert not journal.exists()


def test_a_full_disk_is_an_error_and_the_store_stays_usable(path: Path) -> None:
    """The batch is rolled back; once there is room the same write succeeds."""
    program = """
import anyio, resource, sys
from pathlib import Path
from flowmate_async.errors import StoreError
from flowmate_async.stores import Checkpoint, StoreKey, UserWrite, Written
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.testing.samples import api_key

def user(name):
    checkpoint = Checkpoint(username=name, status="synced")
    return UserWrite(checkpoint=checkpoint, secrets=tuple(api_key(f"s{n}", key="x" * 900) for n in range(8)))

async def main(path):
    async with SqliteStore(path, key=StoreKey(bytes(32))) as store:
        await store.bind("https://flowmate.example")
        run = await store.begin_run(at=1.0)
        await store.write(run, [user("before")])
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        batch = [user(f"user-{n}") for n in range(300)]
        try:
            await store.write(run, batch)
        except StoreError as error:
            print(error)
        assert await store.statuses(run, ["before", "user-0"]) == {"before": "synced"}
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert await store.write(run, batch) == Written(2400, 0)
        assert (await store.verify()).intact == 2408

anyio.run(main, Path(sys.argv[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1
    assert f"the store {path} failed" in done.stdout
    assert "Free some disk space" in done.stdout


async def test_a_busy_file_is_an_error_and_the_store_stays_usable(
    open_sqlite: OpenSqlite, path: Path
) -> None:
    """Another process that writes too long is named as the reason."""
    async with open_sqlite() as store:
        run = await begin(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked.*Another process is writing"):
            await store.write(run, [user("ann")])
        other.execute("ROLLBACK")
        other.close()
        assert await store.write(run, [user("ann")]) == Written(SECRETS_EACH, 0)


async def test_a_file_gone_read_only_is_an_error(open_sqlite: OpenSqlite) -> None:
    """With what to do about it."""
    async with open_sqlite() as store:
        run = await begin(store)
        assert store._connection is not None
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="Make the file and its folder writable"):
            await store.write(run, [user("ann")])
        store._connection.execute("PRAGMA query_only = OFF")
        assert await store.write(run, [user("ann")]) == Written(SECRETS_EACH, 0)


@pytest.mark.parametrize("turns", range(8))
async def test_a_task_cancelled_in_a_write_leaves_all_or_nothing(open_sqlite: OpenSqlite, turns: int) -> None:
    """Also by plain asyncio cancellation, which leaves the thread at work: the next write waits for it."""
    names = [f"user-{number:03}" for number in range(100)]
    async with open_sqlite() as store:
        run = await begin(store)
        task = asyncio.create_task(store.write(run, [user(name) for name in names]))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await store.write(run, [user("late")]) == Written(SECRETS_EACH, 0)
        assert len(await store.statuses(run, names)) in (0, 100)
        assert (await store.totals(run)).secrets == (await store.verify()).intact
        assert store._connection is not None
        assert not store._connection.in_transaction


@pytest.mark.parametrize("turns", range(6))
async def test_a_task_cancelled_while_taking_the_run_lock_does_not_keep_it(
    open_sqlite: OpenSqlite, turns: int
) -> None:
    """The next run can begin at once."""

    async def hold(store: SqliteStore) -> None:
        async with store.exclusive_run():
            await asyncio.Event().wait()

    async with open_sqlite() as store:
        task = asyncio.create_task(hold(store))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with store.exclusive_run():
            pass


class Pause:
    """A place in a worker thread where it waits until it is let go."""

    def __init__(self) -> None:
        self._reached, self._go = Event(), Event()

    def __call__(self) -> None:
        self._reached.set()
        self._go.wait(timeout=10)  # so that a failing test ends

    async def reached(self) -> None:
        await asyncio.to_thread(self._reached.wait)

    def let_go(self) -> None:
        self._go.set()


class PausingBatch(list[UserWrite]):
    """A batch that stops in the middle of its transaction."""

    def __init__(self, users: list[UserWrite], pause: Pause) -> None:
        super().__init__(users)
        self._pause = pause

    def __iter__(self) -> Iterator[UserWrite]:
        yield self[0]
        self._pause()
        yield from self[1:]


async def test_whatever_follows_a_cancelled_write_waits_for_its_transaction(open_sqlite: OpenSqlite) -> None:
    """Though the cancelled task is long gone, its thread is not."""
    pause = Pause()
    async with open_sqlite() as store:
        run = await begin(store)
        task = asyncio.create_task(store.write(run, PausingBatch([user("ann"), user("bob")], pause)))
        await pause.reached()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert store._in_use.locked()
        following = asyncio.create_task(store.write(run, [user("cid")]))
        pause.let_go()
        assert await following == Written(SECRETS_EACH, 0)
        assert (await store.totals(run)).synced == 3


async def test_leaving_the_store_waits_for_a_cancelled_write(open_sqlite: OpenSqlite) -> None:
    """The connection is not closed under the thread that uses it."""
    pause = Pause()
    async with open_sqlite() as store:
        run = await begin(store)
        task = asyncio.create_task(store.write(run, PausingBatch([user("ann"), user("bob")], pause)))
        await pause.reached()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        pause.let_go()
    async with open_sqlite() as store:
        assert (await store.totals(run)).synced == 2


async def test_a_store_whose_opening_was_cancelled_is_closed(
    open_sqlite: OpenSqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same object can be entered again."""
    pause = Pause()
    opened: list[sqlite3.Connection] = []
    open_database = sqlite_schema.open_database

    def paused(*args: Any, **options: Any) -> object:
        pause()
        found = open_database(*args, **options)
        opened.append(found.connection)
        return found

    monkeypatch.setattr("flowmate_async.stores.sqlite.store.open_database", paused)
    store = open_sqlite()
    task = asyncio.create_task(store.__aenter__())
    await pause.reached()
    task.cancel()
    pause.let_go()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
    async with store:
        await store.write(await begin(store), [user("ann")])


async def test_checkpoints_of_runs_long_gone_are_forgotten(open_sqlite: OpenSqlite) -> None:
    """Those of the last two runs are kept: a nightly job must not grow its store for ever."""
    async with open_sqlite() as store:
        runs = []
        for number in range(4):
            run = await begin(store)
            await store.write(run, [user("ann", version=str(number))])
            runs.append(run)
        kept = [(await store.totals(run)).synced for run in runs]
        assert kept == [0, 0, 1, 1]
        assert (await store.verify()).intact == SECRETS_EACH
