"""The run lock of a PostgreSQL store: a run that loses it ends, and writes nothing once another took it."""

import asyncio
from collections.abc import Callable

import anyio
import pytest

from flowmate_async.errors import CheckpointError, StoreError
from flowmate_async.stores import StoreKey, Written, open_store
from flowmate_async.stores.postgres import lock as postgres_lock
from flowmate_async.stores.postgres.store import PostgresStore
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import synced, write
from tests.stores.postgres_server import PostgresServer

pytestmark = pytest.mark.anyio

OpenPostgres = Callable[[], PostgresStore]

HOLDERS = (
    "FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)"
)


class Hold:
    """A task that holds the run lock until it is told to end."""

    def __init__(self, store: PostgresStore) -> None:
        self.entered, self.end = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._hold(store))

    async def _hold(self, store: PostgresStore) -> str:
        async with store.exclusive_run():
            self.entered.set()
            await self.end.wait()
        return "ended"

    async def begun(self) -> "Hold":
        entered = asyncio.ensure_future(self.entered.wait())
        await asyncio.wait({entered, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not self.entered.is_set():
            entered.cancel()
            await self.task
        return self

    async def ended(self) -> str:
        self.end.set()
        return await self.task


async def test_a_run_whose_connection_is_ended_stops_with_an_error(
    open_postgres: OpenPostgres, postgres: PostgresServer
) -> None:
    """As by a failover or a timeout of the server; at once, though it was waiting for something else."""
    async with open_postgres() as store, open_postgres() as other:
        hold = await Hold(store).begun()
        assert await other.is_running()
        with pytest.raises(CheckpointError, match="another run holds"):
            await Hold(other).begun()
        assert postgres.psql(f"SELECT count(pg_terminate_backend(pid)) {HOLDERS}") == "1"
        with pytest.raises(
            CheckpointError, match=r"run lock .* was lost: its connection has ended.*Run again"
        ):
            await hold.task
        assert not await other.is_running()
        assert await (await Hold(other).begun()).ended() == "ended"


async def test_a_cancelled_run_is_cancelled_and_not_told_of_a_lost_lock(open_postgres: OpenPostgres) -> None:
    async with open_postgres() as store:
        hold = await Hold(store).begun()
        hold.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hold.task
        assert not await store.is_running()


async def test_a_lock_that_another_session_has_is_noticed(
    open_postgres: OpenPostgres, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that hands the session on: the connection answers, and the lock is not its own."""
    monkeypatch.setattr(postgres_lock, "_BEAT_SECONDS", 0.01)
    async with open_postgres() as store:
        hold = await Hold(store).begun()
        monkeypatch.setattr(postgres_lock, "_IS_HELD", "SELECT $1::bigint IS NULL")
        with pytest.raises(CheckpointError, match="another session of the server has it"):
            await hold.task


async def test_a_session_that_does_not_keep_the_lock_is_refused(
    open_postgres: OpenPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_lock, "_IS_HELD", "SELECT $1::bigint IS NULL")
    async with open_postgres() as store:
        with pytest.raises(StoreError, match="a pooler in between does not keep sessions"):
            await Hold(store).begun()
        assert not await store.is_running()


async def test_nothing_is_written_once_another_run_has_taken_the_lock(
    open_postgres: OpenPostgres, postgres: PostgresServer, schema: str
) -> None:
    """Even if the loss went unnoticed: each write looks who took the lock last, within its transaction."""
    async with open_postgres() as store, open_postgres() as worker:
        run = await write(store, synced("ann", api_key()))
        hold = await Hold(store).begun()
        assert await store.write(run, [synced("ann", api_key(key="mine"))]) == Written(1, 0)
        await worker.bind("https://flowmate.example")
        assert await worker.write(run, [synced("bob", api_key())]) == Written(1, 0)
        postgres.psql("UPDATE meta SET run_holder = 'another run'", schema)
        with pytest.raises(CheckpointError, match="another run has taken it"):
            await store.write(run, [synced("ann", api_key(key="too late"))])
        assert await store.get("ann", "secret-1") == api_key(key="mine")
        assert await hold.ended() == "ended"
        async with store.exclusive_run():
            assert await store.write(run, [synced("ann", api_key(key="again"))]) == Written(1, 0)


async def test_taking_the_lock_waits_for_what_is_being_written(
    open_postgres: OpenPostgres, postgres: PostgresServer
) -> None:
    """A write of the run before, which could not be stopped any more, is whole or not there."""
    async with open_postgres() as before, open_postgres() as after:
        run = await write(before, synced("ann", api_key()))
        async with before._pool.acquire() as blocker:
            blocking = blocker.transaction()
            await blocking.start()
            await blocker.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
            writing = asyncio.create_task(before.write(run, [synced("ann", api_key(key="late"))]))
            await waiting_for_a_lock(postgres, "%checkpoints%")
            hold = Hold(after)
            await waiting_for_a_lock(postgres, "UPDATE meta%")
            assert not hold.entered.is_set()
            await blocking.rollback()
        assert await writing == Written(1, 0)
        assert await (await hold.begun()).ended() == "ended"


async def test_two_stores_in_one_database_have_a_lock_each(
    postgres: PostgresServer, schema: str, key: StoreKey
) -> None:
    one, other = (open_store(postgres.url(f"{schema}_{name}"), key=key) for name in ("a", "b"))
    async with one, other:
        async with one.exclusive_run():
            assert (await one.is_running(), await other.is_running()) == (True, False)
            async with other.exclusive_run():
                assert (await one.is_running(), await other.is_running()) == (True, True)
        assert (await one.is_running(), await other.is_running()) == (False, False)


async def test_a_session_that_is_idle_for_long_keeps_the_lock(
    open_postgres: OpenPostgres, postgres: PostgresServer
) -> None:
    """Whatever the server does with idle sessions."""
    async with open_postgres():
        pass
    postgres.psql(f"ALTER ROLE {postgres.user} SET idle_session_timeout = '200ms'")
    try:
        async with open_postgres() as store:
            hold = await Hold(store).begun()
            await asyncio.to_thread(postgres.psql, "SELECT pg_sleep(1)")
            assert not hold.task.done()
            assert await hold.ended() == "ended"
    finally:
        postgres.psql(f"ALTER ROLE {postgres.user} RESET idle_session_timeout")


async def test_a_machine_that_vanished_is_noticed_by_the_server(open_postgres: OpenPostgres) -> None:
    """Keepalives end its session, and the lock with it, within about a minute."""
    async with open_postgres() as store:
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        async with store._pool.acquire() as connection:
            found = [int(await connection.fetchval(f"SHOW {name}")) for name in names]
    idle, interval, count = found
    assert 0 < idle + interval * count <= 60


async def waiting_for_a_lock(postgres: PostgresServer, query: str) -> None:
    """Wait until a session of the server waits for a lock with such a query."""
    statement = (
        f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '{query}'"
    )
    while await asyncio.to_thread(postgres.psql, statement) == "0":  # noqa: ASYNC110 - the server's state
        await anyio.sleep(0.02)
