"""The statements for manifests; ``rows.py`` has all others."""

from collections.abc import Sequence

from msgspec.structs import astuple

from flowmate_async.stores.sealed.manifests import Changes, ManifestRow
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sql.database import Database, Table

_COLUMNS = {"username": "text", "counter": "bigint", "entries": "bytea", "mac": "bytea"}
_MANIFESTS = Table("manifests", ("username",), _COLUMNS)
_NEW_MANIFESTS = Table("manifests", ("username",), _COLUMNS, replaces=False)

# Rows are locked in the order of their names, so that two writers of the same users take turns.
_FIND = """
    SELECT username, counter, entries, mac FROM manifests
    WHERE username IN (:keys) ORDER BY username FOR UPDATE
"""


async def changes(db: Database, sealing: Sealing, usernames: Sequence[str]) -> Changes:
    """Begin to change rows of these sorted users, within a transaction."""
    found = await db.fetch_keys(_FIND, usernames)
    if db.is_shared and len(found) < len(usernames):  # only existing rows can be locked
        await db.put(_NEW_MANIFESTS, [(name, 0, b"", b"") for name in usernames])
        found = await db.fetch_keys(_FIND, usernames)
    return Changes(sealing, [ManifestRow(*row) for row in found])


async def put(db: Database, rows: Sequence[ManifestRow]) -> None:
    """Write manifests, within a transaction."""
    await db.put(_MANIFESTS, [astuple(row) for row in rows])
