"""SQLite statements for manifests; ``rows.py`` has all others."""

import sqlite3
from collections.abc import Sequence

import msgspec

from flowmate_async.stores.sealed.manifests import Changes, ManifestRow
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sqlite.batches import insert, with_keys

_FIND = "SELECT username, counter, entries, mac FROM manifests WHERE username IN"
_PUT = "INSERT OR REPLACE INTO manifests (username, counter, entries, mac)"


def changes(connection: sqlite3.Connection, sealing: Sealing, usernames: Sequence[str]) -> Changes:
    """Begin to change rows of these users, within a transaction."""
    return Changes(sealing, [ManifestRow(*row) for row in with_keys(connection, _FIND, usernames)])


def write(connection: sqlite3.Connection, changed: Changes) -> None:
    """Write the manifests that have changed, within the same transaction."""
    put(connection, changed.rows())


def put(connection: sqlite3.Connection, rows: Sequence[ManifestRow]) -> None:
    """Write manifests, within a transaction."""
    insert(connection, _PUT, [msgspec.structs.astuple(row) for row in rows])
