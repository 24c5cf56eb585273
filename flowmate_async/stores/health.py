"""Stores that keep credential health: a record for each credential that is not plainly fine, and an outbox.

Records are written in the transaction of the user's checkpoint (:attr:`~.base.UserWrite.watch`). A healthy
credential has no record, so a sync in which all is well writes nothing here. ``flowmate_async.health``
decides what observations mean; the laws of such a store are in ``flowmate_async.testing.health_laws``.
Nothing of this is secret: usernames, secret ids, types, OAuth clients, states, times.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from flowmate_async.errors import ConfigurationError
from flowmate_async.health.evidence import Evidence
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import Credential, HealthRecord, Notice, Settled, Sighting, observed
from flowmate_async.health.states import Health, HealthState, Reason
from flowmate_async.stores.base import RecordKey, Store, UserWrite

__all__ = ["CountsHealth", "KeepsHealth"]

Judge = Callable[[HealthRecord], Settled]
"""Settles a record; called within a transaction, so it must be fast."""

Columns = tuple[str, str, str, str | None, str, str, float, str | None, str]
"""A record as a row: username, secret id, type, OAuth client, state, reason, since, told, evidence."""

COLUMNS = "username, secret_id, type, auth_client_id, state, reason, since, told, evidence"


@runtime_checkable
class KeepsHealth(Protocol):
    """A store that keeps the health of credentials, and an outbox of notices.

    Its ``write`` stores the ``watch`` of a :class:`~.base.UserWrite` together with the checkpoint; its
    ``note_missing`` drops the records of these users.
    """

    def health(self, username: str | None = None) -> AsyncIterator[HealthRecord]:
        """Yield every record, for one user or all, by username and secret id."""
        ...

    async def settle_health(self, judge: Judge) -> list[Notice]:
        """Settle every record and put the notices into the outbox in the same transactions.

        If the process is killed, each record is either settled with its notices or not at all.

        Args:
            judge: see :data:`Judge`.

        Returns:
            The notices, in the order of the outbox.
        """
        ...

    async def note_health(self, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float) -> None:
        """Record observations made outside of a run, as by workers. The next run's end settles them.

        Args:
            sightings: what was observed.
            policy: how much evidence a state needs.
            at: seconds since the Unix epoch.
        """
        ...

    async def put_health(self, records: Sequence[HealthRecord], notices: Sequence[Notice] = ()) -> None:
        """Store records and notices unchanged, as when copying from another store."""
        ...

    async def notices(self, limit: int) -> list[Notice]:
        """Return the oldest notices in the outbox; those of one credential in their order."""
        ...

    async def forget_notices(self, notices: Sequence[Notice]) -> None:
        """Remove delivered notices from the outbox."""
        ...


@runtime_checkable
class CountsHealth(Protocol):
    """A store that counts its records of health in one cheap step, without reading each."""

    async def count_health(self) -> dict[tuple[str, str], int]:
        """Return the number of records by state and type of secret."""
        ...


def require_health_keeper(store: Store) -> KeepsHealth:
    """Return the store as one that keeps health.

    Raises:
        ConfigurationError: it cannot.
    """
    if isinstance(store, KeepsHealth):
        return store
    raise ConfigurationError(
        "this store keeps no health of credentials", advice="All stores of flowmate_async do; use one of them"
    )


class HealthChanges(msgspec.Struct, frozen=True):
    """Changes that a batch makes to records.

    Attributes:
        put: records that are new or have changed.
        gone: the keys of records to drop.
    """

    put: list[HealthRecord]
    gone: list[RecordKey]


NO_CHANGES = HealthChanges([], [])


def health_changes(
    batch: Sequence[UserWrite], records: Iterable[HealthRecord], changed: Iterable[RecordKey]
) -> HealthChanges:
    """Return the changes that a batch makes to its users' records; nearly always none.

    Args:
        batch: the users.
        records: all records of these users.
        changed: the keys of credentials whose value the batch changes.
    """
    before = {record.place: record for record in records}
    if not before and not any(user.watch is not None and user.watch.sightings for user in batch):
        return NO_CHANGES
    changed = frozenset(changed)
    now: dict[RecordKey, HealthRecord | None] = dict(before)
    for user in batch:
        if user.watch is None:
            continue
        at = user.checkpoint.at
        for sighting in _sightings(user, now, changed):
            place = (sighting.credential.username, sighting.credential.secret_id)
            now[place] = observed(now.get(place), sighting, now=at, policy=user.watch.policy)
        if user.listed is not None:
            _drop_unlisted(user, now)
    return _difference(before, now)


def noted(
    sightings: Sequence[Sighting], records: Iterable[HealthRecord], *, policy: HealthPolicy, at: float
) -> HealthChanges:
    """Return the changes that sightings outside of a run make to records.

    Args:
        sightings: what was observed.
        records: all records of these users.
        policy: how much evidence a state needs.
        at: seconds since the Unix epoch.
    """
    before = {record.place: record for record in records}
    now: dict[RecordKey, HealthRecord | None] = dict(before)
    for sighting in sightings:
        place = (sighting.credential.username, sighting.credential.secret_id)
        now[place] = observed(now.get(place), sighting, now=at, policy=policy)
    return _difference(before, now)


def _difference(
    before: Mapping[RecordKey, HealthRecord], now: Mapping[RecordKey, HealthRecord | None]
) -> HealthChanges:
    return HealthChanges(
        put=[record for place, record in now.items() if record is not None and record != before.get(place)],
        gone=[place for place in before if now[place] is None],
    )


def counted(records: Iterable[HealthRecord]) -> dict[tuple[str, str], int]:
    """Return the number of records by state and type of secret."""
    return dict(Counter((record.health.state.value, record.credential.type) for record in records))


def users_of(sightings: Iterable[Sighting]) -> list[str]:
    """Return the users whose credentials were observed, each once, in order."""
    return sorted({sighting.credential.username for sighting in sightings})


def _sightings(
    user: UserWrite, now: Mapping[RecordKey, HealthRecord | None], changed: Collection[RecordKey]
) -> Iterator[Sighting]:
    """Yield the observations of a user's credentials: failures, and reads of those with a record."""
    if user.watch is None:
        return
    username, seen = user.checkpoint.username, set()
    for sighting in user.watch.sightings:
        secret_id = sighting.credential.secret_id
        seen.add(secret_id)
        yield _as_changed(sighting) if (username, secret_id) in changed else sighting
    for secret in user.secrets:
        place = (username, secret.id)
        if secret.id not in seen and now.get(place) is not None:
            what = Observed.CHANGED if place in changed else Observed.READ
            credential = Credential(username=username, secret_id=secret.id, type=secret.kind)
            yield Sighting(credential, (Observation(what, user.checkpoint.at),))


def _as_changed(sighting: Sighting) -> Sighting:
    """Return a sighting whose reads returned a value other than the stored one."""
    return Sighting(
        sighting.credential,
        tuple(
            msgspec.structs.replace(one, what=Observed.CHANGED) if one.what is Observed.READ else one
            for one in sighting.observations
        ),
    )


def _drop_unlisted(user: UserWrite, now: dict[RecordKey, HealthRecord | None]) -> None:
    """Drop the records of secrets that a proven listing lacks: the user has disconnected the app."""
    username, present = user.checkpoint.username, set(user.present)
    for place in now:
        if place[0] == username and place[1] not in present:
            now[place] = None


_encode = msgspec.json.Encoder().encode
_evidence_of = msgspec.json.Decoder(Evidence).decode
_notice_of = msgspec.json.Decoder(Notice).decode


def columns_of(record: HealthRecord) -> Columns:
    """Return a record as a row."""
    credential, health = record.credential, record.health
    return (
        credential.username,
        credential.secret_id,
        credential.type,
        credential.auth_client_id,
        health.state.value,
        health.reason.value,
        health.since,
        None if record.told is None else record.told.value,
        _encode(record.evidence).decode(),
    )


def record_of(columns: Columns) -> HealthRecord:
    """Return the record in a row; unreadable evidence is ignored."""
    username, secret_id, secret_type, client, state, reason, since, told, evidence = columns
    try:
        found = _evidence_of(evidence)
    except msgspec.MsgspecError:
        found = Evidence()
    return HealthRecord(
        credential=Credential(
            username=username, secret_id=secret_id, type=secret_type, auth_client_id=client
        ),
        health=Health(HealthState(state), Reason(reason), since),
        evidence=found,
        told=None if told is None else HealthState(told),
    )


def encoded_notice(notice: Notice) -> str:
    """Encode a notice for the outbox."""
    return _encode(notice).decode()


def decoded_notice(text: str) -> Notice:
    """Decode a notice from the outbox."""
    return _notice_of(text)
