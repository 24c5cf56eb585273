"""The statements for credential health; ``rows.py`` has all others."""

# ruff: noqa: S608 - statements are made of constants

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
from flowmate_async.stores.sql.database import AFTER, Database, Table

_HEALTH = Table(
    "health",
    ("username", "secret_id"),
    {name: "float8" if name == "since" else "text" for name in COLUMNS.split(", ")},
)
_OUTBOX = Table("outbox", ("id",), {"id": "text", "notice": "text"}, replaces=False)
_FIND = f"SELECT {COLUMNS} FROM health WHERE username IN (:keys) ORDER BY username, secret_id FOR UPDATE"
_DROP = "DELETE FROM health WHERE username = $1 AND secret_id = $2"
_DROP_USERS = "DELETE FROM health WHERE username IN (:keys)"
_COUNT = "SELECT state, type, count(*) FROM health GROUP BY state, type"
_NOTICES = "SELECT notice FROM outbox ORDER BY number LIMIT $1"
_FORGET = "DELETE FROM outbox WHERE id IN (:keys)"


async def write(db: Database, batch: Sequence[UserWrite], rows: Sequence[SecretRow]) -> None:
    """Store a batch's observations, within the transaction of its checkpoints."""
    users = [user.checkpoint.username for user in batch if user.watch is not None]
    if users:
        found = map(record_of, await db.fetch_keys(_FIND, users))
        changes = health_changes(batch, found, ((row.username, row.secret_id) for row in rows))
        await _put(db, changes.put, changes.gone)


async def drop(db: Database, usernames: Sequence[str]) -> None:
    """Drop the records of these users, within the caller's transaction."""
    await db.fetch_keys(_DROP_USERS, sorted(usernames))


async def after(
    db: Database, username: str, secret_id: str, limit: int, *, only: bool, lock: bool = False
) -> list[HealthRecord]:
    """Return the next page of records; with ``only``, of that user alone."""
    statement = f"SELECT {COLUMNS} FROM health {AFTER[only]}{' FOR UPDATE' if lock else ''}"
    return [record_of(row) for row in await db.execute(statement, username, secret_id, limit)]


async def count(db: Database) -> dict[tuple[str, str], int]:
    """Return the number of records by state and type of secret."""
    return {(state, kind): number for state, kind, number in await db.execute(_COUNT)}


async def settle(db: Database, judge: Judge) -> list[Notice]:
    """Settle every record, one transaction per page."""
    notices: list[Notice] = []
    last: RecordKey = ("", "")
    while page := await _settle_page(db, judge, last, notices):
        last = page[-1].place
    return notices


async def _settle_page(
    db: Database, judge: Judge, last: RecordKey, notices: list[Notice]
) -> list[HealthRecord]:
    async with db.transaction():
        page = await after(db, *last, PAGE, only=False, lock=True)
        done = [(record, judge(record)) for record in page]
        settled = [one.notice for _, one in done if one.notice is not None]
        await _put_notices(db, settled)
        await _put(
            db,
            [one.record for record, one in done if one.record is not None and one.record != record],
            [record.place for record, one in done if one.record is None],
        )
    notices += settled
    return page


async def note(db: Database, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float) -> None:
    """Record observations made outside of a run."""
    async with db.transaction():
        found = map(record_of, await db.fetch_keys(_FIND, users_of(sightings)))
        changes = noted(sightings, found, policy=policy, at=at)
        await _put(db, changes.put, changes.gone)


async def put(db: Database, records: Sequence[HealthRecord], notices: Sequence[Notice]) -> None:
    """Store records and notices unchanged."""
    async with db.transaction():
        await _put(db, records, [])
        await _put_notices(db, notices)


async def find_notices(db: Database, limit: int) -> list[Notice]:
    """Return the oldest notices of the outbox."""
    return [decoded_notice(text) for (text,) in await db.execute(_NOTICES, limit)]


async def forget_notices(db: Database, ids: Collection[str]) -> None:
    """Remove notices from the outbox."""
    async with db.transaction():
        await db.fetch_keys(_FORGET, sorted(ids))


async def _put_notices(db: Database, notices: Sequence[Notice]) -> None:
    """Put notices into the outbox; existing ones stay."""
    await db.put(_OUTBOX, [(notice.id, encoded_notice(notice)) for notice in notices])


async def _put(db: Database, records: Sequence[HealthRecord], gone: Sequence[RecordKey]) -> None:
    await db.put(_HEALTH, [columns_of(record) for record in records])
    await db.execute_each(_DROP, gone)
