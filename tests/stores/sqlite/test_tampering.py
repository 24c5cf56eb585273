"""Tampering with a sqlite store is noticed, named, and healed by the next sync."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.errors import StoreError
from flowmate_async.stores import Checkpoint, StoreKey, UserWrite, Verification, Written
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.values.secrets import MixedSecret, MixedValue

pytestmark = pytest.mark.anyio

OpenSqlite = Callable[[], SqliteStore]
PLACES = [("ann", "a"), ("ann", "b"), ("bob", "a")]


def user(username: str, *secret_ids: str) -> UserWrite:
    found = tuple(MixedSecret(id=one, value=MixedValue(payload=f"{one} of {username}")) for one in secret_ids)
    return UserWrite(checkpoint=Checkpoint(username=username, status="synced"), secrets=found)


BATCH = [user("ann", "a", "b"), user("bob", "a")]


async def fill(store: SqliteStore, origin: str = "https://flowmate.example") -> None:
    await store.bind(origin)
    await store.write(await store.begin_run(at=1.0), BATCH)


def alter(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement, values)
    connection.close()


def read(path: Path, columns: str, username: str, secret_id: str) -> tuple[object, ...]:
    connection = sqlite3.connect(path)
    statement = f"SELECT {columns} FROM secrets WHERE username = ? AND secret_id = ?"
    row: tuple[object, ...] = connection.execute(statement, (username, secret_id)).fetchone()
    connection.close()
    return row


async def damaged(store: SqliteStore) -> set[tuple[str, str]]:
    async with store:
        return set((await store.verify()).damaged)


async def test_swapped_credentials_of_one_user_do_not_open(open_sqlite: OpenSqlite, path: Path) -> None:
    """Though both were sealed for the same user in the same run."""
    async with open_sqlite() as store:
        await fill(store)
    columns = "run_id, sealed, fingerprint"
    first, second = read(path, columns, "ann", "a"), read(path, columns, "ann", "b")
    for values, secret_id in ((second, "a"), (first, "b")):
        update = "UPDATE secrets SET run_id = ?, sealed = ?, fingerprint = ?"
        alter(path, f"{update} WHERE username = 'ann' AND secret_id = ?", *values, secret_id)
    assert await damaged(open_sqlite()) == {("ann", "a"), ("ann", "b")}


async def test_a_row_moved_to_another_user_does_not_open(open_sqlite: OpenSqlite, path: Path) -> None:
    """No tenant's credential can be handed to another by renaming a row."""
    async with open_sqlite() as store:
        await fill(store)
    alter(path, "UPDATE secrets SET username = 'eve' WHERE username = 'ann' AND secret_id = 'a'")
    async with open_sqlite() as store:
        with pytest.raises(StoreError, match=r"does not open.*user 'eve', secret 'a'"):
            await store.get("eve", "a")
        assert await store.get("bob", "a") is not None


@pytest.mark.parametrize("position", [0, 11, 12, 20, -16, -1])
async def test_a_flipped_bit_is_noticed(open_sqlite: OpenSqlite, path: Path, position: int) -> None:
    """In the nonce, the ciphertext and the tag."""
    async with open_sqlite() as store:
        await fill(store)
    (sealed,) = read(path, "sealed", "bob", "a")
    assert isinstance(sealed, bytes)
    altered = bytearray(sealed)
    altered[position] ^= 1
    alter(path, "UPDATE secrets SET sealed = ? WHERE username = 'bob'", bytes(altered))
    assert await damaged(open_sqlite()) == {("bob", "a")}


@pytest.mark.parametrize("sealed", [b"", b"short", bytes(12), bytes(27), bytes(28)])
async def test_a_truncated_record_is_noticed(open_sqlite: OpenSqlite, path: Path, sealed: bytes) -> None:
    """Down to nothing at all."""
    async with open_sqlite() as store:
        await fill(store)
    alter(path, "UPDATE secrets SET sealed = ? WHERE username = 'bob'", sealed)
    assert await damaged(open_sqlite()) == {("bob", "a")}


async def test_another_run_id_is_noticed(open_sqlite: OpenSqlite, path: Path) -> None:
    """The run a record was sealed under cannot be changed."""
    async with open_sqlite() as store:
        await fill(store)
    alter(path, "UPDATE secrets SET run_id = 'another' WHERE username = 'bob'")
    assert await damaged(open_sqlite()) == {("bob", "a")}


async def test_a_row_of_another_store_does_not_open(
    open_sqlite: OpenSqlite, path: Path, key: StoreKey, tmp_path: Path
) -> None:
    """Same key, same upstream, same user, same secret: still another store."""
    async with open_sqlite() as store:
        await fill(store)
    other_path = tmp_path / "other.db"
    async with SqliteStore(other_path, key=key) as other:
        await fill(other)
    foreign = read(other_path, "run_id, sealed", "bob", "a")
    alter(path, "UPDATE secrets SET run_id = ?, sealed = ? WHERE username = 'bob'", *foreign)
    assert await damaged(open_sqlite()) == {("bob", "a")}


async def test_a_store_bent_to_another_upstream_opens_nothing(open_sqlite: OpenSqlite, path: Path) -> None:
    """The origin is part of what every record is sealed for."""
    async with open_sqlite() as store:
        await fill(store)
    alter(path, "UPDATE meta SET origin = 'https://evil.example'")
    assert await damaged(open_sqlite()) == set(PLACES)


async def test_reading_stops_at_the_damaged_record_and_names_it(open_sqlite: OpenSqlite, path: Path) -> None:
    """What came before it is handed out."""
    async with open_sqlite() as store:
        await fill(store)
    alter(path, "UPDATE secrets SET sealed = x'00' WHERE username = 'bob'")
    seen = []
    async with open_sqlite() as store:
        with pytest.raises(StoreError) as caught:  # noqa: PT012 - what came before the error counts
            async for username, secret in store.secrets():
                seen.append((username, secret.id))
    assert seen == [("ann", "a"), ("ann", "b")]
    assert (caught.value.username, caught.value.secret_id) == ("bob", "a")


async def test_the_next_sync_heals_a_damaged_record(open_sqlite: OpenSqlite, path: Path) -> None:
    """An intact fingerprint does not make a record that fails to open count as unchanged."""
    async with open_sqlite() as store:
        await fill(store)
    alter(path, "UPDATE secrets SET sealed = x'00' WHERE username = 'bob'")
    async with open_sqlite() as store:
        assert await store.write(await store.begin_run(at=2.0), BATCH) == Written(1, 2)
        assert await store.verify() == Verification(intact=3)


async def test_equal_credentials_look_different(open_sqlite: OpenSqlite, path: Path) -> None:
    """Neither sealed records nor fingerprints tell that two users have the same credential."""
    same = MixedSecret(id="s", value=MixedValue(payload="the same"))
    batch = [
        UserWrite(checkpoint=Checkpoint(username=name, status="synced"), secrets=(same,))
        for name in ("ann", "bob")
    ]
    async with open_sqlite() as store:
        await store.bind("https://flowmate.example")
        await store.write(await store.begin_run(at=1.0), batch)
    ann, bob = read(path, "sealed, fingerprint", "ann", "s"), read(path, "sealed, fingerprint", "bob", "s")
    assert ann[0] != bob[0]
    assert ann[1] != bob[1]
