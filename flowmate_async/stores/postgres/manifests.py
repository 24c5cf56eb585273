"""PostgreSQL statements for manifests; ``rows.py`` has all others."""

from collections.abc import Sequence

from flowmate_async.stores.postgres.address import Connection
from flowmate_async.stores.sealed.manifests import Changes, ManifestRow
from flowmate_async.stores.sealed.sealing import Sealing

# Rows are locked in the order of their names, so that two writers of the same users take turns. A missing row
# is created first, since only existing rows can be locked.
_FIND = """
    SELECT username, counter, entries, mac FROM manifests WHERE username = ANY ($1::text[])
    ORDER BY username FOR UPDATE
"""
_MAKE = """
    INSERT INTO manifests (username, counter, entries, mac)
    SELECT username, 0, '', '' FROM unnest($1::text[]) AS new (username) ON CONFLICT (username) DO NOTHING
"""
_PUT = """
    INSERT INTO manifests (username, counter, entries, mac)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[])
    ON CONFLICT (username) DO UPDATE SET counter = excluded.counter, entries = excluded.entries,
        mac = excluded.mac
"""


async def changes(connection: Connection, sealing: Sealing, usernames: Sequence[str]) -> Changes:
    """Begin to change rows of these sorted users, within a transaction."""
    found = await connection.fetch(_FIND, list(usernames))
    if len(found) < len(usernames):
        await connection.execute(_MAKE, list(usernames))
        found = await connection.fetch(_FIND, list(usernames))
    return Changes(sealing, [ManifestRow(*row) for row in found])


async def put(connection: Connection, rows: Sequence[ManifestRow]) -> None:
    """Write manifests, within a transaction."""
    if rows:
        await connection.execute(
            _PUT,
            [row.username for row in rows],
            [row.counter for row in rows],
            [row.entries for row in rows],
            [row.mac for row in rows],
        )
