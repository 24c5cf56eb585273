"""One credential's health as it is stored, and what changes it: observations, a settled outage, time.

Only what is not plainly fine has a record: a healthy credential that can be renewed, and a password that no
app has tried, have none. Every change that somebody should hear about comes with a :class:`Notice`. Pure.
"""

import hashlib
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from flowmate_async.health.decide import decide, initial
from flowmate_async.health.evidence import Evidence, add, settle
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.states import Health, HealthState, Reason

TOLD = frozenset({HealthState.BROKEN, HealthState.EXPIRING, HealthState.UNREADABLE})
"""States that somebody is told about. An outage is not among them: no user can do anything about it."""


class Credential(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Which credential it is. None of this is secret.

    Attributes:
        username: the user.
        secret_id: the secret's id.
        type: upstream's word for its type.
        auth_client_id: the OAuth client behind it, if one was shown.
    """

    username: str
    secret_id: str
    type: str
    auth_client_id: str | None = None


class HealthRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of one credential's health.

    Attributes:
        credential: which credential it is.
        health: the verdict.
        evidence: what it follows from.
        told: the state that somebody was told last; ``None`` when nobody was, or when it is over.
    """

    credential: Credential
    health: Health
    evidence: Evidence = Evidence()
    told: HealthState | None = None

    @property
    def place(self) -> tuple[str, str]:
        """Username and secret id."""
        return self.credential.username, self.credential.secret_id


class Notice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change that somebody should hear about. Holds no credential.

    Attributes:
        id: the same for the same change, so that a receiver can ignore what it has had already.
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


class Update(msgspec.Struct, frozen=True):
    """What becomes of a record.

    Attributes:
        record: the record from now on; ``None`` when there is nothing left to say.
        notice: what to tell somebody, if anything.
    """

    record: HealthRecord | None
    notice: Notice | None = None


def observed(
    record: HealthRecord | None,
    credential: Credential,
    observations: Iterable[Observation],
    *,
    now: float,
    policy: HealthPolicy,
) -> Update:
    """Return a credential's record after some observations. Failed renewals wait for :func:`settled`.

    Args:
        record: the record so far; ``None`` when there is none.
        credential: which credential it is, as it was seen last.
        observations: what happened, in any order between two successes.
        now: seconds since the Unix epoch.
        policy: how much evidence it takes.
    """
    before = record or HealthRecord(credential=credential, health=initial(credential.type))
    evidence = before.evidence
    for observation in observations:
        if observation.what is Observed.GONE:
            return Update(None)
        evidence = add(evidence, observation)
    client = credential.auth_client_id or before.credential.auth_client_id
    known = replace(credential, auth_client_id=client)
    return _update(replace(before, credential=known, evidence=evidence), before, now=now, policy=policy)


def settled(record: HealthRecord, *, outage: bool, now: float, policy: HealthPolicy) -> Update:
    """Return a record with its pending failures judged, and with what the passing of time changes.

    Args:
        record: the record so far.
        outage: whether its pending failures were part of a provider outage.
        now: seconds since the Unix epoch.
        policy: how much evidence it takes.
    """
    judged = replace(record, evidence=settle(record.evidence, outage=outage))
    return _update(judged, record, now=now, policy=policy)


def _update(after: HealthRecord, before: HealthRecord, *, now: float, policy: HealthPolicy) -> Update:
    health = decide(
        after.evidence,
        secret_type=after.credential.type,
        now=now,
        policy=policy,
        before=before.health,
    )
    kind, told = _notice_type(health, before.told)
    record = replace(after, health=health, told=told)
    notice = None if kind is None else _notice(kind, record, now)
    return Update(None if record.evidence.is_clean else record, notice)


def _notice_type(health: Health, told: HealthState | None) -> tuple[str | None, HealthState | None]:
    """Return the type of the notice to write, if any, and what somebody has been told after it."""
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


def is_unchanged(update: Update, record: HealthRecord | None) -> bool:
    """Return whether an update leaves a record as it is, apart from when the last success was."""
    if update.notice is not None:
        return False
    if update.record is None or record is None:
        return update.record is record
    evidence = replace(
        update.record.evidence,
        read_at=record.evidence.read_at,
        changed_at=record.evidence.changed_at,
    )
    return replace(update.record, evidence=evidence) == record


def was_failing(record: HealthRecord) -> bool:
    """Return whether its failures count towards an outage: it was not broken before."""
    return bool(record.evidence.pending) and record.health.state is not HealthState.BROKEN


def in_outage(record: HealthRecord) -> bool:
    """Return whether it is part of an outage, as it was decided last."""
    return record.health.reason is Reason.CLIENT_FAILING
