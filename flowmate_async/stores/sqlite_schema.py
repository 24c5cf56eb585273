"""The tables of a sqlite store, who may open it, and how an older one is brought up to date.

Knows nothing of single credentials or of runs.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowmate_async.errors import StoreError
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.meta import Meta, new_meta, pick_key
from flowmate_async.stores.sqlite_files import (
    connect,
    has_rollback_journal,
    has_write_ahead_log,
    inspect,
    prepare_file,
    require_writable,
    shown,
    transaction,
)

APPLICATION_ID = 0x464D4153
"""Marks the database file as one of ours; ``FMAS`` in ASCII."""

FORMAT = 4
"""The format this version writes, kept in ``PRAGMA user_version``."""

_TOKENS = """
    CREATE TABLE tokens (
        username TEXT NOT NULL PRIMARY KEY,
        run_id TEXT NOT NULL,
        used_at REAL NOT NULL,
        sealed BLOB NOT NULL
    ) WITHOUT ROWID
"""

MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE secrets ADD COLUMN missing_run TEXT",
        "ALTER TABLE secrets ADD COLUMN removed_at REAL",
        "ALTER TABLE meta ADD COLUMN previous_key_id TEXT",
        "ALTER TABLE meta ADD COLUMN previous_key BLOB",
    ),
    2: ("ALTER TABLE checkpoints ADD COLUMN seen TEXT NOT NULL DEFAULT ''",),
    3: (_TOKENS,),
}
"""What brings a store of that format to the next one."""

TABLES = (
    """
    CREATE TABLE meta (
        store_id TEXT NOT NULL,
        key_id TEXT NOT NULL,
        key_check BLOB NOT NULL,
        origin TEXT,
        previous_key_id TEXT,
        previous_key BLOB
    )
    """,
    """
    CREATE TABLE secrets (
        username TEXT NOT NULL,
        secret_id TEXT NOT NULL,
        type TEXT NOT NULL,
        expires_at TEXT,
        run_id TEXT NOT NULL,
        stored_at REAL NOT NULL,
        fingerprint BLOB NOT NULL,
        sealed BLOB NOT NULL,
        missing_run TEXT,
        removed_at REAL,
        PRIMARY KEY (username, secret_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        started_at REAL NOT NULL,
        finished_at REAL,
        selection TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE checkpoints (
        run_id TEXT NOT NULL,
        username TEXT NOT NULL,
        status TEXT NOT NULL,
        secrets INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        seconds REAL NOT NULL,
        at REAL NOT NULL,
        error TEXT NOT NULL,
        message TEXT NOT NULL,
        listing_proven INTEGER NOT NULL,
        seen TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (run_id, username)
    ) WITHOUT ROWID
    """,
    _TOKENS,
)


def open_database(
    path: Path, keys: Sequence[StoreKey], *, busy_timeout_seconds: float
) -> tuple[sqlite3.Connection, Meta]:
    """Open a store, making or updating it where needed; nothing is written before everything was checked.

    Raises:
        StoreError: not a store, of a newer version, another key, or not private.
    """
    prepare_file(path)
    require_writable(path)
    if path.stat().st_size and not has_rollback_journal(path):
        _look(path, keys)
    connection = connect(path, busy_timeout_seconds=busy_timeout_seconds)
    try:
        return connection, _prepare(connection, keys, path)
    except BaseException:
        connection.close()
        raise


def _look(path: Path, keys: Sequence[StoreKey]) -> None:
    """Check without touching anything, as far as that is possible while others write.

    Whoever takes no lock may see half of a change, which looks like damage; then the check that follows,
    within a transaction, is the one that counts.
    """
    try:
        inspect(path, lambda connection: _check(connection, keys, path))
    except sqlite3.DatabaseError:
        if not has_write_ahead_log(path):
            raise


def _check(connection: sqlite3.Connection, keys: Sequence[StoreKey], path: Path) -> bool:
    """Refuse what must not be opened; whether there are tables yet."""
    if _is_blank(connection):
        return False
    _check_format(connection, path)
    pick_key(_any_meta(connection), keys, where=shown(path))
    return True


def _is_blank(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return not tables


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreError(f"{shown(path)} is a database of another program", advice="Name another file")
    found = _pragma(connection, "user_version")
    if found > FORMAT:
        raise StoreError(
            f"the store {shown(path)} has format {found}, and this version knows formats up to {FORMAT}",
            advice="Upgrade flowmate-async",
        )


def _prepare(connection: sqlite3.Connection, keys: Sequence[StoreKey], path: Path) -> Meta:
    # Tables are made before the write-ahead log is switched on, so that meta is always in the file itself.
    with transaction(connection):
        if _check(connection, keys, path):
            _migrate(connection, path)
        else:
            _create(connection, keys[0])
        meta = read_meta(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    return meta


def _create(connection: sqlite3.Connection, key: StoreKey) -> None:
    for statement in TABLES:
        connection.execute(statement)
    made = new_meta(key)
    connection.execute(
        "INSERT INTO meta (store_id, key_id, key_check) VALUES (?, ?, ?)",
        (made.store_id, made.key_id, made.key_check),
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    found = _pragma(connection, "user_version")
    for number in range(found, FORMAT):
        if number not in MIGRATIONS:
            raise StoreError(
                f"the store {shown(path)} has format {found}, which this version no longer reads",
                advice="Open it once with an older flowmate-async, or sync into a new store",
            )
        for statement in MIGRATIONS[number]:
            connection.execute(statement)
    if found != FORMAT:
        connection.execute(f"PRAGMA user_version = {FORMAT}")


def read_meta(connection: sqlite3.Connection) -> Meta:
    """What the store says of itself now."""
    return _meta(connection, ", previous_key_id, previous_key")


def write_meta(connection: sqlite3.Connection, meta: Meta) -> None:
    """Have the store say something else of itself."""
    connection.execute(
        "UPDATE meta SET key_id = ?, key_check = ?, origin = ?, previous_key_id = ?, previous_key = ?",
        (meta.key_id, meta.key_check, meta.origin, meta.previous_key_id, meta.previous_key),
    )


def _any_meta(connection: sqlite3.Connection) -> Meta:
    """The same of a store of any format, without what came later."""
    return _meta(connection, "")


def _meta(connection: sqlite3.Connection, later: str) -> Meta:
    row = connection.execute(f"SELECT store_id, key_id, key_check, origin{later} FROM meta").fetchone()  # noqa: S608
    if row is None:
        raise StoreError(
            "the store has lost its first table's row, so it is damaged", advice="Restore a backup"
        )
    return Meta(*row)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
