"""The statements of a sqlite store: rows in, rows out, over a connection that the caller guards.

Nothing here opens a credential, and nothing here awaits. Pages follow keys, so no cursor outlives a call.
"""

# ruff: noqa: S608 - statements are made of constants

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

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
from flowmate_async.stores.sealed.manifests import Changes, StoredRow
from flowmate_async.stores.sealed.missing import missing_changes
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.rekeying import KeyChanged, Resealed
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sealed.secrets import sealed_secrets, stored_keys
from flowmate_async.stores.sqlite import health, manifests, tokens
from flowmate_async.stores.sqlite.batches import insert, with_keys, with_rows
from flowmate_async.stores.sqlite.files import transaction

T = TypeVar("T", bound=msgspec.Struct)

_LAST_RUN = """
    SELECT id, started_at, finished_at, selection FROM runs
    WHERE :selection IS NULL OR selection = :selection ORDER BY number DESC LIMIT 1
"""
_COLUMNS = "username, secret_id, run_id, sealed, fingerprint, type, expires_at, stored_at, removed_at"
_WITH_MANIFEST = f"SELECT {_COLUMNS}, counter, entries, mac FROM secrets LEFT JOIN manifests USING (username)"
_FIND = f"{_WITH_MANIFEST} WHERE username = ? AND secret_id = ?"
# The wanted rows first, so that each is looked up by the primary key.
_FIND_WANTED = f"""
    SELECT {_COLUMNS} FROM wanted CROSS JOIN secrets ON username = column1 AND secret_id = column2
"""
_BEGUN = """
    SELECT EXISTS (SELECT 1 FROM runs WHERE id = ?), (SELECT key_id FROM meta), EXISTS (SELECT 1 FROM tokens)
"""
_PUT = """
    INSERT OR REPLACE INTO secrets
        (username, secret_id, type, expires_at, run_id, stored_at, fingerprint, sealed)
"""
_STORED = """
    SELECT username, secret_id, missing_run IS NOT NULL OR removed_at IS NOT NULL FROM secrets
    WHERE username IN
"""
_NOTE_PRESENT = """
    UPDATE secrets SET missing_run = NULL, removed_at = NULL WHERE username = ? AND secret_id = ?
"""
_NOTE_MISSING = "UPDATE secrets SET missing_run = ? WHERE username = ? AND secret_id = ?"
_NOTE_ALL_MISSING = "UPDATE secrets SET missing_run = ? WHERE username = ?"
_MISSING = """
    SELECT coalesce(sum(missing_run IS :run), 0), count(*) FROM secrets
    WHERE removed_at IS NULL AND (missing_run IS :run OR username IN (
        SELECT username FROM checkpoints WHERE run_id = :run AND status = 'synced' AND listing_proven
    ))
"""
_MISSING_ROWS = {
    "mark": f"SELECT {_COLUMNS} FROM secrets WHERE missing_run = ? AND removed_at IS NULL LIMIT ?",
    "delete": f"SELECT {_COLUMNS} FROM secrets WHERE missing_run = ? LIMIT ?",
}
_MARK = "UPDATE secrets SET removed_at = ? WHERE username = ? AND secret_id = ?"
_DELETE = "DELETE FROM secrets WHERE username = ? AND secret_id = ?"
_PUT_CHECKPOINT = """
    INSERT OR REPLACE INTO checkpoints
        (run_id, username, status, secrets, requests, seconds, at, error, message, listing_proven, seen,
            renewed)
"""
_RUNS_KEPT = """
    SELECT id FROM runs WHERE EXISTS (SELECT 1 FROM checkpoints WHERE run_id = runs.id) ORDER BY number DESC
"""
_STATUSES = "SELECT username, status FROM checkpoints WHERE run_id = ? AND username IN"
_SEEN = "SELECT username, seen FROM checkpoints WHERE run_id = ? AND username IN"
_RESEAL = "UPDATE secrets SET fingerprint = ?, sealed = ? WHERE username = ? AND secret_id = ?"
_BEGIN_RUN = "INSERT INTO runs (id, started_at, selection) VALUES (?, ?, ?)"
_FORGET_CHECKPOINTS = """
    DELETE FROM checkpoints WHERE run_id IN (
        SELECT id FROM runs WHERE selection = :selection
            AND number < (SELECT max(number) FROM runs WHERE selection = :selection AND number < :number)
    )
"""
_TOTALS = """
    SELECT coalesce(sum(status = 'synced'), 0), coalesce(sum(status = 'failed'), 0),
        coalesce(sum(secrets), 0), coalesce(sum(requests), 0)
    FROM checkpoints WHERE run_id = ?
"""
_ERRORS = """
    SELECT error, count(*) FROM checkpoints WHERE run_id = ? AND status = 'failed'
    GROUP BY error ORDER BY error
"""
_CHECKPOINTS = """
    SELECT username, status, secrets, requests, seconds, at, error, message, listing_proven, seen, renewed
    FROM checkpoints WHERE run_id = ? AND username > ? ORDER BY username LIMIT ?
"""
# Written out for one user and for all, so that each follows the primary key.
_ITEMS_OF_ALL = """
    SELECT username, secret_id, type, expires_at, stored_at, removed_at
    FROM secrets WHERE (username, secret_id) > (?, ?) ORDER BY username, secret_id LIMIT ?
"""
_ITEMS_OF_ONE = """
    SELECT username, secret_id, type, expires_at, stored_at, removed_at
    FROM secrets WHERE username = ? AND secret_id > ? ORDER BY secret_id LIMIT ?
"""
_SEALED_OF_ALL = f"""
    {_WITH_MANIFEST} WHERE (username, secret_id) > (?, ?) ORDER BY username, secret_id LIMIT ?
"""
_SEALED_OF_ONE = f"{_WITH_MANIFEST} WHERE username = ? AND secret_id > ? ORDER BY secret_id LIMIT ?"


def last_run(connection: sqlite3.Connection, *, selection: str | None) -> Run | None:
    """Return the most recently begun run, of a selection or of any."""
    row = connection.execute(_LAST_RUN, {"selection": selection}).fetchone()
    return None if row is None else _struct(Run, row)


def begin_run(connection: sqlite3.Connection, *, at: float, selection: str) -> Run:
    """Begin a run. Keep only the previous run's checkpoints: they would grow forever."""
    run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
    with transaction(connection):
        number = connection.execute(_BEGIN_RUN, (run.id, at, selection)).lastrowid
        connection.execute(_FORGET_CHECKPOINTS, {"selection": selection, "number": number})
    return run


def finish_run(connection: sqlite3.Connection, run: Run, *, at: float | None) -> None:
    """Set or remove the completion mark."""
    with transaction(connection):
        _require_run(connection, run)
        connection.execute("UPDATE runs SET finished_at = ? WHERE id = ?", (at, run.id))


def write(connection: sqlite3.Connection, sealing: Sealing, run: Run, batch: Sequence[UserWrite]) -> Written:
    """Write whole users in one transaction."""
    checkpoints = {
        user.checkpoint.username: user.checkpoint for user in batch
    }  # for duplicates, the last wins
    with transaction(connection):
        has_tokens = _begun(connection, sealing, run)
        stored = with_keys(connection, _STORED, list(checkpoints))
        changes = manifests.changes(connection, sealing, list(checkpoints))
        found = _rows_at(connection, stored_keys(batch, stored))
        rows, changed = sealed_secrets(sealing, run, batch, changes.current(found))
        insert(connection, _PUT, [msgspec.structs.astuple(row) for row in rows])
        changes.put(rows)
        notes = missing_changes(batch, stored)
        _note_present(connection, changes, notes.back)
        if notes.missing:
            connection.executemany(_NOTE_MISSING, [(run.id, *place) for place in notes.missing])
        manifests.write(connection, changes)
        ends = [(run.id, *msgspec.structs.astuple(checkpoint)) for checkpoint in checkpoints.values()]
        insert(connection, _PUT_CHECKPOINT, ends)
        if has_tokens or any(user.token is not None for user in batch):
            tokens.write(connection, sealing, run, batch)
        health.write(connection, batch, rows)
    return Written(changed, sum(len(user.secrets) for user in batch) - changed)


def _note_present(connection: sqlite3.Connection, changes: Changes, places: Sequence[RecordKey]) -> None:
    """Clear the missing notes and marks of removal of these credentials."""
    if places:
        for row in _rows_at(connection, places):
            changes.marked(row, None)
        connection.executemany(_NOTE_PRESENT, places)


def _rows_at(connection: sqlite3.Connection, places: Sequence[RecordKey]) -> list[StoredRow]:
    return [StoredRow(*row) for row in with_rows(connection, _FIND_WANTED, places)]


def note_missing(connection: sqlite3.Connection, run: Run, usernames: Sequence[str]) -> None:
    """Note all credentials of these users as missing and drop their tokens."""
    with transaction(connection):
        _require_run(connection, run)
        connection.executemany(_NOTE_ALL_MISSING, [(run.id, username) for username in usernames])
        tokens.forget(connection, usernames)
        health.drop(connection, usernames)


def missing(connection: sqlite3.Connection, run: Run) -> Missing:
    """Return what this run noted as missing, among what it could judge."""
    gone, stored = connection.execute(_MISSING, {"run": run.id}).fetchone()
    return Missing(missing=gone, stored=stored)


def remove_missing(
    connection: sqlite3.Connection, sealing: Callable[[], Sealing], run: Run, *, how: Removal, at: float
) -> int:
    """Mark or delete what this run noted as missing, in batches. Return the number of credentials.

    Args:
        connection: the store's.
        sealing: the store's; ``None`` for a store that was never bound and has nothing to remove.
        run: the run.
        how: whether to mark or to delete.
        at: the mark, in seconds since the Unix epoch.
    """
    removed = 0
    while True:
        with transaction(connection):
            found = connection.execute(_MISSING_ROWS[how], (run.id, PAGE)).fetchall()
            if not found:
                return removed
            _remove(connection, sealing(), [StoredRow(*row) for row in found], how=how, at=at)
        removed += len(found)


def _remove(
    connection: sqlite3.Connection, sealing: Sealing, rows: Sequence[StoredRow], *, how: Removal, at: float
) -> None:
    changes = manifests.changes(connection, sealing, sorted({row.username for row in rows}))
    places = [(row.username, row.secret_id) for row in rows]
    for row in rows:
        if how == "mark":
            changes.marked(row, at)
        else:
            changes.deleted(row)
    if how == "mark":
        connection.executemany(_MARK, [(at, *place) for place in places])
    else:
        connection.executemany(_DELETE, places)
    manifests.write(connection, changes)


def find(connection: sqlite3.Connection, username: str, secret_id: str) -> StoredRow | None:
    """Return one credential, sealed, and its user's manifest."""
    row = connection.execute(_FIND, (username, secret_id)).fetchone()
    return None if row is None else StoredRow(*row)


def statuses(connection: sqlite3.Connection, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
    """Return the statuses of those of these users that have a checkpoint."""
    return dict(with_keys(connection, _STATUSES, usernames, run.id))


def seen(connection: sqlite3.Connection, usernames: Sequence[str]) -> Mapping[str, str]:
    """Return what the newest checkpoints of these users keep.

    One statement per run, since few runs have checkpoints: in a join with the runs, the planner would scan
    everyone's checkpoints for each user.
    """
    found: dict[str, str] = {}
    for (run_id,) in connection.execute(_RUNS_KEPT).fetchall():
        left = [username for username in usernames if username not in found]
        found.update(with_keys(connection, _SEEN, left, run_id))
    return found


def totals(connection: sqlite3.Connection, run: Run) -> RunTotals:
    """Return sums over a run's checkpoints."""
    sums = connection.execute(_TOTALS, (run.id,)).fetchone()
    errors = connection.execute(_ERRORS, (run.id,)).fetchall()
    return RunTotals(synced=sums[0], failed=sums[1], secrets=sums[2], requests=sums[3], errors=dict(errors))


def checkpoints_after(
    connection: sqlite3.Connection, run: Run, username: str, limit: int
) -> list[Checkpoint]:
    """Return the next page of a run's checkpoints."""
    rows = connection.execute(_CHECKPOINTS, (run.id, username, limit))
    return [_struct(Checkpoint, row) for row in rows]


def items_after(
    connection: sqlite3.Connection, username: str, secret_id: str, limit: int, *, only: bool
) -> list[StoredItem]:
    """Return the next page of entries; with ``only``, of that user alone."""
    rows = connection.execute(_ITEMS_OF_ONE if only else _ITEMS_OF_ALL, (username, secret_id, limit))
    return [_struct(StoredItem, row) for row in rows]


def sealed_after(
    connection: sqlite3.Connection, username: str, secret_id: str, limit: int, *, only: bool
) -> list[StoredRow]:
    """Return the next page of credentials, sealed; with ``only``, of that user alone."""
    rows = connection.execute(_SEALED_OF_ONE if only else _SEALED_OF_ALL, (username, secret_id, limit))
    return [StoredRow(*row) for row in rows]


def reseal(connection: sqlite3.Connection, sealing: Sealing, page: Sequence[Resealed]) -> None:
    """Replace credentials with re-encrypted ones, unless they have changed since they were read."""
    new = {(one.username, one.secret_id): one for one in page}
    with transaction(connection):
        changes = manifests.changes(connection, sealing, sorted({one.username for one in page}))
        for row in _rows_at(connection, sorted(new)):
            one = new[row.username, row.secret_id]
            if row.data == one.found.data:  # otherwise it was written meanwhile, with the new key
                place = (row.username, row.secret_id)
                connection.execute(_RESEAL, (one.sealed.fingerprint, one.sealed.data, *place))
                changes.resealed(row, one.sealed)
        manifests.write(connection, changes)


def _begun(connection: sqlite3.Connection, sealing: Sealing, run: Run) -> bool:
    """Check in one statement that the store has this run and this key. Return whether it has tokens."""
    has_run, key_id, has_tokens = connection.execute(_BEGUN, (run.id,)).fetchone()
    if not has_run:
        raise no_such_run()
    if key_id != sealing.key_id:  # nothing may be sealed with a key that the store no longer has
        raise KeyChanged
    return bool(has_tokens)


def _require_run(connection: sqlite3.Connection, run: Run) -> None:
    if connection.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone() is None:
        raise no_such_run()


def _struct(kind: type[T], row: tuple[object, ...]) -> T:
    """Return a row whose columns are the struct's fields, in their order; SQLite has no booleans."""
    return msgspec.convert(dict(zip(kind.__struct_fields__, row, strict=True)), kind, strict=False)
