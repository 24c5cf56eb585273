"""What was observed of a credential, and what an error or an answer says about it.

Pure: facts about one secret in, :class:`Observation` out. Facts that say nothing about a credential, such as
a throttled request, give no observation. Sections cited are those of docs/contract/OBSERVED.md.
"""

import enum
import re

import msgspec

from flowmate_async.contract.protocol import GET
from flowmate_async.errors import (
    CredentialMissingError,
    CredentialRejectedError,
    FlowMateError,
    MaskedSecretError,
    PermissionDeniedError,
    RefreshFailedError,
    SecretNotFoundError,
    UpstreamTimeoutError,
)

_PROVIDER_ANSWERED = re.compile(r"HTTP Error Response: (\d{3})\b")
"""How upstream repeats its provider's status (§ Refresh failures)."""

_LOCKED = "another refresh of this secret"
_CONCLUSIVE = ("400", "401")


class Observed(enum.Enum):
    """What happened."""

    READ = "read"
    """FlowMate answered with a credential in clear: renewed, or not in need of it (§ One secret)."""
    CHANGED = "changed"
    """The same, with another value than before."""
    ACCEPTED = "accepted"
    """The app accepted it."""
    REFUSED = "refused"
    """The provider answered 400 or 401 to a renewal: conclusive (§ Refresh failures)."""
    FAILED = "failed"
    """A renewal failed otherwise: another status, an error body, no token, garbage (§ Refresh failures)."""
    HUNG = "hung"
    """No answer in time; the provider may hang (§ Refresh failures)."""
    EMPTY = "empty"
    """The secret exists and holds no credential."""
    MASKED = "masked"
    """The values came masked: the raw-read permission is missing (§ One secret)."""
    FORBIDDEN = "forbidden"
    """FlowMate's own 403 (§ Errors)."""
    GONE = "gone"
    """FlowMate's own 404, or a proven listing without it: the secret does not exist (§ Errors)."""
    REJECTED = "rejected"
    """An app rejected it, and FlowMate answered with the same value again."""
    LISTED_ERROR = "listed_error"
    """The listing shows ``currentError``, which is never cleared upstream: only a hint (§ Listing)."""


SUCCESSES = frozenset({Observed.READ, Observed.CHANGED, Observed.ACCEPTED})
FAILED_RENEWALS = frozenset({Observed.REFUSED, Observed.FAILED, Observed.HUNG})


class Observation(msgspec.Struct, frozen=True, gc=False):
    """One fact about one credential.

    Attributes:
        what: what happened.
        at: when, in seconds since the Unix epoch.
        ends_at: when the credential ends, if it cannot be renewed; ``None`` otherwise. Only for successes.
    """

    what: Observed
    at: float
    ends_at: float | None = None


def observed_failure(error: FlowMateError) -> Observed | None:
    """Return what a failure to fetch a credential says about it; ``None`` for nothing.

    Args:
        error: what fetching the secret, or replacing a rejected credential, raised.
    """
    match error:
        case MaskedSecretError():
            return Observed.MASKED
        case PermissionDeniedError(endpoint=endpoint) if endpoint == GET:
            return Observed.FORBIDDEN
        case SecretNotFoundError():
            return Observed.GONE
        case CredentialRejectedError():
            return Observed.REJECTED
        case CredentialMissingError():
            return Observed.EMPTY
        case RefreshFailedError():
            return _failed_renewal(error)
        case UpstreamTimeoutError(endpoint=endpoint) if endpoint == GET:
            return Observed.HUNG
        case _:
            return None  # about FlowMate as a whole, the user's token or the network


def _failed_renewal(error: RefreshFailedError) -> Observed | None:
    """Distinguish a refusal by the provider from other failures of it.

    A lock held by another refresh is neither, and neither is a request that was never sent.
    """
    if not error.was_sent or error.message.startswith(_LOCKED):
        return None
    answered = _PROVIDER_ANSWERED.search(error.message)
    refused = answered is not None and answered[1] in _CONCLUSIVE
    return Observed.REFUSED if refused else Observed.FAILED
