"""The statements of SQLite and PostgreSQL stores: rows in, rows out.

Nothing here opens a credential. Pages follow keys, so no cursor outlives a call.
"""

# ruff: noqa: S608 - statements are made of constants

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import astuple

from flowmate_async.stores.base import (
    Checkpoint,
    Missing,
    RecordKey,
    Removal,
    Run,
    RunTotals,
    Status,
    StoredItem,
    UserWrite,
    Written,
    no_such_run,
)
from flowmate_async.stores.held_lock import Fence
from flowmate_async.stores.sealed.manifests import Changes, StoredRow
from flowmate_async.stores.sealed.meta import damaged_meta
from flowmate_async.stores.sealed.missing import MissingChanges, missing_changes
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.rekeying import KeyChanged, Resealed
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sealed.secrets import sealed_secrets, stored_keys
from flowmate_async.stores.sql import health, manifests, tokens
from flowmate_async.stores.sql.database import AFTER, Database, Row, Table

T = TypeVar("T", bound=msgspec.Struct)

_SECRETS = Table(
    "secrets",
    ("username", "secret_id"),
    {
        "username": "text",
        "secret_id": "text",
        "type": "text",
        "expires_at": "text",
        "run_id": "text",
        "stored_at": "float8",
        "fingerprint": "bytea",
        "sealed": "bytea",
        "missing_run": "text",
        "removed_at": "float8",
    },
)
_CHECKPOINTS = Table(
    "checkpoints",
    ("run_id", "username"),
    {
        "run_id": "text",
        "username": "text",
        "status": "text",
        "secrets": "bigint",
        "requests": "bigint",
        "seconds": "float8",
        "at": "float8",
        "error": "text",
        "message": "text",
        "listing_proven": "boolean",
        "seen": "text",
        "renewed": "text",
    },
)
_LAST_RUN = """
    SELECT id, started_at, finished_at, selection FROM runs
    WHERE CAST($1 AS text) IS NULL OR selection = $1 ORDER BY number DESC LIMIT 1
"""
_LATEST_RUNS = "SELECT id, started_at, finished_at, selection FROM runs ORDER BY number DESC LIMIT $1"
_BEGIN_RUN = "INSERT INTO runs (id, started_at, selection) VALUES ($1, $2, $3)"
_FORGET_CHECKPOINTS = """
    DELETE FROM checkpoints WHERE run_id IN (
        SELECT id FROM runs WHERE selection = $1 AND number < (
            SELECT max(number) FROM runs
            WHERE selection = $1 AND number < (SELECT number FROM runs WHERE id = $2)
        )
    )
"""
_HAS_RUN = "SELECT 1 FROM runs WHERE id = $1"
_COLUMNS = "username, secret_id, run_id, sealed, fingerprint, type, expires_at, stored_at, removed_at"
_ROWS = {
    False: f"SELECT {_COLUMNS} FROM secrets",
    True: f"SELECT {_COLUMNS}, counter, entries, mac FROM secrets LEFT JOIN manifests USING (username)",
}
"""Stored credentials; with their users' manifests, if the store's format has them."""

# The wanted rows first, so that each is looked up by the primary key.
_FIND_WANTED = f"""
    SELECT {_COLUMNS} FROM wanted CROSS JOIN secrets
    WHERE username = wanted_username AND secret_id = wanted_id
"""
_STORED = """
    SELECT username, secret_id, missing_run IS NOT NULL OR removed_at IS NOT NULL FROM secrets
    WHERE username IN (:keys)
"""
_NOTE_PRESENT = """
    UPDATE secrets SET missing_run = NULL, removed_at = NULL WHERE username = $1 AND secret_id = $2
"""
_NOTE_MISSING = "UPDATE secrets SET missing_run = $1 WHERE username = $2 AND secret_id = $3"
_NOTE_ALL_MISSING = "UPDATE secrets SET missing_run = $1 WHERE username IN (:keys)"
_MISSING = """
    SELECT count(*) FILTER (WHERE missing_run = $1), count(*) FROM secrets
    WHERE removed_at IS NULL AND (missing_run = $1 OR username IN (
        SELECT username FROM checkpoints WHERE run_id = $1 AND status = 'synced' AND listing_proven
    ))
"""
_MISSING_ROWS = {
    "mark": f"{_ROWS[False]} WHERE missing_run = $1 AND removed_at IS NULL LIMIT $2 FOR UPDATE",
    "delete": f"{_ROWS[False]} WHERE missing_run = $1 LIMIT $2 FOR UPDATE",
}
_MARK = "UPDATE secrets SET removed_at = $1 WHERE username = $2 AND secret_id = $3"
_DELETE = "DELETE FROM secrets WHERE username = $1 AND secret_id = $2"
_RUNS_KEPT = """
    SELECT id FROM runs WHERE EXISTS (SELECT 1 FROM checkpoints WHERE run_id = runs.id) ORDER BY number DESC
"""
_STATUSES = "SELECT username, status FROM checkpoints WHERE run_id = $1 AND username IN (:keys)"
_SEEN = "SELECT username, seen FROM checkpoints WHERE run_id = $1 AND username IN (:keys)"
_RESEAL = "UPDATE secrets SET fingerprint = $1, sealed = $2 WHERE username = $3 AND secret_id = $4"
_TOTALS = """
    SELECT count(*) FILTER (WHERE status = 'synced'), count(*) FILTER (WHERE status = 'failed'),
        CAST(coalesce(sum(secrets), 0) AS bigint), CAST(coalesce(sum(requests), 0) AS bigint)
    FROM checkpoints WHERE run_id = $1
"""
_ERRORS = """
    SELECT error, count(*) FROM checkpoints WHERE run_id = $1 AND status = 'failed'
    GROUP BY error ORDER BY error
"""
_OF_CHECKPOINT = "username, status, secrets, requests, seconds, at, error, message, listing_proven, seen"
_CHECKPOINTS_AFTER = {
    has_renewed: f"""
        SELECT {_OF_CHECKPOINT}, {"renewed" if has_renewed else "''"} FROM checkpoints
        WHERE run_id = $1 AND username > $2 ORDER BY username LIMIT $3
    """
    for has_renewed in (False, True)
}
_ITEMS = "SELECT username, secret_id, type, expires_at, stored_at, removed_at FROM secrets"


async def last_run(db: Database, *, selection: str | None) -> Run | None:
    """Return the most recently begun run, of a selection or of any."""
    rows = await db.execute(_LAST_RUN, selection)
    return _struct(Run, rows[0]) if rows else None


async def runs(db: Database, *, limit: int) -> list[Run]:
    """Return the runs that were begun last, newest first."""
    return [_struct(Run, row) for row in await db.execute(_LATEST_RUNS, limit)]


async def begin_run(db: Database, *, at: float, selection: str) -> Run:
    """Begin a run. Keep only the previous run's checkpoints: they would grow forever."""
    run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
    async with db.transaction():
        await db.execute(_BEGIN_RUN, run.id, at, selection)
        await db.execute(_FORGET_CHECKPOINTS, selection, run.id)
    return run


async def finish_run(db: Database, run: Run, *, at: float | None) -> None:
    """Set or remove the completion mark."""
    async with db.transaction():
        await _require_run(db, run)
        await db.execute("UPDATE runs SET finished_at = $1 WHERE id = $2", at, run.id)


async def write(
    db: Database, sealing: Sealing, run: Run, batch: Sequence[UserWrite], fence: Fence
) -> Written:
    """Write whole users in one transaction."""
    # For duplicates, the last one wins.
    checkpoints = {user.checkpoint.username: user.checkpoint for user in batch}
    names = sorted(checkpoints)
    async with db.transaction():
        has_tokens = await _begun(db, sealing, run, fence)
        # First, since it makes other writers of the same users wait: what is read next is what gets
        # overwritten.
        await db.put(_CHECKPOINTS, [(run.id, *astuple(checkpoints[name])) for name in names])
        stored = await db.fetch_keys(_STORED, names)
        changes = await manifests.changes(db, sealing, names)
        found = await _rows_at(db, stored_keys(batch, stored))
        rows, changed = sealed_secrets(sealing, run, batch, changes.current(found))
        await db.put(_SECRETS, [(*astuple(row), None, None) for row in rows])
        changes.put(rows)
        await _note(db, run, changes, missing_changes(batch, stored))
        await manifests.put(db, changes.rows())
        if has_tokens or any(user.token is not None for user in batch):
            await tokens.write(db, sealing, run, batch)
        await health.write(db, batch, rows)
    return Written(changed, sum(len(user.secrets) for user in batch) - changed)


async def _begun(db: Database, sealing: Sealing, run: Run, fence: Fence) -> bool:
    """Refuse an unknown run, a replaced key or a lost run lock. Return whether there may be tokens."""
    found = await db.execute(
        f"SELECT key_id, {db.holder_column}, EXISTS (SELECT 1 FROM runs WHERE id = $1), "
        "EXISTS (SELECT 1 FROM tokens) FROM meta FOR SHARE",
        run.id,
    )
    if not found:
        raise damaged_meta()
    ((key_id, holder, has_run, has_tokens),) = found
    if not has_run:
        raise no_such_run()
    fence.require(holder)
    if key_id != sealing.key_id:  # nothing may be sealed with a key that the store no longer has
        raise KeyChanged
    return db.is_shared or bool(has_tokens)


async def _note(db: Database, run: Run, changes: Changes, notes: MissingChanges) -> None:
    for row in await _rows_at(db, notes.back):
        changes.marked(row, None)
    await db.execute_each(_NOTE_PRESENT, notes.back)
    await db.execute_each(_NOTE_MISSING, [(run.id, *place) for place in notes.missing])


async def _rows_at(db: Database, places: Sequence[RecordKey]) -> list[StoredRow]:
    return [StoredRow(*row) for row in await db.fetch_wanted(_FIND_WANTED, places)]


async def note_missing(db: Database, run: Run, usernames: Sequence[str]) -> None:
    """Note all credentials of these users as missing and drop their tokens."""
    async with db.transaction():
        await _require_run(db, run)
        await db.fetch_keys(_NOTE_ALL_MISSING, sorted(usernames), run.id)
        await tokens.forget(db, usernames)
        await health.drop(db, usernames)


async def missing(db: Database, run: Run) -> Missing:
    """Return what this run noted as missing, among what it could judge."""
    ((gone, stored),) = await db.execute(_MISSING, run.id)
    return Missing(missing=gone, stored=stored)


async def remove_missing(
    db: Database, sealing: Callable[[], Sealing], run: Run, *, how: Removal, at: float
) -> int:
    """Mark or delete what this run noted as missing, in batches. Return the number of credentials.

    Args:
        db: the store's.
        sealing: the store's; not called for a store that was never bound and has nothing to remove.
        run: the run.
        how: whether to mark or to delete.
        at: the mark, in seconds since the Unix epoch.
    """
    removed = 0
    while True:
        async with db.transaction():
            found = [StoredRow(*row) for row in await db.execute(_MISSING_ROWS[how], run.id, PAGE)]
            if not found:
                return removed
            await _remove(db, sealing(), found, how=how, at=at)
        removed += len(found)


async def _remove(
    db: Database, sealing: Sealing, rows: Sequence[StoredRow], *, how: Removal, at: float
) -> None:
    changes = await manifests.changes(db, sealing, sorted({row.username for row in rows}))
    places = [(row.username, row.secret_id) for row in rows]
    for row in rows:
        if how == "mark":
            changes.marked(row, at)
        else:
            changes.deleted(row)
    if how == "mark":
        await db.execute_each(_MARK, [(at, *place) for place in places])
    else:
        await db.execute_each(_DELETE, places)
    await manifests.put(db, changes.rows())


async def find(db: Database, username: str, secret_id: str, *, has_manifests: bool) -> StoredRow | None:
    """Return one credential, sealed, and its user's manifest."""
    rows = await db.execute(
        f"{_ROWS[has_manifests]} WHERE username = $1 AND secret_id = $2", username, secret_id
    )
    return StoredRow(*rows[0]) if rows else None


async def statuses(db: Database, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
    """Return the statuses of those of these users that have a checkpoint."""
    return dict(await db.fetch_keys(_STATUSES, usernames, run.id))


async def seen(db: Database, usernames: Sequence[str]) -> Mapping[str, str]:
    """Return the ``seen`` of these users' newest checkpoints.

    One statement per run, since few runs have checkpoints: in a join with the runs, SQLite's planner would
    scan everyone's checkpoints for each user.
    """
    found: dict[str, str] = {}
    for (run_id,) in await db.execute(_RUNS_KEPT):
        left = [username for username in usernames if username not in found]
        found.update(await db.fetch_keys(_SEEN, left, run_id))
    return found


async def totals(db: Database, run: Run) -> RunTotals:
    """Return sums over a run's checkpoints."""
    ((synced, failed, secrets, requests),) = await db.execute(_TOTALS, run.id)
    errors: dict[str, int] = dict(await db.execute(_ERRORS, run.id))
    return RunTotals(synced=synced, failed=failed, secrets=secrets, requests=requests, errors=errors)


async def checkpoints_after(
    db: Database, run: Run, username: str, limit: int, *, has_renewed: bool
) -> list[Checkpoint]:
    """Return the next page of a run's checkpoints."""
    rows = await db.execute(_CHECKPOINTS_AFTER[has_renewed], run.id, username, limit)
    return [_struct(Checkpoint, row) for row in rows]


async def items_after(
    db: Database, username: str, secret_id: str, limit: int, *, only: bool
) -> list[StoredItem]:
    """Return the next page of entries; with ``only``, of that user alone."""
    rows = await db.execute(f"{_ITEMS} {AFTER[only]}", username, secret_id, limit)
    return [_struct(StoredItem, row) for row in rows]


async def sealed_after(
    db: Database, username: str, secret_id: str, limit: int, *, only: bool, has_manifests: bool
) -> list[StoredRow]:
    """Return the next page of credentials, sealed; with ``only``, of that user alone."""
    rows = await db.execute(f"{_ROWS[has_manifests]} {AFTER[only]}", username, secret_id, limit)
    return [StoredRow(*row) for row in rows]


async def reseal(db: Database, sealing: Sealing, page: Sequence[Resealed]) -> None:
    """Replace credentials with re-encrypted ones, unless they have changed since they were read."""
    new = {(one.username, one.secret_id): one for one in page}
    async with db.transaction():
        changes = await manifests.changes(db, sealing, sorted({one.username for one in page}))
        rows: list[Row] = []
        for row in await _rows_at(db, sorted(new)):
            one = new[row.username, row.secret_id]
            if row.data == one.found.data:  # otherwise it was written meanwhile, with the new key
                rows.append((one.sealed.fingerprint, one.sealed.data, row.username, row.secret_id))
                changes.resealed(row, one.sealed)
        await db.execute_each(_RESEAL, rows)
        await manifests.put(db, changes.rows())


async def _require_run(db: Database, run: Run) -> None:
    if not await db.execute(_HAS_RUN, run.id):
        raise no_such_run()


def _struct(kind: type[T], row: Row) -> T:
    """Return a row whose columns are the struct's fields, in their order; SQLite has no booleans."""
    return msgspec.convert(dict(zip(kind.__struct_fields__, row, strict=True)), kind, strict=False)
