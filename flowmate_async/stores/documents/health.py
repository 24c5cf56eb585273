"""The health of a user's credentials in the user's document: pure changes of a document."""

from collections.abc import Collection, Iterable, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import HealthRecord, Notice, Sighting
from flowmate_async.stores.documents.base import UserDocument
from flowmate_async.stores.health import Judge, noted


def records_of(user: UserDocument) -> list[HealthRecord]:
    """Return a user's records, in order."""
    return [record for _, record in sorted((user.health or {}).items())]


def settled(user: UserDocument, judge: Judge) -> tuple[UserDocument, list[Notice]]:
    """Return a document with every record settled, and the notices added to it."""
    records = dict(user.health or {})
    notices: list[Notice] = []
    for record in records_of(user):
        done = judge(record)
        if done.record is None:
            del records[record.secret_id]
        else:
            records[record.secret_id] = done.record
        if done.notice is not None:
            notices.append(done.notice)
    return with_notices(replace(user, health=records or UNSET), notices), notices


def with_sightings(
    user: UserDocument, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float
) -> UserDocument:
    """Return a document updated with observations made outside of a run."""
    changes = noted(sightings, records_of(user), policy=policy, at=at)
    records = {**(user.health or {}), **{record.secret_id: record for record in changes.put}}
    for _, secret_id in changes.gone:
        del records[secret_id]
    return replace(user, health=records or UNSET)


def with_records(user: UserDocument, records: Iterable[HealthRecord]) -> UserDocument:
    """Return a document with these records, unchanged."""
    return replace(user, health={**(user.health or {}), **{record.secret_id: record for record in records}})


def with_notices(user: UserDocument, notices: Sequence[Notice]) -> UserDocument:
    """Return a document with these notices added to its outbox."""
    waiting = user.notices or ()
    known = {notice.id for notice in waiting}
    return replace(user, notices=(*waiting, *(one for one in notices if one.id not in known)) or UNSET)


def without_notices(user: UserDocument, ids: Collection[str]) -> UserDocument:
    """Return a document with these notices removed from its outbox."""
    left = tuple(notice for notice in user.notices or () if notice.id not in ids)
    if len(left) == len(user.notices or ()):
        return user
    return replace(user, notices=left or UNSET)


def oldest_first(users: Iterable[UserDocument]) -> list[Notice]:
    """Return all notices of some documents by time; notices of one credential keep their order."""
    return sorted((notice for user in users for notice in user.notices or ()), key=lambda one: one.at)
