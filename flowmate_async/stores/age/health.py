"""The lines of a jsonl+age store about credential health, as plans over the index."""

from collections.abc import Collection, Sequence

from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import HealthRecord, Notice, Sighting
from flowmate_async.stores.age.index import Index
from flowmate_async.stores.age.lines import DeliveredLine, HealthLine, Line, NoticeLine
from flowmate_async.stores.health import Judge, noted, users_of


def plan_settle(index: Index, judge: Judge) -> tuple[list[Line], list[Notice]]:
    """Return the lines that settle every record, and the notices among them."""
    lines: list[Line] = []
    notices: list[Notice] = []
    for record in index.health_records():
        done = judge(record)
        if done.record != record:
            lines.append(HealthLine(username=record.username, secret_id=record.secret_id, record=done.record))
        if done.notice is not None:
            notices.append(done.notice)
    return [*lines, *(NoticeLine(notice=notice) for notice in notices)], notices


def plan_note(
    index: Index, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float
) -> tuple[list[Line], None]:
    """Return the lines that record observations made outside of a run."""
    records = (record for name in users_of(sightings) for record in index.health_records(name))
    changes = noted(sightings, records, policy=policy, at=at)
    put = [HealthLine(username=one.username, secret_id=one.secret_id, record=one) for one in changes.put]
    gone = [HealthLine(username=name, secret_id=one, record=None) for name, one in changes.gone]
    return [*put, *gone], None


def plan_put(
    index: Index, records: Sequence[HealthRecord], notices: Sequence[Notice]
) -> tuple[list[Line], None]:
    """Return the lines that store records and notices unchanged."""
    lines: list[Line] = [
        HealthLine(username=record.username, secret_id=record.secret_id, record=record) for record in records
    ]
    return [*lines, *(NoticeLine(notice=one) for one in notices if one.id not in index.outbox)], None


def plan_forget(index: Index, ids: Collection[str]) -> tuple[list[Line], None]:
    """Return the line that removes notices from the outbox."""
    known = sorted(index.outbox.keys() & set(ids))
    return ([DeliveredLine(ids=tuple(known))] if known else []), None
