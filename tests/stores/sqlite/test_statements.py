"""The statements of a sqlite store: what they cost, and that many rows at once end as one by one."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowmate_async.stores import Checkpoint, UserWrite
from flowmate_async.stores.base import Written
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.testing.samples import api_key

pytestmark = pytest.mark.anyio


def user(name: str) -> UserWrite:
    checkpoint = Checkpoint(username=name, status="synced", secrets=1, seen=name, listing_proven=True)
    return UserWrite(checkpoint=checkpoint, secrets=(api_key("s1"),), listed=("s1",))


async def steps(store, work):
    """How many times hundred instructions of its virtual machine SQLite needs for this work."""
    taken = 0

    def count():
        nonlocal taken
        taken += 1

    store._connection.set_progress_handler(count, 10)
    await work
    store._connection.set_progress_handler(None, 10)
    return taken


@pytest.mark.parametrize("runs", [1, 3])
async def test_a_user_costs_the_same_among_many(open_sqlite, runs):
    cost = {}
    async with open_sqlite() as store:
        await store.bind("https://flowmate.example")
        for others in (50, 5000):
            for _ in range(runs):
                run = await store.begin_run(at=1.0)
                await store.write(run, [user(f"{number:05d}") for number in range(others)])
            few = [f"{number:05d}" for number in range(5)]
            cost[others] = [
                await steps(store, store.seen(few)),
                await steps(store, store.statuses(run, few)),
                await steps(store, store.write(run, [user(name) for name in few])),
                await steps(store, store.get(few[0], "s1")),
            ]
            assert await store.seen([*few, "nobody"]) == {name: name for name in few}
    assert all(many <= 2 * one + 5 for one, many in zip(cost[50], cost[5000], strict=True)), cost


async def test_a_batch_is_a_few_statements_however_many_users_it_has(open_sqlite):
    """After every step of a statement the thread waits for the interpreter's lock."""
    statements = []
    async with open_sqlite() as store:
        await store.bind("https://flowmate.example")
        run = await store.begin_run(at=1.0)
        store._connection.set_trace_callback(statements.append)

        async def taken(work):
            before = len(statements)
            await work
            return len(statements) - before

        alone = await taken(store.write(run, [user("alone")]))
        for size in (2, 63, 64, 65, 127, 200):
            names = [f"{size}-{place}" for place in range(size)]
            chunks = -(-size // 64)
            written = await taken(store.write(run, [user(name) for name in names]))
            assert written <= alone + 7 * (chunks - 1)
            assert await taken(store.write(run, [user(name) for name in names])) < written
            assert await taken(store.seen(names)) <= 1 + chunks
            assert await taken(store.statuses(run, names)) <= chunks


async def test_users_in_any_order_cost_about_the_same_pages(key, tmp_path):
    """The log has every page that a transaction changes."""

    def large(name: str) -> UserWrite:
        secrets = tuple(api_key(f"s{number}", "k" * 400) for number in range(5))
        return UserWrite(checkpoint=Checkpoint(username=name, status="synced"), secrets=secrets)

    written = {}
    names = [f"{number:05d}" for number in range(800)]
    for order in ("by name", "shuffled"):
        if order == "shuffled":
            random.Random(1).shuffle(names)
        async with SqliteStore(tmp_path / order, key=key) as store:
            await store.bind("https://flowmate.example")
            store._connection.execute("PRAGMA wal_autocheckpoint = 0")
            run = await store.begin_run(at=1.0)
            for start in range(0, len(names), 16):
                await store.write(run, [large(name) for name in names[start : start + 16]])
            _, written[order], _ = store._connection.execute("PRAGMA wal_checkpoint").fetchone()
    assert written["shuffled"] <= 2.5 * written["by name"], written


NAMES = st.sampled_from(["ann", "bo", "cy", "nul\0ed"])
IDS = st.sampled_from(["s1", "s2", "s3"])
WRITES = st.lists(
    st.tuples(
        NAMES,
        st.lists(st.tuples(IDS, st.sampled_from(["old", "new"])), max_size=3),
        st.none() | st.lists(IDS, max_size=3),
    ),
    max_size=9,
)


def batch_of(writes):
    return [
        UserWrite(
            checkpoint=Checkpoint(username=name, status="synced", seen=str(number)),
            secrets=tuple(api_key(id_, key) for id_, key in secrets),
            listed=None if listed is None else tuple({*listed, *(id_ for id_, _ in secrets)}),
        )
        for number, (name, secrets, listed) in enumerate(writes)
    ]


async def contents(store, run):
    gone = await store.missing(run)
    await store.remove_missing(run, how="mark", at=3.0)
    return (
        [pair async for pair in store.secrets()],
        [(item.username, item.secret_id, item.removed_at) async for item in store.items()],
        [checkpoint async for checkpoint in store.checkpoints(run)],
        gone,
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=WRITES, batch=WRITES)
def test_a_batch_ends_as_its_users_written_one_by_one(tmp_path, key, before, batch):
    """Also of a user who is in it more than once."""
    users = batch_of(batch)

    async def written(store, batches):
        async with store:
            await store.bind("https://flowmate.example")
            run = await store.begin_run(at=1.0)
            for earlier in batch_of(before):
                await store.write(run, [earlier])
            await store.remove_missing(run, how="mark", at=2.0)
            done = [await store.write(run, users) for users in batches]
            return (
                await contents(store, run),
                sum(one.changed for one in done),
                sum(one.unchanged for one in done),
            )

    async def everywhere():
        with TemporaryDirectory(dir=tmp_path) as a, TemporaryDirectory(dir=tmp_path) as b:
            return (
                await written(SqliteStore(Path(a, "creds.db"), key=key), [users]),
                await written(SqliteStore(Path(b, "creds.db"), key=key), [[one] for one in users]),
                await written(MemoryStore(), [users]),
            )

    together, alone, in_memory = anyio.run(everywhere)
    assert together == alone == in_memory


async def test_a_credential_that_is_twice_in_a_batch_changed_once(open_sqlite):
    async with open_sqlite() as store:
        await store.bind("https://flowmate.example")
        run = await store.begin_run(at=1.0)
        assert await store.write(run, [user("ann"), user("ann")]) == Written(1, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 127, 200])
async def test_a_batch_of_any_size_is_stored_whole(open_sqlite, size):
    names = [f"{number:03d}" for number in range(size)]
    async with open_sqlite() as store:
        await store.bind("https://flowmate.example")
        run = await store.begin_run(at=1.0)
        assert await store.write(run, [user(name) for name in names]) == Written(size, 0)
        assert await store.write(run, [user(name) for name in names]) == Written(0, size)
        assert [item.username async for item in store.items()] == names
        assert list(await store.statuses(run, names)) == names
        assert await store.seen(names) == {name: name for name in names}
