"""Upgrade of a sqlite store to the current format, after a backup copy."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

from flowmate_async.errors import StoreError
from flowmate_async.redaction import shown_path
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealed.manifests import Manifest, ManifestRow, digest_of, manifest_row
from flowmate_async.stores.sealed.meta import pick_key, sealing_of, upgraded_meta
from flowmate_async.stores.sqlite import manifests as sqlite_manifests
from flowmate_async.stores.sqlite.files import connect, transaction
from flowmate_async.stores.sqlite.schema import (
    FORMAT,
    FORMAT_WITH_MANIFESTS,
    MIGRATIONS,
    checked_of,
    format_of,
    read_meta,
    write_meta,
)
from flowmate_async.stores.upgrading import Upgraded
from flowmate_async.system.private_files import create_private

_ROWS = """
    SELECT username, secret_id, type, expires_at, run_id, stored_at, sealed, removed_at
    FROM secrets ORDER BY username
"""
_USERS_AT_ONCE = 256


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
            _authenticate(connection, keys, path, before=found)
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


def _authenticate(
    connection: sqlite3.Connection, keys: Sequence[StoreKey], path: Path, *, before: int
) -> None:
    """Record the new format. For a format without manifests, trust the stored rows as the newest."""
    meta = read_meta(connection)
    key = pick_key(meta, keys, where=shown_path(path))
    write_meta(connection, upgraded_meta(meta, key, checked=checked_of(FORMAT)))
    sealing = sealing_of(meta, key)
    if sealing is None or before >= FORMAT_WITH_MANIFESTS:
        return
    page: list[ManifestRow] = []
    for username, rows in groupby(connection.execute(_ROWS), key=lambda row: str(row[0])):
        entries = {one: digest_of(*facts, removed_at=mark) for _, one, *facts, mark in rows}
        page.append(manifest_row(sealing, username, Manifest(1, entries)))
        if len(page) == _USERS_AT_ONCE:
            sqlite_manifests.put(connection, page)
            page = []
    sqlite_manifests.put(connection, page)
