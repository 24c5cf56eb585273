"""What happens in a PostgreSQL store when two do something at once, and what its errors may say."""

import asyncio
from collections.abc import Callable

import pytest

from flowmate_async.errors import StoreError
from flowmate_async.stores import StoreKey, Written, open_store
from flowmate_async.stores.postgres.store import PostgresStore
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import ORIGIN, synced, write
from tests.stores.postgres.test_lock import waiting_for_a_lock
from tests.stores.postgres_server import PostgresServer

pytestmark = pytest.mark.anyio

OpenPostgres = Callable[[], PostgresStore]
NEW = StoreKey(b"n" * 32)


async def test_a_write_that_has_begun_is_finished_when_it_is_cancelled(
    open_postgres: OpenPostgres, postgres: PostgresServer
) -> None:
    async with open_postgres() as store:
        run = await write(store, synced("ann", api_key()))
        async with store._pool.acquire() as blocker:
            blocking = blocker.transaction()
            await blocking.start()
            await blocker.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
            writing = asyncio.create_task(store.write(run, [synced("ann", api_key(key="finished"))]))
            await waiting_for_a_lock(postgres, "%checkpoints%")
            writing.cancel()
            await asyncio.sleep(0)
            await blocking.rollback()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await store.get("ann", "secret-1") == api_key(key="finished")


async def test_a_rekey_waits_for_writes_with_the_old_key(
    open_postgres: OpenPostgres, postgres: PostgresServer, schema: str
) -> None:
    """What they seal is sealed anew as well; nothing is left that only the old key opens."""
    async with open_postgres() as store, open_postgres() as rekeying:
        run = await write(store, synced("ann", api_key()))
        async with store._pool.acquire() as blocker:
            blocking = blocker.transaction()
            await blocking.start()
            await blocker.execute("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
            writing = asyncio.create_task(store.write(run, [synced("bob", api_key(key="in between"))]))
            await waiting_for_a_lock(postgres, "%checkpoints%")
            rekey = asyncio.create_task(rekeying.rekey(NEW))
            await waiting_for_a_lock(postgres, "%meta FOR UPDATE%")
            await blocking.rollback()
        assert await writing == Written(1, 0)
        assert (await rekey).resealed == 2
    async with open_store(postgres.url(schema), key=NEW) as store:
        assert await store.get("bob", "secret-1") == api_key(key="in between")
        assert (await store.verify()).damaged == ()


async def test_two_who_write_many_users_in_opposite_orders_take_turns(open_postgres: OpenPostgres) -> None:
    """Neither waits for the other in a circle."""
    names = [f"user-{number:04}" for number in range(3000)]
    async with open_postgres() as one, open_postgres() as other:
        await other.bind(ORIGIN)
        run = await write(one)
        for attempt in range(3):
            users = [synced(name, api_key(key=str(attempt))) for name in names]
            await asyncio.gather(one.write(run, users), other.write(run, users[::-1]))
        assert (await one.verify()).intact == len(names)


async def test_an_error_of_the_server_quotes_no_row(
    open_postgres: OpenPostgres, postgres: PostgresServer, schema: str
) -> None:
    """PostgreSQL's details do: the values of a row that a constraint refuses."""
    async with open_postgres() as store:
        run = await write(store, synced("ann", api_key()))
        postgres.psql("ALTER TABLE checkpoints ADD CHECK (username <> 'bob-who-is-not-shown')", schema)
        with pytest.raises(StoreError, match="violates check constraint") as caught:
            await store.write(run, [synced("bob-who-is-not-shown", api_key())])
    assert "bob-who" not in str(caught.value)


async def test_reading_needs_no_right_to_write(
    open_postgres: OpenPostgres,
    postgres: PostgresServer,
    schema: str,
    key: StoreKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a standby, or with a role for programs that only read."""
    async with open_postgres() as store:
        await write(store, synced("ann", api_key()))
    role = f"reader_{schema}"
    postgres.psql(f"CREATE ROLE {role} LOGIN PASSWORD 'of the reader'")
    postgres.psql(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    postgres.psql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
    monkeypatch.setenv("PGPASSWORD", "of the reader")
    async with open_store(postgres.url(schema).replace(postgres.user, role), key=key) as store:
        assert await store.get("ann", "secret-1") == api_key()
        assert [item.username async for item in store.items()] == ["ann"]
        assert (await store.verify()).intact == 1
        assert not await store.is_running()
        with pytest.raises(StoreError, match="permission denied"):
            await store.bind(ORIGIN)
