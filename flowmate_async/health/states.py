"""The states of a credential's health, the reasons for them, and what to do about each.

One table, :data:`RULES`, says for every reason which state it means and what to do. The tables in
docs/health.md are tested against it. Sections cited are those of docs/contract/OBSERVED.md.
"""

import enum
from collections.abc import Mapping

import msgspec


class HealthState(enum.Enum):
    """Whether a credential can be used, and whose problem it is if it cannot."""

    HEALTHY = "healthy"
    """It works, as far as FlowMate and the provider have shown."""
    EXPIRING = "expiring"
    """It works, ends soon and cannot be renewed: the user should reconnect."""
    BROKEN = "broken"
    """It does not work any more: the user has to reconnect."""
    UNREADABLE = "unreadable"
    """FlowMate does not show it: a permission is missing, which an administrator can grant."""
    PROVIDER_OUTAGE = "provider_outage"
    """Most renewals of its OAuth client fail: wait for the provider, or check the OAuth client."""
    UNVERIFIED = "unverified"
    """It was never tried, so nothing is known. The initial state of passwords and API keys."""


_WORKING = (HealthState.HEALTHY.value, HealthState.UNVERIFIED.value)


def not_working(counts: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Return the counts of credentials that do not plainly work, of counts by state and type."""
    return {key: counts[key] for key in sorted(counts) if key[0] not in _WORKING}


class Reason(enum.Enum):
    """Why a credential is in its state."""

    OK = "ok"
    NEVER_TRIED = "never_tried"
    REFRESH_FAILING = "refresh_failing"
    REJECTIONS_SEEN = "rejections_seen"
    FAILED_BEFORE = "failed_before"
    RENEWAL_DUE = "renewal_due"
    ENDS_SOON = "ends_soon"
    REFUSED = "refused"
    REJECTED = "rejected"
    REFRESH_FAILS = "refresh_fails"
    EMPTY = "empty"
    EXPIRED = "expired"
    MASKED = "masked"
    FORBIDDEN = "forbidden"
    CLIENT_FAILING = "client_failing"


class Rule(msgspec.Struct, frozen=True):
    """What a reason means.

    Attributes:
        states: the states that a credential can be in for this reason.
        meaning: what was observed.
        action: what to do, and who should do it.
        section: the section of OBSERVED.md that the rule follows from; empty for the library's own rules.
    """

    states: tuple[HealthState, ...]
    meaning: str
    action: str
    section: str = ""


_FINE = (HealthState.HEALTHY, HealthState.UNVERIFIED)
_BROKEN = (HealthState.BROKEN,)

RULES: Mapping[Reason, Rule] = {
    Reason.OK: Rule(
        (HealthState.HEALTHY,), "The last answer held a usable credential.", "Nothing.", "One secret"
    ),
    Reason.NEVER_TRIED: Rule(
        (HealthState.UNVERIFIED,),
        "FlowMate only stores it; no app has accepted or rejected it yet.",
        "Nothing, or verify it against the app.",
        "One secret",
    ),
    Reason.REFRESH_FAILING: Rule(
        _FINE,
        "Renewals have failed, too few or for too short a time to say why.",
        "Nothing yet: the next syncs decide.",
        "Refresh failures",
    ),
    Reason.REJECTIONS_SEEN: Rule(
        _FINE,
        "Apps have rejected it, too few times or for too short a time.",
        "Nothing yet: further rejections decide.",
    ),
    Reason.FAILED_BEFORE: Rule(
        _FINE,
        "The listing shows that a renewal failed at some time. FlowMate never clears that, so it is a hint.",
        "Nothing. Sync to find out.",
        "Listing",
    ),
    Reason.RENEWAL_DUE: Rule(
        (HealthState.UNVERIFIED,),
        "The listing shows a token that has ended. FlowMate renews it when it is fetched.",
        "Nothing. Sync to find out.",
        "One secret",
    ),
    Reason.ENDS_SOON: Rule(
        (HealthState.EXPIRING,),
        "It ends soon, and FlowMate has nothing to renew it with.",
        "Ask the user to reconnect before it ends.",
        "One secret",
    ),
    Reason.REFUSED: Rule(
        _BROKEN,
        "The provider refused to renew it (400 or 401): access was revoked, or has ended.",
        "Ask the user to reconnect.",
        "Refresh failures",
    ),
    Reason.REJECTED: Rule(
        _BROKEN,
        "Apps keep rejecting it, and FlowMate has no other value.",
        "Ask the user to reconnect, or to enter the new password or key.",
        "One secret",
    ),
    Reason.REFRESH_FAILS: Rule(
        _BROKEN,
        "Renewals have kept failing for longer than an outage lasts.",
        "Ask the user to reconnect; if that fails too, check the provider.",
        "Refresh failures",
    ),
    Reason.EMPTY: Rule(
        _BROKEN,
        "The secret exists and holds no credential.",
        "Ask the user to reconnect, or to enter the password or key again.",
        "One secret",
    ),
    Reason.EXPIRED: Rule(
        _BROKEN,
        "It has ended, and FlowMate has nothing to renew it with.",
        "Ask the user to reconnect.",
        "One secret",
    ),
    Reason.MASKED: Rule(
        (HealthState.UNREADABLE,),
        "FlowMate masks the values of this user.",
        "An administrator grants the permission secrets.secret.readRaw.",
        "One secret",
    ),
    Reason.FORBIDDEN: Rule(
        (HealthState.UNREADABLE,),
        "FlowMate answers 403: this user may not read the secret.",
        "An administrator checks the permissions and who owns the secret.",
        "Errors",
    ),
    Reason.CLIENT_FAILING: Rule(
        (HealthState.PROVIDER_OUTAGE,),
        "Most renewals through the same OAuth client failed at the same time.",
        "Wait for the provider. If it lasts, check the OAuth client's own credentials. Do not ask users.",
        "Concurrent GETs of one secret that needs a refresh",
    ),
}
"""What every reason means, and what to do about it."""


class Health(msgspec.Struct, frozen=True, gc=False):
    """The health of one credential.

    Attributes:
        state: see :class:`HealthState`.
        reason: why.
        since: when the state began, in seconds since the Unix epoch; of a broken credential the first
            failure in a row. 0 when nothing has ever happened to it.
    """

    state: HealthState
    reason: Reason
    since: float = 0.0

    @property
    def action(self) -> str:
        """What to do about it, and who should do it."""
        return RULES[self.reason].action
