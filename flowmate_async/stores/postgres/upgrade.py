"""Upgrade of a PostgreSQL store to the current format, in one transaction."""

from collections.abc import Sequence
from itertools import groupby

from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.postgres import manifests as postgres_manifests
from flowmate_async.stores.postgres.address import Address, Connection
from flowmate_async.stores.postgres.schema import (
    FORMAT,
    FORMAT_WITH_MANIFESTS,
    MIGRATIONS,
    checked_format,
    checked_of,
    lock_number,
    read_meta,
    write_meta,
)
from flowmate_async.stores.sealed.manifests import Manifest, ManifestRow, digest_of, manifest_row
from flowmate_async.stores.sealed.meta import pick_key, sealing_of, upgraded_meta
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.upgrading import Upgraded

_ROWS = """
    SELECT username, secret_id, type, expires_at, run_id, stored_at, sealed, removed_at FROM secrets
    WHERE username IN (
        SELECT DISTINCT username FROM secrets WHERE username > $1 ORDER BY username LIMIT $2
    ) ORDER BY username
"""
_USERS_AT_ONCE = 256


async def upgrade(connection: Connection, keys: Sequence[StoreKey], address: Address) -> Upgraded:
    """Change the tables of a store and authenticate the existing rows.

    Raises:
        StoreError: the role may not change the tables; nothing has changed.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_number("prepare", address.schema))
        await connection.execute("SELECT 1 FROM meta FOR UPDATE")  # waits for those who are writing
        found = await checked_format(connection, address)
        if found == FORMAT:
            return Upgraded(before=found, after=found)
        for number in range(found, FORMAT):
            await connection.execute(MIGRATIONS[number])
        await _authenticate(connection, keys, address, before=found)
        await connection.execute("UPDATE meta SET format = $1", FORMAT)
    return Upgraded(before=found, after=FORMAT)


async def _authenticate(
    connection: Connection, keys: Sequence[StoreKey], address: Address, *, before: int
) -> None:
    """Record the new format. For a format without manifests, trust the stored rows as the newest."""
    meta = await read_meta(connection)
    key = pick_key(meta, keys, where=address.where)
    await write_meta(connection, upgraded_meta(meta, key, checked=checked_of(FORMAT)))
    sealing = sealing_of(meta, key) if before < FORMAT_WITH_MANIFESTS else None
    last = ""
    while sealing is not None and (page := await _manifests_after(connection, sealing, last)):
        await postgres_manifests.put(connection, page)
        last = page[-1].username


async def _manifests_after(connection: Connection, sealing: Sealing, username: str) -> list[ManifestRow]:
    rows = [tuple(row) for row in await connection.fetch(_ROWS, username, _USERS_AT_ONCE)]
    return [
        manifest_row(
            sealing,
            name,
            Manifest(1, {one: digest_of(*facts, removed_at=mark) for _, one, *facts, mark in found}),
        )
        for name, found in groupby(rows, key=lambda row: str(row[0]))
    ]
