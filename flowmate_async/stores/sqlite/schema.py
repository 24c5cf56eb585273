"""The tables of a sqlite store, and the checks on opening it. Opening never changes an existing store.

Knows nothing of single credentials or of runs. ``upgrade.py`` upgrades older stores.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flowmate_async.errors import StoreError
from flowmate_async.redaction import shown_path
from flowmate_async.stores.database_file import prepare_file
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealed.meta import Meta, damaged_meta, new_meta, pick_key
from flowmate_async.stores.sqlite.files import (
    connect,
    has_rollback_journal,
    has_write_ahead_log,
    inspect,
    is_writable,
    require_writable,
    transaction,
)
from flowmate_async.system.private_files import require_private

APPLICATION_ID = 0x464D4153
"""Application id that marks the database file as ours; ``FMAS`` in ASCII."""

FORMAT = 6
"""The format this version writes, kept in ``PRAGMA user_version``."""

FORMAT_WITH_MANIFESTS = 5

_TOKENS = """
    CREATE TABLE tokens (
        username TEXT NOT NULL PRIMARY KEY,
        run_id TEXT NOT NULL,
        used_at REAL NOT NULL,
        sealed BLOB NOT NULL
    ) WITHOUT ROWID
"""

_MANIFESTS = """
    CREATE TABLE manifests (
        username TEXT NOT NULL PRIMARY KEY,
        counter INTEGER NOT NULL,
        entries BLOB NOT NULL,
        mac BLOB NOT NULL
    )
"""

_HEALTH = """
    CREATE TABLE health (
        username TEXT NOT NULL,
        secret_id TEXT NOT NULL,
        type TEXT NOT NULL,
        auth_client_id TEXT,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        since REAL NOT NULL,
        told TEXT,
        evidence TEXT NOT NULL,
        PRIMARY KEY (username, secret_id)
    ) WITHOUT ROWID
"""

_OUTBOX = """
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        notice TEXT NOT NULL
    )
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
    4: (_MANIFESTS,),
    5: (_HEALTH, _OUTBOX, "ALTER TABLE checkpoints ADD COLUMN renewed TEXT NOT NULL DEFAULT ''"),
}
"""The statements that upgrade the tables of a store of that format to the next one."""

_LACKING: Mapping[int, tuple[str, ...]] = {
    1: (
        "CREATE TEMP VIEW secrets AS SELECT *, NULL AS missing_run, NULL AS removed_at FROM main.secrets",
        "CREATE TEMP VIEW meta AS SELECT *, NULL AS previous_key_id, NULL AS previous_key FROM main.meta",
    ),
    2: ("CREATE TEMP VIEW checkpoints AS SELECT *, '' AS seen FROM main.checkpoints",),
    3: ("CREATE TEMP TABLE tokens (username, run_id, used_at, sealed)",),
}
"""Statements that add what reading needs and a store of that format lacks, for this connection only."""

# Tables with large rows have a rowid, so that rows are appended. Without one they are stored in the index,
# and users in non-alphabetical order split its pages at random. No statement depends on it: older stores keep
# the layout they were created with.
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
    )
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
        renewed TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (run_id, username)
    )
    """,
    _TOKENS,
    _MANIFESTS,
    _HEALTH,
    _OUTBOX,
)


class Opened(NamedTuple):
    """A store that was opened.

    Attributes:
        connection: this process's connection.
        meta: the store's metadata.
        format: the store's format.
    """

    connection: sqlite3.Connection
    meta: Meta
    format: int


def open_database(
    path: Path, keys: Sequence[StoreKey], *, create: bool, busy_timeout_seconds: float
) -> Opened:
    """Open a store. An existing store is only read, whatever its format; a missing one is created.

    Raises:
        StoreError: missing and not to be created, not a store, of a newer version, another key, or not
            private.
    """
    if create and not os.path.lexists(path):
        require_writable(path)
        prepare_file(path)
    require_private(path, what="the store", follow_symlinks=False, error=StoreError)
    writable = is_writable(path)
    if path.stat().st_size and not has_rollback_journal(path):
        _look(path, keys)
    elif not (create and writable) and not path.stat().st_size:
        raise StoreError(f"there is no store {shown_path(path)}", advice="Check the store's URL")
    connection = connect(path, busy_timeout_seconds=busy_timeout_seconds, writable=writable)
    try:
        return _opened(connection, keys, path)
    except BaseException:
        connection.close()
        raise


def _opened(connection: sqlite3.Connection, keys: Sequence[StoreKey], path: Path) -> Opened:
    if _is_blank(connection):
        # Tables are created before the write-ahead log is switched on, so that meta is always in the file.
        with transaction(connection):
            if _is_blank(connection):
                _create(connection, keys[0])
        connection.execute("PRAGMA journal_mode = WAL")
    _check(connection, keys, path)
    found = format_of(connection)
    for number in range(found, FORMAT):
        for statement in _LACKING.get(number, ()):
            connection.execute(statement)
    return Opened(connection, read_meta(connection), found)


def _look(path: Path, keys: Sequence[StoreKey]) -> None:
    """Check without side effects, as far as possible while others write.

    A reader without a lock may see a partial change, which looks like damage. Then the following check over
    the connection decides.
    """
    try:
        inspect(path, lambda connection: _check(connection, keys, path))
    except sqlite3.DatabaseError:
        if not has_write_ahead_log(path):
            raise


def _check(connection: sqlite3.Connection, keys: Sequence[StoreKey], path: Path) -> None:
    """Refuse a file that must not be opened."""
    if _is_blank(connection):
        return
    _check_format(connection, path)
    pick_key(_meta(connection, ""), keys, where=shown_path(path))


def _is_blank(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM main.sqlite_master").fetchone()
    return not tables


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreError(f"{shown_path(path)} is a database of another program", advice="Name another file")
    found = format_of(connection)
    if found > FORMAT:
        raise StoreError(
            f"the store {shown_path(path)} has format {found}, and this version knows formats up to {FORMAT}",
            advice="Upgrade flowmate-async",
        )
    if found not in (*MIGRATIONS, FORMAT):
        raise StoreError(
            f"the store {shown_path(path)} has format {found}, which this version no longer reads",
            advice="Open it once with an older flowmate-async, or sync into a new store",
        )


def _create(connection: sqlite3.Connection, key: StoreKey) -> None:
    for statement in TABLES:
        connection.execute(statement)
    made = new_meta(key, checked=checked_of(FORMAT))
    connection.execute(
        "INSERT INTO meta (store_id, key_id, key_check) VALUES (?, ?, ?)",
        (made.store_id, made.key_id, made.key_check),
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def format_of(connection: sqlite3.Connection) -> int:
    """Return the store's format."""
    return _pragma(connection, "user_version")


def checked_of(found: int) -> str:
    """Return what a store's key check covers: the format, in formats with manifests."""
    return f"format {found}" if found >= FORMAT_WITH_MANIFESTS else ""


def read_meta(connection: sqlite3.Connection) -> Meta:
    """Return the store's current metadata."""
    return _meta(connection, ", previous_key_id, previous_key")


def _meta(connection: sqlite3.Connection, later: str) -> Meta:
    row = connection.execute(f"SELECT store_id, key_id, key_check, origin{later} FROM meta").fetchone()  # noqa: S608
    if row is None:
        raise damaged_meta()
    return Meta(*row, checked=checked_of(format_of(connection)))  # type: ignore[misc] # what is left out


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
