"""The statements of a PostgreSQL store: rows in, rows out, over a connection that the caller guards.

Batches are sent as arrays, one statement per batch. A batch begins with its checkpoints, sorted by name: two
writers of the same users in a run take turns there and cannot deadlock. Nothing here
opens a credential.
"""

# ruff: noqa: S608 - statements are made of constants

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

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
from flowmate_async.stores.postgres import health, manifests, tokens
from flowmate_async.stores.postgres.address import Connection
from flowmate_async.stores.postgres.lock import Fence
from flowmate_async.stores.sealed.manifests import Changes, StoredRow
from flowmate_async.stores.sealed.missing import MissingChanges, missing_changes
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.rekeying import KeyChanged, Resealed
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sealed.secrets import sealed_secrets, stored_keys

T = TypeVar("T", bound=msgspec.Struct)

_LAST_RUN = """
    SELECT id, started_at, finished_at, selection FROM runs
    WHERE $1::text IS NULL OR selection = $1 ORDER BY number DESC LIMIT 1
"""
_RESEAL = """
    UPDATE secrets SET fingerprint = new.fingerprint, sealed = new.sealed
    FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[])
        AS new (username, secret_id, fingerprint, sealed)
    WHERE secrets.username = new.username AND secrets.secret_id = new.secret_id
"""
_BEGIN_RUN = "INSERT INTO runs (id, started_at, selection) VALUES ($1, $2, $3) RETURNING number"
_FORGET_CHECKPOINTS = """
    DELETE FROM checkpoints WHERE run_id IN (
        SELECT id FROM runs WHERE selection = $1
            AND number < (SELECT max(number) FROM runs WHERE selection = $1 AND number < $2)
    )
"""
_COLUMNS = "username, secret_id, run_id, sealed, fingerprint, type, expires_at, stored_at, removed_at"
_ROWS = {
    False: f"SELECT {_COLUMNS} FROM secrets",
    True: f"SELECT {_COLUMNS}, counter, entries, mac FROM secrets LEFT JOIN manifests USING (username)",
}
"""Stored credentials with their users' manifests, in a store that has manifests."""

_FIND_MANY = f"""
    SELECT {_COLUMNS} FROM secrets
    JOIN unnest($1::text[], $2::text[]) AS wanted (username, secret_id) USING (username, secret_id)
"""
_PUT = """
    INSERT INTO secrets (username, secret_id, type, expires_at, run_id, stored_at, fingerprint, sealed)
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[], $7::bytea[], $8::bytea[]
    )
    ON CONFLICT (username, secret_id) DO UPDATE SET type = excluded.type, expires_at = excluded.expires_at,
        run_id = excluded.run_id, stored_at = excluded.stored_at, fingerprint = excluded.fingerprint,
        sealed = excluded.sealed, missing_run = NULL, removed_at = NULL
"""
_PUT_CHECKPOINTS = """
    INSERT INTO checkpoints
        (run_id, username, status, secrets, requests, seconds, at, error, message, listing_proven, seen,
            renewed)
    SELECT $1, * FROM unnest(
        $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::float8[], $7::float8[], $8::text[],
        $9::text[], $10::boolean[], $11::text[], $12::text[]
    )
    ON CONFLICT (run_id, username) DO UPDATE SET status = excluded.status, secrets = excluded.secrets,
        requests = excluded.requests, seconds = excluded.seconds, at = excluded.at, error = excluded.error,
        message = excluded.message, listing_proven = excluded.listing_proven, seen = excluded.seen,
        renewed = excluded.renewed
"""
_STORED = """
    SELECT username, secret_id, missing_run IS NOT NULL OR removed_at IS NOT NULL FROM secrets
    WHERE username = ANY ($1::text[])
"""
_NOTE_PRESENT = """
    UPDATE secrets SET missing_run = NULL, removed_at = NULL
    FROM unnest($1::text[], $2::text[]) AS present (username, secret_id)
    WHERE secrets.username = present.username AND secrets.secret_id = present.secret_id
"""
_NOTE_MISSING = """
    UPDATE secrets SET missing_run = $1 FROM unnest($2::text[], $3::text[]) AS missing (username, secret_id)
    WHERE secrets.username = missing.username AND secrets.secret_id = missing.secret_id
"""
_NOTE_ALL_MISSING = "UPDATE secrets SET missing_run = $1 WHERE username = ANY ($2::text[])"
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
_MARK = """
    UPDATE secrets SET removed_at = $1 FROM unnest($2::text[], $3::text[]) AS gone (username, secret_id)
    WHERE secrets.username = gone.username AND secrets.secret_id = gone.secret_id
"""
_DELETE = """
    DELETE FROM secrets USING unnest($1::text[], $2::text[]) AS gone (username, secret_id)
    WHERE secrets.username = gone.username AND secrets.secret_id = gone.secret_id
"""
_STATUSES = "SELECT username, status FROM checkpoints WHERE run_id = $1 AND username = ANY ($2::text[])"
_SEEN = """
    SELECT DISTINCT ON (checkpoints.username) checkpoints.username, checkpoints.seen
    FROM checkpoints JOIN runs ON runs.id = checkpoints.run_id
    WHERE checkpoints.username = ANY ($1::text[]) ORDER BY checkpoints.username, runs.number DESC
"""
_TOTALS = """
    SELECT count(*) FILTER (WHERE status = 'synced'), count(*) FILTER (WHERE status = 'failed'),
        coalesce(sum(secrets), 0)::bigint, coalesce(sum(requests), 0)::bigint
    FROM checkpoints WHERE run_id = $1
"""
_ERRORS = """
    SELECT error, count(*) FROM checkpoints WHERE run_id = $1 AND status = 'failed'
    GROUP BY error ORDER BY error
"""
_CHECKPOINTS = """
    SELECT * FROM checkpoints WHERE run_id = $1 AND username > $2 ORDER BY username LIMIT $3
"""
_AFTER = {
    False: "WHERE (username, secret_id) > ($1, $2) ORDER BY username, secret_id LIMIT $3",
    True: "WHERE username = $1 AND secret_id > $2 ORDER BY secret_id LIMIT $3",
}
_ITEMS = "SELECT username, secret_id, type, expires_at, stored_at, removed_at FROM secrets"


async def last_run(connection: Connection, *, selection: str | None) -> Run | None:
    """Return the most recently begun run, of a selection or of any."""
    row = await connection.fetchrow(_LAST_RUN, selection)
    return None if row is None else msgspec.convert(dict(row), Run)


async def begin_run(connection: Connection, *, at: float, selection: str) -> Run:
    """Begin a run. Keep only the previous run's checkpoints: they would grow forever."""
    run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
    async with connection.transaction():
        number = await connection.fetchval(_BEGIN_RUN, run.id, at, selection)
        await connection.execute(_FORGET_CHECKPOINTS, selection, number)
    return run


async def finish_run(connection: Connection, run: Run, *, at: float | None) -> None:
    """Set or remove the completion mark."""
    if await connection.execute("UPDATE runs SET finished_at = $2 WHERE id = $1", run.id, at) != "UPDATE 1":
        raise no_such_run()


async def write(
    connection: Connection, sealing: Sealing, run: Run, batch: Sequence[UserWrite], fence: Fence
) -> Written:
    """Write whole users in one transaction."""
    checkpoints = {
        user.checkpoint.username: user.checkpoint for user in batch
    }  # for duplicates, the last wins
    async with connection.transaction():
        await _require_run(connection, run)
        await _require_key(connection, sealing, fence)
        # First, since it makes other writers of the same users wait: what is read next is what gets
        # overwritten.
        await _write_checkpoints(connection, run, [checkpoints[name] for name in sorted(checkpoints)])
        stored = [tuple(row) for row in await connection.fetch(_STORED, sorted(checkpoints))]
        changes = await manifests.changes(connection, sealing, sorted(checkpoints))
        found = await _rows_at(connection, stored_keys(batch, stored))
        rows, changed = sealed_secrets(sealing, run, batch, changes.current(found))
        if rows:
            await connection.execute(_PUT, *_columns([msgspec.structs.astuple(row) for row in rows]))
        changes.put(rows)
        await _note(connection, run, changes, missing_changes(batch, stored))
        await manifests.put(connection, changes.rows())
        await tokens.write(connection, sealing, run, batch)
        await health.write(connection, batch, rows)
    return Written(changed, sum(len(user.secrets) for user in batch) - changed)


async def _rows_at(connection: Connection, places: Sequence[RecordKey]) -> list[StoredRow]:
    if not places:
        return []
    return [StoredRow(*row) for row in await connection.fetch(_FIND_MANY, *_columns(places))]


async def _write_checkpoints(connection: Connection, run: Run, checkpoints: Sequence[Checkpoint]) -> None:
    if checkpoints:
        rows = [msgspec.structs.astuple(checkpoint) for checkpoint in checkpoints]
        await connection.execute(_PUT_CHECKPOINTS, run.id, *_columns(rows))


async def _note(connection: Connection, run: Run, changes: Changes, notes: MissingChanges) -> None:
    if notes.back:
        for row in await _rows_at(connection, notes.back):
            changes.marked(row, None)
        await connection.execute(_NOTE_PRESENT, *_columns(notes.back))
    if notes.missing:
        await connection.execute(_NOTE_MISSING, run.id, *_columns(notes.missing))


async def note_missing(connection: Connection, run: Run, usernames: Sequence[str]) -> None:
    """Note all credentials of these users as missing and drop their tokens."""
    async with connection.transaction():
        await _require_run(connection, run)
        await connection.execute(_NOTE_ALL_MISSING, run.id, sorted(usernames))
        await tokens.forget(connection, usernames)
        await health.drop(connection, usernames)


async def missing(connection: Connection, run: Run) -> Missing:
    """Return what this run noted as missing, among what it could judge."""
    gone, stored = await connection.fetchrow(_MISSING, run.id) or (0, 0)
    return Missing(missing=gone, stored=stored)


async def remove_missing(
    connection: Connection, sealing: Callable[[], Sealing], run: Run, *, how: Removal, at: float
) -> int:
    """Mark or delete what this run noted as missing, in batches. Return the number of credentials.

    Args:
        connection: one of the store's.
        sealing: the store's; ``None`` for a store that was never bound and has nothing to remove.
        run: the run.
        how: whether to mark or to delete.
        at: the mark, in seconds since the Unix epoch.
    """
    removed = 0
    while True:
        async with connection.transaction():
            found = [StoredRow(*row) for row in await connection.fetch(_MISSING_ROWS[how], run.id, PAGE)]
            if not found:
                return removed
            await _remove(connection, sealing(), found, how=how, at=at)
        removed += len(found)


async def _remove(
    connection: Connection, sealing: Sealing, rows: Sequence[StoredRow], *, how: Removal, at: float
) -> None:
    changes = await manifests.changes(connection, sealing, sorted({row.username for row in rows}))
    places = _columns([(row.username, row.secret_id) for row in rows])
    for row in rows:
        if how == "mark":
            changes.marked(row, at)
        else:
            changes.deleted(row)
    if how == "mark":
        await connection.execute(_MARK, at, *places)
    else:
        await connection.execute(_DELETE, *places)
    await manifests.put(connection, changes.rows())


async def find(
    connection: Connection, username: str, secret_id: str, *, has_manifests: bool
) -> StoredRow | None:
    """Return the stored row of one credential."""
    row = await connection.fetchrow(
        f"{_ROWS[has_manifests]} WHERE username = $1 AND secret_id = $2", username, secret_id
    )
    return None if row is None else StoredRow(*row)


async def statuses(connection: Connection, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
    """Return the statuses of those of these users that have a checkpoint."""
    return dict(await connection.fetch(_STATUSES, run.id, list(usernames)))


async def seen(connection: Connection, usernames: Sequence[str]) -> Mapping[str, str]:
    """Return the ``seen`` of these users' newest checkpoints."""
    return dict(await connection.fetch(_SEEN, list(usernames)))


async def totals(connection: Connection, run: Run) -> RunTotals:
    """Return sums over a run's checkpoints."""
    synced, failed, secrets, requests = await connection.fetchrow(_TOTALS, run.id) or (0, 0, 0, 0)
    errors = dict(await connection.fetch(_ERRORS, run.id))
    return RunTotals(synced=synced, failed=failed, secrets=secrets, requests=requests, errors=errors)


async def checkpoints_after(connection: Connection, run: Run, username: str, limit: int) -> list[Checkpoint]:
    """Return the next page of a run's checkpoints."""
    rows = await connection.fetch(_CHECKPOINTS, run.id, username, limit)
    return [msgspec.convert(dict(row), Checkpoint) for row in rows]


async def items_after(
    connection: Connection, username: str, secret_id: str, limit: int, *, only: bool
) -> list[StoredItem]:
    """Return the next page of entries; with ``only``, of that user alone."""
    rows = await connection.fetch(f"{_ITEMS} {_AFTER[only]}", username, secret_id, limit)
    return [msgspec.convert(dict(row), StoredItem) for row in rows]


async def sealed_after(
    connection: Connection, username: str, secret_id: str, limit: int, *, only: bool, has_manifests: bool
) -> list[StoredRow]:
    """Return the next page of credentials, sealed; with ``only``, of that user alone."""
    rows = await connection.fetch(f"{_ROWS[has_manifests]} {_AFTER[only]}", username, secret_id, limit)
    return [StoredRow(*row) for row in rows]


async def reseal(connection: Connection, sealing: Sealing, page: Sequence[Resealed]) -> None:
    """Replace credentials with re-encrypted ones, unless they have changed since they were read."""
    new = {(one.username, one.secret_id): one for one in page}
    async with connection.transaction():
        changes = await manifests.changes(connection, sealing, sorted({one.username for one in page}))
        rows: list[tuple[str, str, bytes, bytes]] = []
        for row in await _rows_at(connection, sorted(new)):
            one = new[row.username, row.secret_id]
            if row.data == one.found.data:  # otherwise it was written meanwhile, with the new key
                rows.append((row.username, row.secret_id, one.sealed.fingerprint, one.sealed.data))
                changes.resealed(row, one.sealed)
        if rows:
            await connection.execute(_RESEAL, *_columns(rows))
        await manifests.put(connection, changes.rows())


async def _require_key(connection: Connection, sealing: Sealing, fence: Fence) -> None:
    """Refuse to write with a replaced key, or after the run lock was lost."""
    key_id, holder = await connection.fetchrow("SELECT key_id, run_holder FROM meta FOR SHARE")
    fence.require(holder)
    if key_id != sealing.key_id:
        raise KeyChanged


async def _require_run(connection: Connection, run: Run) -> None:
    if await connection.fetchval("SELECT true FROM runs WHERE id = $1", run.id) is None:
        raise no_such_run()


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Return rows as column arrays for ``unnest``."""
    return [list(column) for column in zip(*rows, strict=True)]
