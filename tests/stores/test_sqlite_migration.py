"""An older store is brought up to date in one transaction, or not at all."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.errors import StoreError
from flowmate_async.stores import Checkpoint, Missing, Run, UserWrite, sqlite_schema
from flowmate_async.stores.sqlite import SqliteStore
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.token_laws import kept, with_token

pytestmark = pytest.mark.anyio

OpenSqlite = Callable[[], SqliteStore]
ADD_COLUMN = "ALTER TABLE secrets ADD COLUMN missing_run TEXT"


async def make_old(store: SqliteStore, path: Path, *, number: int = 1) -> Run:
    """A store as an earlier version left it: without the columns that came later."""
    async with store:
        await store.bind("https://flowmate.example")
        run = await store.begin_run(at=1.0)
        checkpoint = Checkpoint(username="ann", status="synced", secrets=1)
        await store.write(run, [UserWrite(checkpoint=checkpoint, secrets=(api_key(),))])
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE secrets DROP COLUMN missing_run")
    connection.execute("ALTER TABLE secrets DROP COLUMN removed_at")
    connection.execute("ALTER TABLE checkpoints DROP COLUMN seen")
    connection.execute("ALTER TABLE meta DROP COLUMN previous_key_id")
    connection.execute("ALTER TABLE meta DROP COLUMN previous_key")
    connection.execute("DROP TABLE tokens")
    connection.execute(f"PRAGMA user_version = {number}")
    connection.close()
    return run


async def test_an_older_store_is_migrated_and_keeps_everything(open_sqlite: OpenSqlite, path: Path) -> None:
    """Credentials open, checkpoints are complete, and the second opening finds nothing left to do."""
    run = await make_old(open_sqlite(), path)
    for _ in range(2):
        async with open_sqlite() as store:
            assert [one.listing_proven async for one in store.checkpoints(run)] == [True]
            assert await store.get("ann", "secret-1") == api_key()
            assert await store.missing(run) == Missing(missing=0, stored=1)
            await store.write(run, [with_token("ann", kept("of ann"))])
            assert await store.kept_tokens(["ann"]) == {"ann": kept("of ann")}


async def test_a_migration_that_fails_changes_nothing(
    open_sqlite: OpenSqlite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first steps are rolled back with it."""
    await make_old(open_sqlite(), path)
    before = path.read_bytes()
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", {1: (ADD_COLUMN, "UPDATE no_such_table SET x = 1")})
    with pytest.raises(StoreError, match="no such table"):
        await open_sqlite().__aenter__()
    assert path.read_bytes() == before


async def test_a_format_nobody_reads_any_more_is_refused(open_sqlite: OpenSqlite, path: Path) -> None:
    """With the way out."""
    await make_old(open_sqlite(), path, number=0)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"has format 0.*older flowmate-async"):
        await open_sqlite().__aenter__()
    assert path.read_bytes() == before
