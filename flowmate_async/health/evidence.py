"""The evidence about a credential between observations: counts and times, never a credential.

:func:`add` folds one observation into the evidence. The order in which failures arrive does not matter. A
success forgets them, and a failure that arrives after a success and happened before it is ignored. So what
arrives late can only make a credential look better, until the next observation.
"""

import msgspec
from msgspec.structs import replace

from flowmate_async.health.observations import FAILED_RENEWALS, SUCCESSES, Observation, Observed
from flowmate_async.health.policy import Repetition


class Series(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Observations of one kind in a row.

    Attributes:
        times: how many.
        first: when the first was made, in seconds since the Unix epoch.
        last: when the last was made.
    """

    times: int = 0
    first: float = 0.0
    last: float = 0.0

    def __bool__(self) -> bool:
        return self.times > 0

    def plus(self, other: "Series") -> "Series":
        """Return both together."""
        if not (self and other):
            return self or other
        return Series(self.times + other.times, min(self.first, other.first), max(self.last, other.last))

    def meets(self, repetition: Repetition) -> bool:
        """Return whether this is often enough, over long enough."""
        return self.times >= repetition.times and self.last - self.first >= repetition.over_seconds


_NONE = Series()


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known of one credential since its last success.

    Attributes:
        read_at: when FlowMate last answered with it in clear, in seconds since the Unix epoch.
        changed_at: when its value last changed, or an app last accepted it.
        accepted_at: when an app last accepted it.
        ends_at: when it ends, if it cannot be renewed.
        pending: failed renewals that are not judged yet: whether they are part of an outage is open.
        pending_refused: those of them that the provider refused.
        failures: failed renewals that were not part of an outage.
        refused: those of them that the provider refused.
        outage: failed renewals that were part of an outage.
        rejections: rejections by apps.
        empty: answers without a credential.
        masked: answers with masked values.
        forbidden: answers 403.
        hinted: whether a listing showed that a renewal has failed at some time.
    """

    read_at: float = 0.0
    changed_at: float = 0.0
    accepted_at: float = 0.0
    ends_at: float | None = None
    pending: Series = _NONE
    pending_refused: Series = _NONE
    failures: Series = _NONE
    refused: Series = _NONE
    outage: Series = _NONE
    rejections: Series = _NONE
    empty: Series = _NONE
    masked: Series = _NONE
    forbidden: Series = _NONE
    hinted: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether it contains nothing more than a new record would."""
        troubles = (self.pending, self.failures, self.outage, self.rejections, self.empty, self.masked)
        return self.ends_at is None and not self.accepted_at and not any(troubles) and not self.forbidden


def add(evidence: Evidence, observation: Observation) -> Evidence:
    """Return the evidence with one more observation.

    Args:
        evidence: what is known so far.
        observation: what happened. ``GONE`` is not evidence: the record of a secret that is gone is dropped.
    """
    what, at = observation.what, observation.at
    if what in SUCCESSES:
        return _after_success(evidence, observation)
    if what is Observed.LISTED_ERROR:
        return replace(evidence, hinted=True)
    once = Series(1, at, at)
    if what is Observed.REJECTED:
        if at <= evidence.changed_at:
            return evidence
        return replace(evidence, rejections=evidence.rejections.plus(once))
    if at <= evidence.read_at:
        return evidence  # an answer has shown since then that it is over
    if what in FAILED_RENEWALS:
        refused = once if what is Observed.REFUSED else _NONE
        return replace(
            evidence,
            pending=evidence.pending.plus(once),
            pending_refused=evidence.pending_refused.plus(refused),
        )
    if what is Observed.EMPTY:
        return replace(evidence, empty=evidence.empty.plus(once))
    if what is Observed.MASKED:
        return replace(evidence, masked=evidence.masked.plus(once))
    if what is Observed.FORBIDDEN:
        return replace(evidence, forbidden=evidence.forbidden.plus(once))
    return evidence


def _after_success(evidence: Evidence, observation: Observation) -> Evidence:
    """Forget the failures that a success answers, whatever their times: a clock may have been wrong.

    FlowMate returns a password that no app accepts any more as readily as a good one, so reading the same
    value again does not answer a rejection; another value does, and so does an app that accepts it. An access
    token that an app accepts says nothing about the next renewal.
    """
    what, at = observation.what, observation.at
    if what is Observed.ACCEPTED:
        return replace(evidence, accepted_at=at, changed_at=at, rejections=_NONE)
    changed = what is Observed.CHANGED
    return Evidence(
        read_at=at,
        ends_at=observation.ends_at,
        changed_at=at if changed else evidence.changed_at,
        accepted_at=0.0 if changed else evidence.accepted_at,
        rejections=_NONE if changed else evidence.rejections,
        hinted=evidence.hinted,
    )


def settle(evidence: Evidence, *, outage: bool) -> Evidence:
    """Return the evidence with its pending failures judged.

    Args:
        evidence: what is known.
        outage: whether they were part of a provider outage. Then they count for nothing, now or later.
    """
    if not evidence.pending:
        return evidence
    judged = replace(evidence, pending=_NONE, pending_refused=_NONE)
    if outage:
        return replace(judged, outage=evidence.outage.plus(evidence.pending))
    return replace(
        judged,
        outage=_NONE,  # it failed again after the outage
        failures=evidence.failures.plus(evidence.pending),
        refused=evidence.refused.plus(evidence.pending_refused),
    )
