"""One credential's health as it is stored, and what changes it: observations, a settled outage, time.

A healthy credential that can be renewed, and a password that no app has tried, have no record. Every change
that should be reported comes with a :class:`Notice`. Pure.
"""

import hashlib

import msgspec
from msgspec.structs import replace

from flowmate_async.health.decide import decide, initial
from flowmate_async.health.evidence import Evidence, add, settle
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.states import Health, HealthState, Reason

TOLD = frozenset({HealthState.BROKEN, HealthState.EXPIRING, HealthState.UNREADABLE})
"""States that are reported. An outage is not among them: users cannot do anything about it."""


class Credential(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which credential it is. None of this is secret.

    Attributes:
        username: the user.
        secret_id: the secret's id.
        type: upstream's word for its type; empty when that is not known.
        auth_client_id: the OAuth client behind it, if one was shown.
    """

    username: str
    secret_id: str
    type: str
    auth_client_id: str | None = None

    @property
    def app(self) -> str:
        """What groups the credentials of one app: the OAuth client, or the type without one."""
        return self.auth_client_id or self.type or "unknown"


class HealthRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of one credential's health.

    Attributes:
        credential: which credential it is.
        health: the verdict.
        evidence: what it follows from.
        told: the state that was last reported; ``None`` if none was, or if it is over.
    """

    credential: Credential
    health: Health
    evidence: Evidence = Evidence()
    told: HealthState | None = None

    @property
    def username(self) -> str:
        """The user."""
        return self.credential.username

    @property
    def secret_id(self) -> str:
        """The secret's id."""
        return self.credential.secret_id

    @property
    def place(self) -> tuple[str, str]:
        """Username and secret id."""
        return self.credential.username, self.credential.secret_id


class Notice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change to report. It contains no credential.

    Attributes:
        id: the same for the same change, so that a receiver can ignore duplicates.
        type: ``credential.broken``, ``credential.expiring``, ``credential.unreadable`` or
            ``credential.recovered``.
        at: when it was decided, in seconds since the Unix epoch.
        credential: which credential it is.
        health: its health from then on.
    """

    id: str
    type: str
    at: float
    credential: Credential
    health: Health


class Sighting(msgspec.Struct, frozen=True, gc=False):
    """Which credential was observed, and what was.

    Attributes:
        credential: which credential it is, as it was seen last.
        observations: what happened, in any order between two successes.
    """

    credential: Credential
    observations: tuple[Observation, ...]


class Watch(msgspec.Struct, frozen=True, gc=False):
    """What a sync saw of one user's credentials. Reads of credentials that are plainly fine need no sighting.

    Attributes:
        policy: how much evidence it takes.
        sightings: what went wrong, and reads of credentials that cannot be renewed.
    """

    policy: HealthPolicy
    sightings: tuple[Sighting, ...] = ()


class Settled(msgspec.Struct, frozen=True):
    """The result of settling a record.

    Attributes:
        record: the new record; ``None`` if none is needed any more.
        notice: the change to report, if any.
    """

    record: HealthRecord | None
    notice: Notice | None = None


def observed(
    record: HealthRecord | None, sighting: Sighting, *, now: float, policy: HealthPolicy
) -> HealthRecord | None:
    """Return a credential's record after some observations.

    Failed renewals decide nothing, and nothing is reported, until :func:`settled` has judged them.

    Args:
        record: the record so far; ``None`` when there is none.
        sighting: which credential, and what was observed.
        now: seconds since the Unix epoch.
        policy: how much evidence it takes.
    """
    credential = sighting.credential
    before = record or HealthRecord(credential=credential, health=initial(credential.type))
    evidence = before.evidence
    for observation in sighting.observations:
        if observation.what is Observed.GONE:
            return None
        evidence = add(evidence, observation)
    if record is None and evidence.is_clean:
        return None
    known = replace(
        credential,
        type=credential.type or before.credential.type,
        auth_client_id=credential.auth_client_id or before.credential.auth_client_id,
    )
    after = replace(before, credential=known, evidence=evidence)
    after = _decided(after, before, now=now, policy=policy)
    if record is not None and _is_same(after, record):
        return record
    return None if _says_nothing(after) else after


def settled(record: HealthRecord, *, outage: bool, now: float, policy: HealthPolicy) -> Settled:
    """Return a record with its pending failures judged, with what time alone changes, and what to tell.

    Args:
        record: the record so far.
        outage: whether its pending failures were part of a provider outage.
        now: seconds since the Unix epoch.
        policy: how much evidence it takes.
    """
    judged = replace(record, evidence=settle(record.evidence, outage=outage))
    judged = _decided(judged, record, now=now, policy=policy)
    kind, told = _notice_type(judged.health, judged.told)
    notice = None if kind is None else _notice(kind, judged, now)
    judged = replace(judged, told=told)
    return Settled(None if _says_nothing(judged) else judged, notice)


def _decided(record: HealthRecord, before: HealthRecord, *, now: float, policy: HealthPolicy) -> HealthRecord:
    health = decide(
        record.evidence,
        secret_type=record.credential.type,
        now=now,
        policy=policy,
        before=before.health,
    )
    return replace(record, health=health)


def _says_nothing(record: HealthRecord) -> bool:
    """Return whether the record is unnecessary: the credential is healthy, and no notice is due."""
    return record.told is None and record.evidence.is_clean


def _is_same(after: HealthRecord, before: HealthRecord) -> bool:
    """Return whether no change is worth a write. Hints and the last success are not."""
    known = before.evidence
    evidence = replace(
        after.evidence, read_at=known.read_at, changed_at=known.changed_at, hinted=known.hinted
    )
    return replace(after, evidence=evidence) == before


def _notice_type(health: Health, told: HealthState | None) -> tuple[str | None, HealthState | None]:
    """Return the type of the notice to write, if any, and the last reported state after it."""
    if health.state in TOLD:
        return (None if health.state is told else f"credential.{health.state.value}"), health.state
    if told is None or health.state is HealthState.PROVIDER_OUTAGE:
        return None, told
    return "credential.recovered", None


def _notice(kind: str, record: HealthRecord, now: float) -> Notice:
    parts = (kind, *record.place, repr(now), repr(record.health.since))
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    return Notice(
        id=f"msg_{digest[:32]}", type=kind, at=now, credential=record.credential, health=record.health
    )


def failed_at(record: HealthRecord) -> float | None:
    """Return when its last renewal failed, if that counts towards an outage: it was not broken before.

    A failure that was settled as part of an outage still counts: the process may have been killed before it
    settled the others.
    """
    if record.health.state is HealthState.BROKEN:
        return None
    series = record.evidence.pending or record.evidence.outage
    return series.last if series else None


def in_outage(record: HealthRecord) -> bool:
    """Return whether it is part of an outage, as it was decided last."""
    return record.health.reason is Reason.CLIENT_FAILING
