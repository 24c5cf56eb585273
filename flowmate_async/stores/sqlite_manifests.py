"""The statements of a sqlite store for manifests; ``sqlite_rows.py`` has all others."""

import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from flowmate_async.stores.manifests import Changes, ManifestRow, renewed_mac
from flowmate_async.stores.sealing import Sealing
from flowmate_async.stores.sqlite_batches import insert, with_keys
from flowmate_async.stores.sqlite_files import transaction

_FIND = "SELECT username, counter, entries, mac FROM manifests WHERE username IN"
_AFTER = "SELECT username, counter, entries, mac FROM manifests WHERE username > ? ORDER BY username LIMIT ?"
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


def renew(
    connection: sqlite3.Connection, sealing: Callable[[], Sealing], after: str, limit: int
) -> str | None:
    """Authenticate a page of manifests with the store's new key.

    Args:
        connection: the store's.
        sealing: the sealing with the new key and the previous one; a store that was never bound has none.
        after: the username after which the page begins.
        limit: most manifests of the page.

    Returns:
        The last username of the page; ``None`` when there is none.
    """
    with transaction(connection):
        page = [ManifestRow(*row) for row in connection.execute(_AFTER, (after, limit))]
        put(connection, [new for row in page if (new := renewed_mac(sealing(), row)) is not None])
    return page[-1].username if page else None
