"""Whether a credential may be served, should be refreshed, or must be waited for: pure rules on dates.

No clock, no I/O: times are passed as numbers. Sections cited are those of docs/contract/OBSERVED.md.
"""

import enum
import math
from datetime import datetime

import msgspec

from flowmate_async.values.models import SecretSummary
from flowmate_async.values.secrets import OAuth1Secret, OAuth2Secret, Secret, SessionSecret, UnknownSecret

_NEVER_REFRESHED = frozenset({"SIMPLE", "API_KEY", "MIXED", "OA1_TWO_LEGGED", "OA1_THREE_LEGGED"})

UPSTREAM_WINDOW_SECONDS = 15 * 60.0
"""Upstream refreshes on a GET if less than this remains, and never earlier (§ One secret)."""

_LISTING_SKEW_SECONDS = 120.0


class FreshnessPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long credentials are served from the cache.

    Attributes:
        advisory_seconds: an expiring credential is refreshed early when less than this is left; drawn per
            credential from this range, so that many that were made together are not refreshed together. Below
            upstream's own 15 minutes, or the refresh would bring nothing (§ One secret).
        static_ttl_seconds: passwords, API keys and the like are fetched again after this; the old value is
            served meanwhile.
        session_ttl_seconds: a session without a readable expiry is used for this long. Every GET of it logs
            in (§ One secret), so it is never fetched early.
        oauth_ttl_seconds: the same for an OAuth token without a readable expiry, or whose expiry is the
            moment at which it was made: its provider sends no lifetime, so its end is unknown. Every GET of
            it refreshes (§ Refresh failures), so it is never fetched early either.
        skew_seconds: how far this machine's clock may be behind the providers'.
        cool_down_seconds: how long a failed refresh, a rejected value or an answer that brought nothing new
            is left alone; up to half as much is added at random.
        negative_ttl_seconds: how long "not yours" and "no such secret" are remembered.
    """

    advisory_seconds: tuple[float, float] = (12 * 60.0, 14 * 60.0)
    static_ttl_seconds: float = 60 * 60.0
    session_ttl_seconds: float = 10 * 60.0
    oauth_ttl_seconds: float = 10 * 60.0
    skew_seconds: float = 5.0
    cool_down_seconds: float = 30.0
    negative_ttl_seconds: float = 10.0


class State(enum.Enum):
    """What may be done with a cached credential."""

    FRESH = "fresh"
    """Serve it."""
    STALE = "stale"
    """Serve it, and refresh it in the background."""
    EXPIRED = "expired"
    """Wait for a newer one: it has expired, or expires sooner than the caller needs."""


class Timeline(msgspec.Struct, frozen=True, gc=False):
    """When a credential is to be refreshed and when it ends, on the wall clock and on the monotonic one.

    Either clock may be wrong: the wall clock jumps, and the monotonic one stands still while a machine
    sleeps. The earlier time counts.

    Attributes:
        refresh_at_wall: when it is to be refreshed, in seconds since the Unix epoch.
        refresh_at_monotonic: the same on the monotonic clock.
        valid_until_wall: when it ends, in seconds since the Unix epoch.
        valid_until_monotonic: the same on the monotonic clock.
        margin_seconds: for how long it is certainly valid after it is to be refreshed; negative when it ends
            before that.
    """

    refresh_at_wall: float
    refresh_at_monotonic: float
    valid_until_wall: float
    valid_until_monotonic: float
    margin_seconds: float = -math.inf

    def remaining_seconds(self, *, wall: float, monotonic: float) -> float:
        """Return how long the credential is still valid; negative if expired, infinite without an end."""
        return min(self.valid_until_wall - wall, self.valid_until_monotonic - monotonic)

    def state(self, *, wall: float, monotonic: float, min_valid_seconds: float) -> State:
        """Return what may be done with the credential now, for a caller that needs it for that long."""
        remaining = self.remaining_seconds(wall=wall, monotonic=monotonic)
        if remaining <= 0 or remaining < min_valid_seconds:
            return State.EXPIRED
        if wall >= self.refresh_at_wall or monotonic >= self.refresh_at_monotonic:
            return State.STALE
        return State.FRESH


def timeline(
    secret: Secret, *, wall: float, monotonic: float, jitter: float, policy: FreshnessPolicy
) -> Timeline:
    """Return the timeline of a credential that was fetched now.

    Args:
        secret: the credential.
        wall: now, in seconds since the Unix epoch.
        monotonic: now, on the monotonic clock.
        jitter: the credential's own number from 0 to 1.
        policy: how long things are served.
    """
    expires_at = secret.expires_at
    if expires_at is not None:
        return _until(expires_at.timestamp() - policy.skew_seconds, wall, monotonic, jitter, policy)
    life = _unknown_life_seconds(secret, policy)
    if life is not None:
        return Timeline(math.inf, math.inf, wall + life, monotonic + life)
    stale = policy.static_ttl_seconds * (1 - 0.1 * jitter)
    return Timeline(wall + stale, monotonic + stale, math.inf, math.inf, math.inf)


def _unknown_life_seconds(secret: Secret, policy: FreshnessPolicy) -> float | None:
    """Return for how long a credential with an unknown end is used; ``None`` for one that has no end."""
    match secret:
        case SessionSecret():
            return policy.session_ttl_seconds
        case OAuth2Secret():
            return policy.oauth_ttl_seconds
        case OAuth1Secret(value=value) if value.expires_at is not None or value.expires is not None:
            return policy.oauth_ttl_seconds
        case UnknownSecret(value=dict() as value) if value.get("expires") is not None:
            return policy.oauth_ttl_seconds
        case _:
            return None


def _until(end: float, wall: float, monotonic: float, jitter: float, policy: FreshnessPolicy) -> Timeline:
    low, high = policy.advisory_seconds
    left = end - wall
    early = max(0.0, min(low + (high - low) * jitter, left / 2))
    return Timeline(end - early, monotonic + left - early, end, monotonic + left, early)


def may_refresh(summary: SecretSummary, *, now: float) -> bool:
    """Return whether a GET of this secret may make upstream refresh it or log in.

    Args:
        summary: the secret as it was listed.
        now: seconds since the Unix epoch.

    Returns:
        ``False`` only when it is certain: a type that is never refreshed, or more time left than upstream's
        window and two clocks' disagreement.
    """
    return plain_read_seconds(summary.type, summary.expires_at, now=now) < 0


def plain_read_seconds(secret_type: str, expires_at: datetime | None, *, now: float) -> float:
    """Return for how long a GET of a secret is certain to make upstream neither refresh nor log in.

    Upstream refreshes when less than 15 minutes remain, and logs in at every GET of a session without an
    expiry (§ One secret).

    Args:
        secret_type: upstream's word for the type.
        expires_at: when the credential expires; ``None`` when that is unknown.
        now: seconds since the Unix epoch.

    Returns:
        Seconds: negative when a GET may refresh now, infinite for a type that is never refreshed.
    """
    if never_refreshed(secret_type):
        return math.inf
    if expires_at is None:
        return -math.inf
    return expires_at.timestamp() - now - (UPSTREAM_WINDOW_SECONDS + _LISTING_SKEW_SECONDS)


def never_refreshed(secret_type: str) -> bool:
    """Return whether upstream never refreshes secrets of this type."""
    return secret_type in _NEVER_REFRESHED
