"""The files of a sqlite store: who may read them, and what is left untouched."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.errors import CheckpointError, StoreError
from flowmate_async.stores import Checkpoint, Run, StoreKey, UserWrite
from flowmate_async.stores.sqlite.schema import APPLICATION_ID, FORMAT
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.values.secrets import MixedSecret, MixedValue

pytestmark = pytest.mark.anyio

OpenSqlite = Callable[[], SqliteStore]
Snapshots = Callable[[], dict[str, tuple[int, bytes]]]
PLAINTEXT = "plaintext-of-a-credential"


async def fill(store: SqliteStore) -> Run:
    await store.bind("https://flowmate.example")
    run = await store.begin_run(at=1.0)
    secret = MixedSecret(id="s", name=PLAINTEXT, value=MixedValue(payload=PLAINTEXT))
    await store.write(
        run, [UserWrite(checkpoint=Checkpoint(username="ann", status="synced"), secrets=(secret,))]
    )
    return run


def modes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}


async def refusal(store: SqliteStore) -> str:
    """The text of the error that entering the store raises."""
    with pytest.raises(StoreError) as caught:
        await store.__aenter__()
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_every_file_is_for_the_owner_only(open_sqlite: OpenSqlite, path: Path) -> None:
    """Database, write-ahead log, shared memory and lock have mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        async with open_sqlite() as store, store.exclusive_run():
            await fill(store)
            assert modes(path) == dict.fromkeys(
                ("creds.db", "creds.db-wal", "creds.db-shm", "creds.db.lock"), 0o600
            )
    finally:
        os.umask(before)


async def test_no_file_holds_a_credential_in_clear(open_sqlite: OpenSqlite, snapshot: Snapshots) -> None:
    """Neither while the store is open nor afterwards."""
    async with open_sqlite() as store:
        await fill(store)
        while_open = snapshot()
    assert len(while_open["creds.db-wal"][1]) > 0
    for _, content in [*while_open.values(), *snapshot().values()]:
        assert PLAINTEXT.encode() not in content


async def test_making_the_store_object_touches_nothing(open_sqlite: OpenSqlite, snapshot: Snapshots) -> None:
    """Files appear when it is entered."""
    open_sqlite()
    assert snapshot() == {}


async def test_a_store_that_is_not_entered_says_so(open_sqlite: OpenSqlite) -> None:
    """Before the first entering, and after leaving."""
    store = open_sqlite()
    with pytest.raises(StoreError, match="not open"):
        await store.last_run()
    async with store:
        pass
    with pytest.raises(StoreError, match="not open"):
        await store.last_run()


async def test_a_store_others_can_read_is_refused(
    open_sqlite: OpenSqlite, path: Path, snapshot: Snapshots
) -> None:
    """With its mode and the command that puts it right; nothing is touched."""
    async with open_sqlite() as store:
        await fill(store)
    path.chmod(0o640)
    before = snapshot()
    assert f"0640, so other users of this machine can get at it. chmod 600 {path}" in await refusal(
        open_sqlite()
    )
    assert snapshot() == before


async def test_a_symbolic_link_is_refused(open_sqlite: OpenSqlite, path: Path, tmp_path: Path) -> None:
    """Even a dangling one: the store would be created in a place that was not named."""
    path.symlink_to(tmp_path / "elsewhere.db")
    assert "not a regular file" in await refusal(open_sqlite())
    assert not (tmp_path / "elsewhere.db").exists()


async def test_a_folder_is_refused(open_sqlite: OpenSqlite, path: Path) -> None:
    """It is not a regular file."""
    path.mkdir(mode=0o700)
    assert "not a regular file" in await refusal(open_sqlite())


async def test_a_missing_folder_is_named(path: Path, key: StoreKey) -> None:
    """It is not made: its permissions are the owner's decision."""
    store = SqliteStore(path / "missing" / "creds.db", key=key)
    assert "no such file or directory. Check that its folder exists" in await refusal(store)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    """For a new store at once; a store that is there can be read, and a write says why it cannot be."""
    program = """
import anyio, os, tempfile
from pathlib import Path
from flowmate_async.errors import StoreError
from flowmate_async.stores import StoreKey
from flowmate_async.stores.sqlite.store import SqliteStore

async def bind(path):
    async with SqliteStore(path, key=StoreKey(bytes(32))) as store:
        print(await store.origin())
        await store.bind("https://flowmate.example")

def as_nobody(path):
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        anyio.run(bind, path)
    except StoreError as error:
        print(error)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "creds.db")
    anyio.run(bind, path)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    for name, mode in (("creds.db", 0o555), ("new.db", 0o555), ("creds.db", 0o000)):
        path.parent.chmod(mode)
        as_nobody(path.with_name(name))
        path.parent.chmod(0o755)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    _, origin, read_only, unwritable, unreachable = done.stdout.splitlines()
    assert origin == "https://flowmate.example"
    assert "readonly database. Make the file and its folder writable for this user" in read_only
    assert "cannot be written. Make the file and its folder writable for this user" in unwritable
    assert "cannot be written" in unreachable


async def test_a_file_that_is_no_database_is_refused(
    open_sqlite: OpenSqlite, path: Path, snapshot: Snapshots
) -> None:
    """And left exactly as it was."""
    path.touch(0o600)
    path.write_bytes(b"my shopping list\n" * 100)
    before = snapshot()
    assert "not a database" in await refusal(open_sqlite())
    assert snapshot() == before


async def test_a_database_of_another_program_is_refused(
    open_sqlite: OpenSqlite, path: Path, snapshot: Snapshots
) -> None:
    """And left exactly as it was, write-ahead log or not."""
    path.touch(0o600)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    before = snapshot()
    assert "another program" in await refusal(open_sqlite())
    assert snapshot() == before


async def test_an_empty_file_becomes_a_store(open_sqlite: OpenSqlite, path: Path) -> None:
    """As is left by a process that died right after making it."""
    path.touch(0o600)
    async with open_sqlite() as store:
        await fill(store)
        assert [item async for item in store.items()]


async def test_a_newer_format_is_refused(open_sqlite: OpenSqlite, path: Path, snapshot: Snapshots) -> None:
    """With both formats named; nothing is touched."""
    async with open_sqlite() as store:
        await fill(store)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    before = snapshot()
    text = await refusal(open_sqlite())
    assert f"has format {FORMAT + 1}, and this version knows formats up to {FORMAT}. Upgrade" in text
    assert snapshot() == before


async def test_a_wrong_key_touches_nothing(open_sqlite: OpenSqlite, path: Path, snapshot: Snapshots) -> None:
    """Both keys are named by their public ids."""
    async with open_sqlite() as store:
        await fill(store)
    before = snapshot()
    other, right = StoreKey.generate(), StoreKey(b"0123456789abcdef0123456789abcdef")
    text = await refusal(SqliteStore(path, key=other))
    assert other.key_id in text
    assert right.key_id in text
    assert snapshot() == before


async def test_a_wrong_key_touches_nothing_of_a_store_in_use(
    open_sqlite: OpenSqlite, path: Path, snapshot: Snapshots
) -> None:
    """The write-ahead log is neither replayed nor truncated."""
    async with open_sqlite() as store:
        run = await fill(store)
        before = snapshot()
        await refusal(SqliteStore(path, key=StoreKey.generate()))
        assert snapshot() == before
        assert await store.statuses(run, ["ann"]) == {"ann": "synced"}


async def test_a_forged_key_id_does_not_pass_for_the_key(open_sqlite: OpenSqlite, path: Path) -> None:
    """The key check decides, not the name of the key."""
    async with open_sqlite() as store:
        await fill(store)
    other = StoreKey.generate()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET key_id = ?", (other.key_id,))
    connection.close()
    assert "tampered" in await refusal(SqliteStore(path, key=other))


async def test_a_store_without_its_meta_row_is_damaged(open_sqlite: OpenSqlite, path: Path) -> None:
    """And said to be so, in one line."""
    async with open_sqlite() as store:
        await fill(store)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()
    assert "damaged" in await refusal(open_sqlite())


async def test_the_file_is_marked_as_ours(open_sqlite: OpenSqlite, path: Path) -> None:
    """Its application id and format are in the header, and the database is in WAL mode."""
    async with open_sqlite():
        pass
    connection = sqlite3.connect(path)
    found = [
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    ]
    assert found == [APPLICATION_ID, FORMAT]
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()


async def test_deleted_content_is_overwritten(open_sqlite: OpenSqlite) -> None:
    """A replaced credential does not stay in the file, and every write reaches the disk."""
    async with open_sqlite() as store:
        connection = store._connection
        assert connection is not None
        assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_two_stores_on_one_new_file_agree(open_sqlite: OpenSqlite) -> None:
    """The second one to open finds what the first one made."""
    async with open_sqlite() as first, open_sqlite() as second:
        await fill(first)
        assert await second.last_run() == await first.last_run()
        assert (await second.verify()).intact == 0 or (await second.verify()).damaged == ()


async def test_only_one_run_between_processes(open_sqlite: OpenSqlite, path: Path, key: StoreKey) -> None:
    """The lock is seen by other processes, and ends with a process that is killed."""
    program = """
import anyio, sys
from pathlib import Path
from flowmate_async.stores import StoreKey
from flowmate_async.stores.sqlite.store import SqliteStore

async def hold():
    async with SqliteStore(Path(sys.argv[1]), key=StoreKey.parse(sys.stdin.readline())) as store:
        async with store.exclusive_run():
            print("held", flush=True)
            await anyio.sleep_forever()

anyio.run(hold)
"""
    holder = subprocess.Popen(  # noqa: ASYNC220 - our own program, and nothing else to do meanwhile
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(key.encoded() + "\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        async with open_sqlite() as store:
            with pytest.raises(CheckpointError, match=rf"{path}\.lock"):
                await store.exclusive_run().__aenter__()
        holder.kill()
    async with open_sqlite() as store, store.exclusive_run():
        pass


async def test_a_lock_file_that_is_not_ours_is_refused(open_sqlite: OpenSqlite, path: Path) -> None:
    """A folder in its place gives an error, not a lock."""
    Path(f"{path}.lock").mkdir()
    async with open_sqlite() as store:
        with pytest.raises(StoreError, match="not a regular file"):
            await store.exclusive_run().__aenter__()
