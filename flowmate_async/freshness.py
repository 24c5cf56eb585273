"""Decisions about a secret's freshness: pure, from its dates and the contract."""

from flowmate_async.models import SecretSummary

_NEVER_REFRESHED = frozenset({"SIMPLE", "API_KEY", "MIXED", "OA1_TWO_LEGGED", "OA1_THREE_LEGGED"})

UPSTREAM_WINDOW_SECONDS = 15 * 60.0
"""Upstream refreshes on a GET when less than this is left (docs/contract/OBSERVED.md § One secret)."""

_SKEW_SECONDS = 120.0


def may_refresh(summary: SecretSummary, *, now: float) -> bool:
    """Whether a GET of this secret may make upstream refresh it or log in.

    Args:
        summary: the secret as it was listed.
        now: seconds since the Unix epoch.

    Returns:
        ``False`` only when it is certain: a type that is never refreshed, or more time left than upstream's
        window and two clocks' disagreement.
    """
    if summary.type in _NEVER_REFRESHED:
        return False
    expires_at = summary.expires_at
    return expires_at is None or expires_at.timestamp() - now < UPSTREAM_WINDOW_SECONDS + _SKEW_SECONDS
