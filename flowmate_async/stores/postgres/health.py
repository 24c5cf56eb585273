"""PostgreSQL statements for credential health; ``rows.py`` has all others."""

# ruff: noqa: S608 - statements are made of constants

from collections.abc import Collection, Sequence
from typing import Any

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
from flowmate_async.stores.postgres.address import Connection
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.secrets import SecretRow

_FIND = f"""
    SELECT {COLUMNS} FROM health WHERE username = ANY ($1::text[]) ORDER BY username, secret_id FOR UPDATE
"""
_AFTER = {
    False: "WHERE (username, secret_id) > ($1, $2) ORDER BY username, secret_id LIMIT $3",
    True: "WHERE username = $1 AND secret_id > $2 ORDER BY secret_id LIMIT $3",
}
_PUT = f"""
    INSERT INTO health ({COLUMNS})
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::text[],
        $9::text[]
    )
    ON CONFLICT (username, secret_id) DO UPDATE SET type = excluded.type,
        auth_client_id = excluded.auth_client_id, state = excluded.state, reason = excluded.reason,
        since = excluded.since, told = excluded.told, evidence = excluded.evidence
"""
_DROP = """
    DELETE FROM health USING unnest($1::text[], $2::text[]) AS gone (username, secret_id)
    WHERE health.username = gone.username AND health.secret_id = gone.secret_id
"""
_DROP_USERS = "DELETE FROM health WHERE username = ANY ($1::text[])"
_PUT_NOTICES = """
    INSERT INTO outbox (id, notice) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT (id) DO NOTHING
"""
_NOTICES = "SELECT notice FROM outbox ORDER BY number LIMIT $1"
_FORGET = "DELETE FROM outbox WHERE id = ANY ($1::text[])"


async def write(connection: Connection, batch: Sequence[UserWrite], rows: Sequence[SecretRow]) -> None:
    """Store a batch's observations, within the transaction of its checkpoints.

    Args:
        connection: within the transaction.
        batch: the users.
        rows: the credentials that the batch changes.
    """
    users = [user.checkpoint.username for user in batch if user.watch is not None]
    if users:
        found = [record_of(tuple(row)) for row in await connection.fetch(_FIND, users)]
        changes = health_changes(batch, found, ((row.username, row.secret_id) for row in rows))
        await _put(connection, changes.put, changes.gone)


async def drop(connection: Connection, usernames: Sequence[str]) -> None:
    """Drop the records of these users, within the caller's transaction."""
    await connection.execute(_DROP_USERS, sorted(usernames))


async def after(
    connection: Connection, username: str, secret_id: str, limit: int, *, only: bool, lock: bool = False
) -> list[HealthRecord]:
    """Return the next page of records; with ``only``, of that user alone."""
    statement = f"SELECT {COLUMNS} FROM health {_AFTER[only]}{' FOR UPDATE' if lock else ''}"
    return [record_of(tuple(row)) for row in await connection.fetch(statement, username, secret_id, limit)]


async def settle(connection: Connection, judge: Judge) -> list[Notice]:
    """Settle every record, one transaction per page."""
    notices: list[Notice] = []
    last: RecordKey = ("", "")
    while page := await _settle_page(connection, judge, last, notices):
        last = page[-1].place
    return notices


async def _settle_page(
    connection: Connection, judge: Judge, last: RecordKey, notices: list[Notice]
) -> list[HealthRecord]:
    async with connection.transaction():
        page = await after(connection, *last, PAGE, only=False, lock=True)
        done = [(record, judge(record)) for record in page]
        await _put_notices(connection, [one.notice for _, one in done if one.notice is not None])
        await _put(
            connection,
            [one.record for record, one in done if one.record is not None and one.record != record],
            [record.place for record, one in done if one.record is None],
        )
    notices += [one.notice for _, one in done if one.notice is not None]
    return page


async def note(
    connection: Connection, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float
) -> None:
    """Record observations made outside of a run."""
    async with connection.transaction():
        found = [record_of(tuple(row)) for row in await connection.fetch(_FIND, users_of(sightings))]
        changes = noted(sightings, found, policy=policy, at=at)
        await _put(connection, changes.put, changes.gone)


async def put(connection: Connection, records: Sequence[HealthRecord], notices: Sequence[Notice]) -> None:
    """Store records and notices unchanged."""
    async with connection.transaction():
        await _put(connection, records, [])
        await _put_notices(connection, notices)


async def find_notices(connection: Connection, limit: int) -> list[Notice]:
    """Return the oldest notices of the outbox."""
    return [decoded_notice(text) for (text,) in await connection.fetch(_NOTICES, limit)]


async def forget_notices(connection: Connection, ids: Collection[str]) -> None:
    """Remove notices from the outbox."""
    await connection.execute(_FORGET, sorted(ids))


async def _put_notices(connection: Connection, notices: Sequence[Notice]) -> None:
    if notices:
        await connection.execute(
            _PUT_NOTICES, [notice.id for notice in notices], [encoded_notice(notice) for notice in notices]
        )


async def _put(connection: Connection, records: Sequence[HealthRecord], gone: Sequence[RecordKey]) -> None:
    if records:
        await connection.execute(_PUT, *_columns([columns_of(record) for record in records]))
    if gone:
        await connection.execute(_DROP, *_columns(gone))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Return rows as column arrays for ``unnest``."""
    return [list(column) for column in zip(*rows, strict=True)]
