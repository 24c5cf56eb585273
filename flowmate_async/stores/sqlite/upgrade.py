"""Upgrade of a sqlite store to the current format, after a backup copy."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from flowmate_async.errors import StoreError
from flowmate_async.redaction import shown_path
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sql.database import run_now
from flowmate_async.stores.sql.meta import end_upgrade
from flowmate_async.stores.sqlite.database import SqliteDatabase
from flowmate_async.stores.sqlite.files import connect, transaction
from flowmate_async.stores.sqlite.schema import (
    FORMAT,
    FORMAT_WITH_MANIFESTS,
    MIGRATIONS,
    checked_of,
    format_of,
)
from flowmate_async.stores.upgrading import Upgraded
from flowmate_async.system.private_files import create_private


def upgrade(path: Path, keys: Sequence[StoreKey], *, busy_timeout_seconds: float) -> Upgraded:
    """Back up the store, then change its tables in one transaction.

    Raises:
        StoreError: the copy cannot be made, or the store cannot be written; nothing has changed.
    """
    with closing(connect(path, busy_timeout_seconds=busy_timeout_seconds)) as connection:
        found = format_of(connection)
        if found == FORMAT:
            return Upgraded(before=found, after=found)
        backup = _backed_up(connection, path, found)
        with transaction(connection):
            for number in range(format_of(connection), FORMAT):
                for statement in MIGRATIONS[number]:
                    connection.execute(statement)
            run_now(
                end_upgrade(
                    SqliteDatabase(connection),
                    keys,
                    where=shown_path(path),
                    checked=checked_of(FORMAT),
                    had_manifests=found >= FORMAT_WITH_MANIFESTS,
                )
            )
            connection.execute(f"PRAGMA user_version = {FORMAT}")
    return Upgraded(before=found, after=FORMAT, backup=backup)


def _backed_up(connection: sqlite3.Connection, path: Path, found: int) -> Path:
    backup = Path(f"{path}.format-{found}")
    if not create_private(backup, error=StoreError):
        raise StoreError(
            f"the backup {shown_path(backup)} exists already",
            advice="Move it away, or remove it if it is not needed",
        )
    try:
        with closing(sqlite3.connect(backup)) as copy:
            connection.backup(copy)
    except BaseException:
        backup.unlink(missing_ok=True)
        raise
    _sync(backup)
    return backup


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
