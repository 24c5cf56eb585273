"""SQLite statements for credential health; ``rows.py`` has all others."""

# ruff: noqa: S608 - statements are made of constants

import sqlite3
from collections.abc import Collection, Sequence

from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import HealthRecord, Notice, Sighting
from flowmate_async.stores.base import RecordKey, UserWrite
from flowmate_async.stores.health import (
    COLUMNS,
    Judge,
    columns_of,
    decoded_notice,
    encoded_notice,
    health_changes,
    noted,
    record_of,
    users_of,
)
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.secrets import SecretRow
from flowmate_async.stores.sqlite.batches import insert, with_keys
from flowmate_async.stores.sqlite.files import transaction

_FIND = f"SELECT {COLUMNS} FROM health WHERE username IN"
_AFTER_OF_ALL = f"""
    SELECT {COLUMNS} FROM health WHERE (username, secret_id) > (?, ?) ORDER BY username, secret_id LIMIT ?
"""
_AFTER_OF_ONE = f"""
    SELECT {COLUMNS} FROM health WHERE username = ? AND secret_id > ? ORDER BY secret_id LIMIT ?
"""
_PUT = f"INSERT OR REPLACE INTO health ({COLUMNS})"
_DROP = "DELETE FROM health WHERE username = ? AND secret_id = ?"
_DROP_USERS = "DELETE FROM health WHERE username IN"
_PUT_NOTICE = "INSERT OR IGNORE INTO outbox (id, notice)"
_NOTICES = "SELECT notice FROM outbox ORDER BY number LIMIT ?"
_FORGET = "DELETE FROM outbox WHERE id IN"


def write(connection: sqlite3.Connection, batch: Sequence[UserWrite], rows: Sequence[SecretRow]) -> None:
    """Store a batch's observations, within the transaction of its checkpoints.

    Args:
        connection: within the transaction.
        batch: the users.
        rows: the credentials that the batch changes.
    """
    users = [user.checkpoint.username for user in batch if user.watch is not None]
    if users:
        found = map(record_of, with_keys(connection, _FIND, users))
        changes = health_changes(batch, found, ((row.username, row.secret_id) for row in rows))
        _put(connection, changes.put, changes.gone)


def drop(connection: sqlite3.Connection, usernames: Sequence[str]) -> None:
    """Drop the records of these users, within the caller's transaction."""
    with_keys(connection, _DROP_USERS, usernames)


def after(
    connection: sqlite3.Connection, username: str, secret_id: str, limit: int, *, only: bool
) -> list[HealthRecord]:
    """Return the next page of records; with ``only``, of that user alone."""
    statement = _AFTER_OF_ONE if only else _AFTER_OF_ALL
    return [record_of(row) for row in connection.execute(statement, (username, secret_id, limit))]


def settle(connection: sqlite3.Connection, judge: Judge) -> list[Notice]:
    """Settle every record, one transaction per page."""
    notices: list[Notice] = []
    last: RecordKey = ("", "")
    while page := _settle_page(connection, judge, last, notices):
        last = page[-1].place
    return notices


def _settle_page(
    connection: sqlite3.Connection, judge: Judge, last: RecordKey, notices: list[Notice]
) -> list[HealthRecord]:
    with transaction(connection):
        page = after(connection, *last, PAGE, only=False)
        done = [(record, judge(record)) for record in page]
        put_notices(connection, [one.notice for _, one in done if one.notice is not None])
        _put(
            connection,
            [one.record for record, one in done if one.record is not None and one.record != record],
            [record.place for record, one in done if one.record is None],
        )
    notices += [one.notice for _, one in done if one.notice is not None]
    return page


def note(
    connection: sqlite3.Connection, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float
) -> None:
    """Record observations made outside of a run."""
    with transaction(connection):
        found = map(record_of, with_keys(connection, _FIND, users_of(sightings)))
        changes = noted(sightings, found, policy=policy, at=at)
        _put(connection, changes.put, changes.gone)


def put(connection: sqlite3.Connection, records: Sequence[HealthRecord], notices: Sequence[Notice]) -> None:
    """Store records and notices unchanged."""
    with transaction(connection):
        _put(connection, records, [])
        put_notices(connection, notices)


def put_notices(connection: sqlite3.Connection, notices: Sequence[Notice]) -> None:
    """Put notices into the outbox, within the caller's transaction; existing ones stay."""
    insert(connection, _PUT_NOTICE, [(notice.id, encoded_notice(notice)) for notice in notices])


def find_notices(connection: sqlite3.Connection, limit: int) -> list[Notice]:
    """Return the oldest notices of the outbox."""
    return [decoded_notice(text) for (text,) in connection.execute(_NOTICES, (limit,))]


def forget_notices(connection: sqlite3.Connection, ids: Collection[str]) -> None:
    """Remove notices from the outbox."""
    with transaction(connection):
        with_keys(connection, _FORGET, sorted(ids))


def _put(connection: sqlite3.Connection, records: Sequence[HealthRecord], gone: Sequence[RecordKey]) -> None:
    insert(connection, _PUT, [columns_of(record) for record in records])
    connection.executemany(_DROP, gone)
