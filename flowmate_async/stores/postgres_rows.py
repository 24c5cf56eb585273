"""The statements of a PostgreSQL store: rows in, rows out, over a connection that somebody else guards.

Batches travel as arrays, a statement a batch. A batch begins with its checkpoints, sorted by name: two
writers of the same users in a run take turns there, and never wait for each other in a circle. Nothing here
opens a credential.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from flowmate_async.stores import postgres_tokens as tokens
from flowmate_async.stores.base import (
    Checkpoint,
    Missing,
    Removal,
    Run,
    RunTotals,
    Status,
    StoredItem,
    UserWrite,
    Written,
    no_such_run,
)
from flowmate_async.stores.notes import Notes, notes_of
from flowmate_async.stores.paging import SealedRow
from flowmate_async.stores.postgres_address import Connection
from flowmate_async.stores.rekeying import KeyChanged, Resealed
from flowmate_async.stores.sealed_secrets import Place, sealed_secrets, stored_places
from flowmate_async.stores.sealing import Sealed, Sealing

T = TypeVar("T", bound=msgspec.Struct)

_LAST_RUN = """
    SELECT id, started_at, finished_at, selection FROM runs
    WHERE $1::text IS NULL OR selection = $1 ORDER BY number DESC LIMIT 1
"""
_RESEAL = """
    UPDATE secrets SET fingerprint = new.fingerprint, sealed = new.sealed
    FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[])
        AS new (username, secret_id, found, fingerprint, sealed)
    WHERE secrets.username = new.username AND secrets.secret_id = new.secret_id
        AND secrets.sealed = new.found
"""
_BEGIN_RUN = "INSERT INTO runs (id, started_at, selection) VALUES ($1, $2, $3) RETURNING number"
_FORGET_CHECKPOINTS = """
    DELETE FROM checkpoints WHERE run_id IN (
        SELECT id FROM runs WHERE selection = $1
            AND number < (SELECT max(number) FROM runs WHERE selection = $1 AND number < $2)
    )
"""
_FIND = "SELECT run_id, sealed, fingerprint FROM secrets WHERE username = $1 AND secret_id = $2"
_FIND_MANY = """
    SELECT username, secret_id, run_id, sealed, fingerprint FROM secrets
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
        (run_id, username, status, secrets, requests, seconds, at, error, message, listing_proven, seen)
    SELECT $1, * FROM unnest(
        $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::float8[], $7::float8[], $8::text[],
        $9::text[], $10::boolean[], $11::text[]
    )
    ON CONFLICT (run_id, username) DO UPDATE SET status = excluded.status, secrets = excluded.secrets,
        requests = excluded.requests, seconds = excluded.seconds, at = excluded.at, error = excluded.error,
        message = excluded.message, listing_proven = excluded.listing_proven, seen = excluded.seen
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
_MARK = "UPDATE secrets SET removed_at = $2 WHERE missing_run = $1 AND removed_at IS NULL"
_DELETE = "DELETE FROM secrets WHERE missing_run = $1"
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
    SELECT username, status, secrets, requests, seconds, at, error, message, listing_proven, seen
    FROM checkpoints WHERE run_id = $1 AND username > $2 ORDER BY username LIMIT $3
"""
_AFTER = {
    False: "WHERE (username, secret_id) > ($1, $2) ORDER BY username, secret_id LIMIT $3",
    True: "WHERE username = $1 AND secret_id > $2 ORDER BY secret_id LIMIT $3",
}
_ITEMS = "SELECT username, secret_id, type, expires_at, stored_at, removed_at FROM secrets"
_SEALED = "SELECT username, secret_id, run_id, sealed, fingerprint FROM secrets"


async def last_run(connection: Connection, *, selection: str | None) -> Run | None:
    """The run that began last, of a selection or of any."""
    row = await connection.fetchrow(_LAST_RUN, selection)
    return None if row is None else msgspec.convert(dict(row), Run)


async def begin_run(connection: Connection, *, at: float, selection: str) -> Run:
    """Begin a run, and forget what all but the one before it checkpointed: that would grow for ever."""
    run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
    async with connection.transaction():
        number = await connection.fetchval(_BEGIN_RUN, run.id, at, selection)
        await connection.execute(_FORGET_CHECKPOINTS, selection, number)
    return run


async def finish_run(connection: Connection, run: Run, *, at: float | None) -> None:
    """Set or take away the completion mark."""
    if await connection.execute("UPDATE runs SET finished_at = $2 WHERE id = $1", run.id, at) != "UPDATE 1":
        raise no_such_run()


async def write(connection: Connection, sealing: Sealing, run: Run, batch: Sequence[UserWrite]) -> Written:
    """Write whole users in one transaction."""
    checkpoints = {user.checkpoint.username: user.checkpoint for user in batch}  # of doubles the later
    async with connection.transaction():
        await _require_run(connection, run)
        await _require_key(connection, sealing)
        # First, since it has other writers of the same users wait: what is read then is what is written over.
        await _write_checkpoints(connection, run, [checkpoints[name] for name in sorted(checkpoints)])
        stored = [tuple(row) for row in await connection.fetch(_STORED, sorted(checkpoints))]
        changed = await _write_secrets(connection, sealing, run, batch, stored)
        await _note(connection, run, notes_of(batch, stored))
        await tokens.write(connection, sealing, run, batch)
    return Written(changed, sum(len(user.secrets) for user in batch) - changed)


async def _write_secrets(
    connection: Connection,
    sealing: Sealing,
    run: Run,
    batch: Sequence[UserWrite],
    stored: Sequence[tuple[str, str, bool]],
) -> int:
    """Write what differs from what is stored; how many that were."""
    found = await _find_many(connection, stored_places(batch, stored))
    rows, changed = sealed_secrets(sealing, run, batch, found)
    if rows:
        await connection.execute(_PUT, *_columns([msgspec.structs.astuple(row) for row in rows]))
    return changed


async def _find_many(connection: Connection, places: Sequence[Place]) -> dict[Place, Sealed]:
    if not places:
        return {}
    rows = await connection.fetch(_FIND_MANY, *_columns(places))
    return {(name, secret_id): Sealed(*rest) for name, secret_id, *rest in rows}


async def _write_checkpoints(connection: Connection, run: Run, checkpoints: Sequence[Checkpoint]) -> None:
    if checkpoints:
        rows = [msgspec.structs.astuple(checkpoint) for checkpoint in checkpoints]
        await connection.execute(_PUT_CHECKPOINTS, run.id, *_columns(rows))


async def _note(connection: Connection, run: Run, notes: Notes) -> None:
    if notes.back:
        await connection.execute(_NOTE_PRESENT, *_columns(notes.back))
    if notes.missing:
        await connection.execute(_NOTE_MISSING, run.id, *_columns(notes.missing))


async def note_missing(connection: Connection, run: Run, usernames: Sequence[str]) -> None:
    """Note everything of these users as missing, and forget their tokens."""
    async with connection.transaction():
        await _require_run(connection, run)
        await connection.execute(_NOTE_ALL_MISSING, run.id, sorted(usernames))
        await tokens.forget(connection, usernames)


async def missing(connection: Connection, run: Run) -> Missing:
    """What this run noted as missing, among what it could judge."""
    gone, stored = await connection.fetchrow(_MISSING, run.id) or (0, 0)
    return Missing(missing=gone, stored=stored)


async def remove_missing(connection: Connection, run: Run, *, how: Removal, at: float) -> int:
    """Mark or delete what this run noted as missing."""
    arguments = (_MARK, run.id, at) if how == "mark" else (_DELETE, run.id)
    done: str = await connection.execute(*arguments)
    return int(done.rsplit(maxsplit=1)[-1])


async def find(connection: Connection, username: str, secret_id: str) -> Sealed | None:
    """What is stored in one place."""
    row = await connection.fetchrow(_FIND, username, secret_id)
    return None if row is None else Sealed(*row)


async def statuses(connection: Connection, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
    """How those of these users ended that have a checkpoint."""
    return dict(await connection.fetch(_STATUSES, run.id, list(usernames)))


async def seen(connection: Connection, usernames: Sequence[str]) -> Mapping[str, str]:
    """What the newest checkpoints of these users keep."""
    return dict(await connection.fetch(_SEEN, list(usernames)))


async def totals(connection: Connection, run: Run) -> RunTotals:
    """Sums over a run's checkpoints."""
    synced, failed, secrets, requests = await connection.fetchrow(_TOTALS, run.id) or (0, 0, 0, 0)
    errors = dict(await connection.fetch(_ERRORS, run.id))
    return RunTotals(synced=synced, failed=failed, secrets=secrets, requests=requests, errors=errors)


async def checkpoints_after(connection: Connection, run: Run, username: str, limit: int) -> list[Checkpoint]:
    """The next page of a run's checkpoints."""
    rows = await connection.fetch(_CHECKPOINTS, run.id, username, limit)
    return [msgspec.convert(dict(row), Checkpoint) for row in rows]


async def items_after(
    connection: Connection, username: str, secret_id: str, limit: int, *, only: bool
) -> list[StoredItem]:
    """The next page of what is stored; with ``only``, of that user alone."""
    rows = await connection.fetch(f"{_ITEMS} {_AFTER[only]}", username, secret_id, limit)
    return [msgspec.convert(dict(row), StoredItem) for row in rows]


async def sealed_after(
    connection: Connection, username: str, secret_id: str, limit: int, *, only: bool
) -> list[SealedRow]:
    """The next page of credentials, sealed; with ``only``, of that user alone."""
    rows = await connection.fetch(f"{_SEALED} {_AFTER[only]}", username, secret_id, limit)
    return [SealedRow(name, found, Sealed(*rest)) for name, found, *rest in rows]


async def reseal(connection: Connection, page: Sequence[Resealed]) -> None:
    """Put credentials sealed anew in the place of those that are still as they were found."""
    rows = [
        (one.username, one.secret_id, one.found.data, one.sealed.fingerprint, one.sealed.data)
        for one in sorted(page, key=lambda one: (one.username, one.secret_id))
    ]
    if rows:
        await connection.execute(_RESEAL, *_columns(rows))


async def _require_key(connection: Connection, sealing: Sealing) -> None:
    """Nothing may be sealed with a key that the store no longer has, or is just being relieved of."""
    if await connection.fetchval("SELECT key_id FROM meta FOR SHARE") != sealing.key_id:
        raise KeyChanged


async def _require_run(connection: Connection, run: Run) -> None:
    if await connection.fetchval("SELECT true FROM runs WHERE id = $1", run.id) is None:
        raise no_such_run()


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows as the arrays that ``unnest`` makes rows of again."""
    return [list(column) for column in zip(*rows, strict=True)]
