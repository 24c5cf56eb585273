"""The statements for a store's metadata: binding, key changes and the end of an upgrade."""

from collections.abc import Sequence
from itertools import groupby

from msgspec.structs import replace

from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealed.manifests import Manifest, ManifestRow, digest_of, manifest_row
from flowmate_async.stores.sealed.meta import Meta, pick_key, rekeying_meta, sealing_of, upgraded_meta
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sql import manifests
from flowmate_async.stores.sql.database import Database

_WRITE = "UPDATE meta SET key_id = $1, key_check = $2, previous_key_id = $3, previous_key = $4"
_LOCK = "SELECT 1 FROM meta FOR UPDATE"
_ROWS = """
    SELECT username, secret_id, type, expires_at, run_id, stored_at, sealed, removed_at FROM secrets
    WHERE username IN (
        SELECT DISTINCT username FROM secrets WHERE username > $1 ORDER BY username LIMIT $2
    ) ORDER BY username
"""


async def read(db: Database) -> Meta:
    """Return the store's current metadata."""
    return await db.read_meta()


async def bind(db: Database, origin: str) -> Meta:
    """Bind the store to an upstream, unless it is bound. Return its metadata."""
    async with db.transaction():
        await db.execute("UPDATE meta SET origin = $1 WHERE origin IS NULL", origin)
        return await db.read_meta()


async def begin_rekey(db: Database, keys: Sequence[StoreKey], new: StoreKey, *, where: str) -> Meta:
    """Give the store a new key and keep the old one, sealed with it. Return the new metadata."""
    async with db.transaction():
        await db.execute(_LOCK)  # waits for writes in progress
        meta = await db.read_meta()
        meta = rekeying_meta(meta, pick_key(meta, (*keys, new), where=where), new, where=where)
        await _write(db, meta)
    return meta


async def end_rekey(db: Database) -> Meta:
    """Drop the old key. Return the new metadata."""
    async with db.transaction():
        await db.execute(_LOCK)
        meta = replace(await db.read_meta(), previous_key_id=None, previous_key=None)
        await _write(db, meta)
    return meta


async def end_upgrade(
    db: Database, keys: Sequence[StoreKey], *, where: str, checked: str, had_manifests: bool
) -> None:
    """Record the new format. For a format without manifests, trust the stored rows as the newest.

    Args:
        db: within the upgrade's transaction.
        keys: one of them is the store's.
        where: the store, for messages.
        checked: see :class:`~flowmate_async.stores.sealed.meta.Meta`.
        had_manifests: whether the older format had manifests.
    """
    meta = await db.read_meta()
    key = pick_key(meta, keys, where=where)
    await _write(db, upgraded_meta(meta, key, checked=checked))
    sealing = None if had_manifests else sealing_of(meta, key)
    last = ""
    while sealing is not None and (page := await _manifests_after(db, sealing, last)):
        await manifests.put(db, page)
        last = page[-1].username


async def _manifests_after(db: Database, sealing: Sealing, username: str) -> list[ManifestRow]:
    rows = await db.execute(_ROWS, username, PAGE)
    return [
        manifest_row(
            sealing,
            name,
            Manifest(1, {one: digest_of(*facts, removed_at=mark) for _, one, *facts, mark in found}),
        )
        for name, found in groupby(rows, key=lambda row: str(row[0]))
    ]


async def _write(db: Database, meta: Meta) -> None:
    await db.execute(_WRITE, meta.key_id, meta.key_check, meta.previous_key_id, meta.previous_key)
