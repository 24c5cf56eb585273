"""A store of an earlier version: reading leaves it alone, writing says what to do, upgrading keeps all.

``fixtures/`` has dumps of stores that the last version with those formats wrote.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowmate_async.errors import StoreError
from flowmate_async.health.observations import Observed
from flowmate_async.stores import Store, StoreKey, open_store
from flowmate_async.stores.sqlite import schema as sqlite_schema
from flowmate_async.stores.upgrading import Upgradable, Upgraded
from flowmate_async.testing.health_laws import judge, outbox, seeing, states
from flowmate_async.testing.samples import api_key, every_type
from flowmate_async.testing.store_writes import ORIGIN, collect, synced
from flowmate_async.testing.token_laws import kept

from .postgres_server import PostgresServer

pytestmark = pytest.mark.anyio

FIXTURES = Path(__file__).parent / "fixtures"
SECRETS = list(every_type().values())[:6]
STORED = sorted(
    [("ann", secret.id) for secret in SECRETS] + [("bob", "gone"), ("bob", "secret-1"), ("dan", "secret-1")]
)

BACK_TO_3 = "DROP TABLE tokens; PRAGMA user_version = 3;"
BACK_TO_2 = BACK_TO_3 + "ALTER TABLE checkpoints DROP COLUMN seen; PRAGMA user_version = 2;"
BACK_TO_1 = BACK_TO_2 + (
    "ALTER TABLE secrets DROP COLUMN missing_run; ALTER TABLE secrets DROP COLUMN removed_at;"
    "ALTER TABLE meta DROP COLUMN previous_key_id; ALTER TABLE meta DROP COLUMN previous_key;"
    "PRAGMA user_version = 1;"
)


@dataclass
class Old:
    """A store of an earlier version, and all that is in it."""

    url: str
    format: int
    contents: Callable[[], str]
    run: Callable[[str], object]
    has_marks: bool = True


@pytest.fixture(
    params=[
        *(f"sqlite {number}" for number in range(1, 6)),
        *(f"postgresql {number}" for number in range(1, 4)),
    ]
)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    kind, _, number = request.param.partition(" ")
    if kind == "sqlite":
        return sqlite_of(tmp_path / "creds.db", int(number))
    postgres: PostgresServer = request.getfixturevalue("postgres")
    schema = request.getfixturevalue("schema")
    return postgres_of(postgres, schema, int(number))


def sqlite_of(path: Path, number: int) -> Old:
    path.touch(mode=0o600)
    dump = FIXTURES / f"sqlite-format-{max(4, number)}.sql"
    run_sqlite(path, dump.read_text() + "PRAGMA journal_mode = WAL;")
    run_sqlite(path, {1: BACK_TO_1, 2: BACK_TO_2, 3: BACK_TO_3}.get(number, ""))

    def contents() -> str:
        assert {file.name for file in path.parent.iterdir()} == {path.name}, "files are left behind"
        return repr(path.read_bytes())

    return Old(f"sqlite:///{path}", number, contents, lambda text: run_sqlite(path, text), number > 1)


def run_sqlite(path: Path, statements: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(statements)
    connection.close()


def postgres_of(postgres: PostgresServer, schema: str, number: int) -> Old:
    dump = (FIXTURES / f"postgresql-format-{max(2, number)}.sql").read_text()
    postgres.psql(dump.replace("old.", f"{schema}.").replace("SCHEMA old", f"SCHEMA {schema}"))
    if number == 1:
        postgres.psql("DROP TABLE tokens; UPDATE meta SET format = 1", schema)

    def contents() -> str:
        tables = postgres.psql(
            f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}' ORDER BY 1"
        ).split()
        columns = postgres.psql(
            f"SELECT table_name, column_name FROM information_schema.columns "
            f"WHERE table_schema = '{schema}' ORDER BY 1, 2"
        )
        rows = [postgres.psql(f"SELECT xmin, * FROM {table} ORDER BY 2", schema) for table in tables]
        return "\n".join([columns, *rows])

    return Old(postgres.url(schema), number, contents, lambda text: postgres.psql(text, schema))


async def require_all_there(store: Store, old: Old) -> None:
    assert await store.origin() == ORIGIN
    assert [(item.username, item.secret_id) async for item in store.items()] == STORED
    marked = [item.secret_id async for item in store.items() if item.removed_at is not None]
    assert marked == (["gone"] if old.has_marks else [])
    assert await store.get("bob", "secret-1") == api_key()
    assert [one for _, one in await collect(store.secrets("ann"))] == sorted(SECRETS, key=lambda one: one.id)
    assert (await store.verify()).intact == len(STORED)
    assert (await store.verify()).damaged == ()
    run = await store.last_run()
    assert run is not None
    assert run.finished_at is None
    assert await store.statuses(run, ["bob", "cid"]) == {"bob": "synced", "cid": "failed"}
    assert [one.username async for one in store.checkpoints(run)] == ["bob", "cid", "dan"]
    assert (await store.totals(run)).failed == 1
    assert await store.seen(["bob"]) == {"bob": ""}


@pytest.mark.parametrize("create", [True, False])
async def test_reading_leaves_an_older_store_as_it_is(old: Old, key: StoreKey, *, create: bool) -> None:
    """Not a byte, not a table, no file beside it."""
    before = old.contents()
    async with open_store(old.url, key=key, create=create) as store:
        await require_all_there(store, old)
    assert old.contents() == before


async def test_writing_into_an_older_store_says_what_to_do(old: Old, key: StoreKey) -> None:
    """Before anything is written; the first thing that a sync does is to bind the store."""
    before = old.contents()
    told = rf"has format {old.format}, and this version writes format \d.*flowmate store upgrade --store"
    async with open_store(old.url, key=key) as store:
        run = await store.last_run()
        assert run is not None
        for attempt in (
            store.bind(ORIGIN),
            store.begin_run(at=5.0),
            store.finish_run(run, at=5.0),
            store.write(run, [synced("bob", api_key())]),
            store.note_missing(run, ["bob"]),
            store.remove_missing(run, how="delete", at=5.0),
            store.forget_tokens(used_before=1e12),
            store.rekey(StoreKey(b"n" * 32)),
        ):
            with pytest.raises(StoreError, match=told):
                await attempt
    assert old.contents() == before


async def test_an_upgrade_keeps_everything_and_then_it_can_be_written(old: Old, key: StoreKey) -> None:
    async with open_store(old.url, key=key) as store:
        assert isinstance(store, Upgradable)
        async with store.exclusive_run():
            done = await store.upgrade()
        assert done.before == old.format
        assert done.after > old.format
        assert (done.backup is not None) == store.makes_backups
        await require_all_there(store, old)
        assert await store.upgrade() == Upgraded(before=done.after, after=done.after)
    async with open_store(old.url, key=key) as store:
        await require_all_there(store, old)
        if old.format > 3 or (old.url.startswith("postgresql") and old.format > 1):
            assert await store.kept_tokens(["dan"]) == {"dan": kept("of dan")}
        await store.bind(ORIGIN)
        run = await store.begin_run(at=50.0)
        written = await store.write(run, [synced("ann", *SECRETS), synced("eve", api_key())])
        assert (written.changed, written.unchanged) == (1, len(SECRETS))
        assert await store.rekey(StoreKey(b"n" * 32))
        assert (await store.verify()).damaged == ()


async def test_after_an_upgrade_an_older_row_is_noticed(old: Old, key: StoreKey) -> None:
    async with open_store(old.url, key=key) as store:
        await store.upgrade()
        old.run("UPDATE secrets SET stored_at = 9 WHERE username = 'bob' AND secret_id = 'secret-1'")
        assert (await store.verify()).damaged == (("bob", "secret-1"),)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_an_upgrade_does_not_accept_an_older_row_that_was_put_back_before(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, key: StoreKey
) -> None:
    """The last format could tell, so what it would have refused stays refused."""
    if kind == "sqlite":
        old = sqlite_of(tmp_path / "creds.db", 5)
    else:
        old = postgres_of(request.getfixturevalue("postgres"), request.getfixturevalue("schema"), 3)
    old.run("UPDATE secrets SET stored_at = 9 WHERE username = 'bob' AND secret_id = 'secret-1'")
    async with open_store(old.url, key=key) as store:
        await store.upgrade()
        assert (await store.verify()).damaged == (("bob", "secret-1"),)


async def test_an_older_store_keeps_no_health_until_it_is_upgraded(old: Old, key: StoreKey) -> None:
    """Reading it finds none; afterwards it keeps it."""
    async with open_store(old.url, key=key) as store:
        assert await states(store) == {}
        assert await outbox(store) == []
        with pytest.raises(StoreError, match="flowmate store upgrade"):
            await store.settle_health(judge())
        await store.upgrade()
        await store.bind(ORIGIN)
        run = await store.begin_run(at=50.0)
        await store.write(run, [seeing(synced("ann"), Observed.REFUSED)])
        await store.settle_health(judge())
        assert await states(store) == {"ann secret-1": "broken"}
        await store.rekey(StoreKey(b"n" * 32))
        assert await outbox(store) == ["ann credential.broken"]


async def test_the_backup_of_an_upgrade_is_the_store_as_it_was(tmp_path: Path, key: StoreKey) -> None:
    """Private, and readable; a second upgrade does not overwrite it."""
    old = sqlite_of(tmp_path / "creds.db", 3)
    async with open_store(old.url, key=key) as store:
        done = await store.upgrade()
    backup = tmp_path / "creds.db.format-3"
    assert done.backup == backup
    assert backup.stat().st_mode & 0o777 == 0o600
    async with open_store(f"sqlite:///{backup}", key=key, create=False) as store:
        await require_all_there(store, old)
        assert store._format == 3
    again = sqlite_of(tmp_path / "again.db", 3)
    (tmp_path / "again.db.format-3").touch()
    before = (tmp_path / "again.db").read_bytes()
    async with open_store(again.url, key=key) as store:
        with pytest.raises(StoreError, match=r"format-3 exists already"):
            await store.upgrade()
    assert (tmp_path / "again.db").read_bytes() == before


async def test_an_upgrade_that_fails_changes_nothing(
    tmp_path: Path, key: StoreKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first steps are rolled back with it; the store can still be read."""
    old = sqlite_of(tmp_path / "creds.db", 1)
    broken = {**sqlite_schema.MIGRATIONS, 4: ("UPDATE no_such_table SET x = 1",)}
    monkeypatch.setattr("flowmate_async.stores.sqlite.upgrade.MIGRATIONS", broken)
    before = (tmp_path / "creds.db").read_bytes()
    async with open_store(old.url, key=key) as store:
        with pytest.raises(StoreError, match="no such table"):
            await store.upgrade()
        await require_all_there(store, old)
    assert (tmp_path / "creds.db").read_bytes() == before


async def test_an_upgrade_that_fails_changes_nothing_in_postgresql(
    postgres: PostgresServer, schema: str, key: StoreKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = postgres_of(postgres, schema, 1)
    before = old.contents()
    broken = {1: "CREATE TABLE tokens (x int)", 2: "UPDATE no_such_table SET x = 1"}
    monkeypatch.setattr("flowmate_async.stores.postgres.upgrade.MIGRATIONS", broken)
    async with open_store(old.url, key=key) as store:
        with pytest.raises(StoreError, match="no_such_table"):
            await store.upgrade()
        await require_all_there(store, old)
    assert old.contents() == before


@pytest.mark.parametrize("number", [0, sqlite_schema.FORMAT + 1, 99])
async def test_a_format_that_this_version_does_not_know_is_named(
    tmp_path: Path, key: StoreKey, number: int
) -> None:
    """A newer one before the key is looked at: its check may be another one."""
    old = sqlite_of(tmp_path / "creds.db", 4)
    old.run(f"UPDATE meta SET key_check = x'00'; PRAGMA user_version = {number}")
    before = old.contents()
    advice = "Upgrade flowmate-async" if number else "older flowmate-async"
    with pytest.raises(StoreError, match=rf"has format {number}\b.*{advice}"):
        await open_store(old.url, key=key).__aenter__()
    assert old.contents() == before
