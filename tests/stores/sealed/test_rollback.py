"""An older row in the same place is noticed: rolling a credential back needs the key.

Both stores of rows authenticate times, marks of removal and a counter with each user's manifest.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowmate_async.errors import StoreError
from flowmate_async.stores import Store, StoreKey, open_store
from flowmate_async.stores.sealed.rekeying import Rekeyable
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import collect, listing, synced, write
from tests.stores.postgres_server import PostgresServer

pytestmark = pytest.mark.anyio

OLD, NEW = api_key(key="revoked"), api_key(key="current")
OTHER = api_key("secret-2")
PLACE = ("ann", "secret-1")


@dataclass
class Tables:
    """What somebody without the key can do: read and write the tables."""

    url: str
    run: Callable[[str], str]

    def save(self, table: str = "secrets", username: str = "ann") -> None:
        """Keep what a table has of a user."""
        self.run(f"DROP TABLE IF EXISTS saved_{table}")
        self.run(f"CREATE TABLE saved_{table} AS SELECT * FROM {table} WHERE username = '{username}'")

    def put_back(self, table: str = "secrets") -> None:
        self.run(f"DELETE FROM {table} WHERE username IN (SELECT username FROM saved_{table})")
        self.run(f"INSERT INTO {table} SELECT * FROM saved_{table}")


@pytest.fixture(params=["sqlite", "postgresql"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Tables:
    if request.param == "sqlite":
        path = tmp_path / "creds.db"

        def run(statement: str) -> str:
            connection = sqlite3.connect(path)
            with connection:
                found = connection.execute(statement).fetchall()
            connection.close()
            return "\n".join("|".join(map(str, row)) for row in found)

        return Tables(f"sqlite:///{path}", run)
    postgres: PostgresServer = request.getfixturevalue("postgres")
    schema = request.getfixturevalue("schema")
    return Tables(postgres.url(schema), lambda statement: postgres.psql(statement, schema))


@pytest.fixture
def opened(tables: Tables, key: StoreKey) -> Callable[..., Store]:
    return lambda key=key: open_store(tables.url, key=key)


async def require_noticed(store: Store, *damaged: tuple[str, str]) -> None:
    """By ``get``, by ``verify`` and when everything is read."""
    for username, secret_id in damaged:
        with pytest.raises(StoreError, match=r"not what was written last.*'ann'.*Sync this user again"):
            await store.get(username, secret_id)
    assert (await store.verify()).damaged == damaged
    with pytest.raises(StoreError, match="not what was written last"):
        await collect(store.secrets())


async def rolled_back(opened: Callable[..., Store], tables: Tables, change: str = "") -> None:
    """A store in which somebody has put back the row that a second run replaced."""
    async with opened() as store:
        await write(store, synced("ann", OLD, OTHER, at=10.0), synced("bob", api_key()))
        tables.save()
        await write(store, synced("ann", NEW, OTHER, at=99.0))
    tables.put_back()
    if change:
        tables.run(change)


@pytest.mark.parametrize(
    "change", ["", "UPDATE secrets SET stored_at = 99.0 WHERE username = 'ann' AND secret_id = 'secret-1'"]
)
async def test_an_older_row_in_the_same_place_does_not_open(
    opened: Callable[..., Store], tables: Tables, change: str
) -> None:
    """As it was, or with the time of the row that it takes the place of; others are not affected."""
    await rolled_back(opened, tables, change)
    async with opened() as store:
        await require_noticed(store, PLACE)
        assert await store.get("ann", "secret-2") == OTHER
        assert await store.get("bob", "secret-1") == api_key()


@pytest.mark.parametrize(
    "change",
    [
        "stored_at = 1.0",
        "stored_at = stored_at + 0.001",
        "type = 'SIMPLE'",
        "expires_at = '2030-01-01T00:00:00+00:00'",
        "removed_at = 5.0",
        "missing_run = 'x', removed_at = 5.0",
    ],
)
async def test_what_describes_a_credential_cannot_be_changed(
    opened: Callable[..., Store], tables: Tables, change: str
) -> None:
    async with opened() as store:
        await write(store, synced("ann", NEW, at=10.0))
        tables.run(f"UPDATE secrets SET {change}")
        await require_noticed(store, PLACE)


async def test_a_mark_of_removal_cannot_be_taken_away(opened: Callable[..., Store], tables: Tables) -> None:
    """Nor the whole row be put back as it was before the mark."""
    async with opened() as store:
        await write(store, synced("ann", NEW, OTHER))
        tables.save()
        run = await write(store, listing("ann", OTHER))
        assert await store.remove_missing(run, how="mark", at=50.0) == 1
        assert (await store.verify()).damaged == ()
        assert await store.get(*PLACE) == NEW
        tables.run("UPDATE secrets SET removed_at = NULL")
        await require_noticed(store, PLACE)
        tables.put_back()
        await require_noticed(store, PLACE)


async def test_a_deleted_row_cannot_be_put_back(opened: Callable[..., Store], tables: Tables) -> None:
    async with opened() as store:
        await write(store, synced("ann", NEW, OTHER))
        tables.save()
        run = await write(store, listing("ann", OTHER))
        assert await store.remove_missing(run, how="delete", at=50.0) == 1
        assert await store.get(*PLACE) is None
        tables.put_back()
        await require_noticed(store, PLACE)
        assert await store.get("ann", "secret-2") == OTHER


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM manifests",
        "UPDATE manifests SET counter = counter + 1",
        "UPDATE manifests SET counter = -1",
        "UPDATE manifests SET username = 'bob' WHERE username = 'ann'",
    ],
)
async def test_a_manifest_cannot_be_removed_changed_or_moved(
    opened: Callable[..., Store], tables: Tables, change: str
) -> None:
    async with opened() as store:
        await write(store, synced("ann", NEW))
        tables.run(change)
        await require_noticed(store, PLACE)


async def test_an_older_manifest_alone_does_not_fit(opened: Callable[..., Store], tables: Tables) -> None:
    async with opened() as store:
        await write(store, synced("ann", OLD))
        tables.save("manifests")
        await write(store, synced("ann", NEW))
        tables.put_back("manifests")
        await require_noticed(store, PLACE)


async def test_the_next_sync_of_the_user_heals_it(opened: Callable[..., Store], tables: Tables) -> None:
    """Also when upstream has what was put back: it is written anew."""
    for secret in (NEW, OLD):
        await rolled_back(opened, tables)
        async with opened() as store:
            run = await store.begin_run(at=3.0)
            assert (await store.write(run, [synced("ann", secret, OTHER)])).changed == 1
            assert await store.get(*PLACE) == secret
            assert (await store.verify()).damaged == ()


async def test_a_sync_that_leaves_the_credential_alone_does_not_make_it_pass(
    opened: Callable[..., Store], tables: Tables
) -> None:
    """As a delta sync does: it writes the user, and lists the credential without fetching it."""
    await rolled_back(opened, tables)
    async with opened() as store:
        run = await store.begin_run(at=3.0)
        left = listing("ann", NEW, OTHER)
        await store.write(run, [type(left)(checkpoint=left.checkpoint, secrets=(OTHER,), listed=left.listed)])
        await require_noticed(store, PLACE)
        assert await store.remove_missing(run, how="mark", at=9.0) == 0
        await store.note_missing(run, ["ann"])
        await store.remove_missing(run, how="mark", at=9.0)
        await require_noticed(store, PLACE)
        await store.write(run, [listing("ann", OTHER)])
        await require_noticed(store, PLACE)


async def test_a_new_key_does_not_make_it_pass(opened: Callable[..., Store], tables: Tables) -> None:
    """It is sealed with the new key, so that nothing of the old one is left, and is still named."""
    await rolled_back(opened, tables)
    newer = StoreKey(b"n" * 32)
    async with opened() as store:
        assert isinstance(store, Rekeyable)
        assert (await store.rekey(newer)).damaged == (PLACE,)
    async with opened(newer) as store:
        await require_noticed(store, PLACE)
        assert await store.get("ann", "secret-2") == OTHER
        run = await store.begin_run(at=3.0)
        assert (await store.write(run, [synced("bob", api_key())])).unchanged == 1


async def test_an_older_row_of_the_previous_key_does_not_open(
    opened: Callable[..., Store], tables: Tables
) -> None:
    await rolled_back(opened, tables)
    newer = StoreKey(b"n" * 32)
    async with opened() as store:
        assert isinstance(store, Rekeyable)
        await store.rekey(newer)
    tables.put_back()
    async with opened(newer) as store:
        assert set((await store.verify()).damaged) == {PLACE, ("ann", "secret-2")}


async def test_a_format_without_manifests_cannot_be_pretended(
    opened: Callable[..., Store], tables: Tables
) -> None:
    """The key check is of the format as well."""
    await rolled_back(opened, tables)
    tables.run("DROP TABLE manifests")
    if tables.url.startswith("sqlite"):
        tables.run("PRAGMA user_version = 4")
    else:
        tables.run("UPDATE meta SET format = 2")
    with pytest.raises(StoreError, match="tampered with"):
        await opened().__aenter__()


@pytest.mark.parametrize("lengths", [(4, 28), (1, 80), (300, 350)])
async def test_lengths_say_little(
    opened: Callable[..., Store], tables: Tables, lengths: tuple[int, int]
) -> None:
    """A copy of the store does not tell a PIN from a passphrase; a long token is still a long one."""
    async with opened() as store:
        for name, length in zip(("ann", "bob"), lengths, strict=True):
            await write(store, synced(name, api_key(key="x" * length)))
        assert tables.run("SELECT count(DISTINCT length(sealed)) FROM secrets") == "1"
