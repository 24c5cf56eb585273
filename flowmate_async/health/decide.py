"""From evidence to a verdict. Pure: the time, the policy and the provider's outage come in as arguments.

The rules, in the order in which they are asked:

1. Broken: the provider refused, apps keep rejecting, renewals keep failing, the secret is empty, or it has
   ended and cannot be renewed. A broken credential stays broken until a success, also during an outage.
2. Unreadable: masked or 403.
3. Provider outage: its renewals failed together with most others of its OAuth client.
4. Expiring: it ends soon and cannot be renewed.
5. Otherwise healthy, or unverified if nothing has shown that it works.
"""

from flowmate_async.health.evidence import Evidence
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.states import Health, HealthState, Reason

_PROVEN_BY_READING = frozenset({"OA2_AUTHORIZATION_CODE", "SESSION_AUTH"})
"""Types that a provider issues: the answer shows that it did. FlowMate merely stores all the others."""


def initial(secret_type: str) -> Health:
    """Return the health of a credential about which nothing but answers is known.

    Args:
        secret_type: upstream's word for the type.
    """
    if secret_type in _PROVEN_BY_READING:
        return Health(HealthState.HEALTHY, Reason.OK)
    return Health(HealthState.UNVERIFIED, Reason.NEVER_TRIED)


def decide(
    evidence: Evidence, *, secret_type: str, now: float, policy: HealthPolicy, before: Health | None = None
) -> Health:
    """Return the health of a credential.

    Args:
        evidence: what is known, its pending failures settled (:func:`~.evidence.settle`). Failures that are
            still pending decide nothing.
        secret_type: upstream's word for the type.
        now: seconds since the Unix epoch.
        policy: how much evidence it takes.
        before: the health decided last. A broken credential keeps its first reason and time.
    """
    broken = _broken(evidence, now=now, policy=policy)
    if broken:
        return _oldest(broken, before)
    if evidence.masked or evidence.forbidden:
        masked, forbidden = evidence.masked, evidence.forbidden
        reason = Reason.MASKED if masked.last >= forbidden.last else Reason.FORBIDDEN
        return Health(HealthState.UNREADABLE, reason, masked.plus(forbidden).first)
    if evidence.outage:
        return Health(HealthState.PROVIDER_OUTAGE, Reason.CLIENT_FAILING, evidence.outage.first)
    if evidence.ends_at is not None and evidence.ends_at - now <= policy.expiring_seconds:
        return Health(HealthState.EXPIRING, Reason.ENDS_SOON, evidence.ends_at - policy.expiring_seconds)
    return _working(evidence, secret_type)


def _broken(evidence: Evidence, *, now: float, policy: HealthPolicy) -> list[Health]:
    """Return every reason why it is broken, the most specific first."""
    reasons: list[tuple[Reason, float]] = []
    if evidence.refused:
        reasons.append((Reason.REFUSED, evidence.failures.plus(evidence.refused).first))
    if evidence.rejections.meets(policy.rejections):
        reasons.append((Reason.REJECTED, evidence.rejections.first))
    if evidence.failures.meets(policy.failures):
        reasons.append((Reason.REFRESH_FAILS, evidence.failures.first))
    if evidence.empty.meets(policy.empty):
        reasons.append((Reason.EMPTY, evidence.empty.first))
    if evidence.ends_at is not None and evidence.ends_at + policy.skew_seconds <= now:
        reasons.append((Reason.EXPIRED, evidence.ends_at))
    return [Health(HealthState.BROKEN, reason, since) for reason, since in reasons]


def _oldest(broken: list[Health], before: Health | None) -> Health:
    """Return one verdict for several reasons: the reason told first, and the earliest time."""
    since = min(one.since for one in broken)
    if before is not None and before.state is HealthState.BROKEN:
        reasons = [one.reason for one in broken]
        reason = before.reason if before.reason in reasons else reasons[0]
        return Health(HealthState.BROKEN, reason, min(since, before.since))
    return Health(HealthState.BROKEN, broken[0].reason, since)


def _working(evidence: Evidence, secret_type: str) -> Health:
    base = initial(secret_type)
    state = HealthState.HEALTHY if evidence.accepted_at else base.state
    failing = evidence.failures.plus(evidence.pending).plus(evidence.empty)
    if failing:
        return Health(state, Reason.REFRESH_FAILING, failing.first)
    if evidence.rejections:
        return Health(state, Reason.REJECTIONS_SEEN, evidence.rejections.first)
    if evidence.accepted_at:
        return Health(state, Reason.OK, evidence.accepted_at)
    if evidence.hinted and not evidence.read_at:
        return Health(state, Reason.FAILED_BEFORE)
    return base
