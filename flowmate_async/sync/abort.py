"""When a run ends early, and the verdict of a run that tried all users: pure rules on users' results."""

from flowmate_async.contract.protocol import GET, IMPERSONATE, LIST
from flowmate_async.errors import (
    AuthenticationError,
    ConfigurationError,
    FlowMateError,
    InvalidIdError,
    MaskedSecretError,
    PermissionDeniedError,
    ProtocolError,
    TooManyFailuresError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.sync.results import UserResult

MASKED = MaskedSecretError("").kind
"""The kind of error of a masked user in checkpoints and in errors from other processes."""

_REFUSED_USERS = 3


class AbortRules:
    """Watches users' results and decides when, and with which error, the run ends early.

    - The admin token is rejected or cannot be read: all other users would fail as well.
    - None of the first users may be impersonated: the admin token lacks the permission.
    - Upstream failed for so many users in a row that it is down.
    - More users failed than allowed.

    Masked users never end a run early: the raw-read permission belongs to each user, so the next one may be
    readable (docs/contract/OBSERVED.md § Second look). See :attr:`found_only_masks` at the end of a run.

    Args:
        max_consecutive_failures: maximum number of users in a row for which upstream may be unavailable.
        max_failures: maximum number of failed users; ``None`` for no limit.
        synced_before: whether an earlier part of the run synced users, so that impersonation works.
    """

    def __init__(
        self, *, max_consecutive_failures: int, max_failures: int | None, synced_before: bool = False
    ) -> None:
        self._max_consecutive_failures = max_consecutive_failures
        self._max_failures = max_failures
        self._failures = 0
        self._unusable_in_a_row = 0
        self._refusals: list[FlowMateError] = []
        self._impersonates = synced_before
        self._masked = False
        self._read_in_clear = False

    @property
    def found_only_masks(self) -> bool:
        """Whether some of these users were masked and none of their secrets came in clear."""
        return self._masked and not self._read_in_clear

    def note(self, end: UserResult) -> FlowMateError | None:
        """Record a user's result. Return the error that ends the run, if it must end."""
        self._read_in_clear = self._read_in_clear or end.proves_raw_read
        if end.error is None:
            self._impersonates = True
            self._unusable_in_a_row = 0
            return None
        self._failures += 1
        self._masked = self._masked or end.error.kind == MASKED
        return self._fatal(end.error) or self._too_many(end.error)

    def at_end(self) -> FlowMateError | None:
        """Return the error of a run that tried all users and could not impersonate any."""
        return self._refusals[0] if self._refusals and not self._impersonates else None

    def _fatal(self, error: FlowMateError) -> FlowMateError | None:
        if _is_everybodys(error):
            return error
        if _is_refusal(error):
            self._refusals.append(error)
            return error if len(self._refusals) >= _REFUSED_USERS and not self._impersonates else None
        self._impersonates = self._impersonates or _was_impersonated(error)
        self._unusable_in_a_row = self._unusable_in_a_row + 1 if _is_unusable(error) else 0
        return error if self._unusable_in_a_row >= self._max_consecutive_failures else None

    def _too_many(self, error: FlowMateError) -> FlowMateError | None:
        if self._max_failures is None or self._failures <= self._max_failures:
            return None
        return TooManyFailuresError(
            f"{self._failures} users failed, more than the {self._max_failures} allowed; the last: {error}",
            advice="Run again to resume",
        )


def everything_masked() -> MaskedSecretError:
    """Return the error of a run in which everything was masked and no stored secret contradicts that."""
    return MaskedSecretError(
        "every user that could be read came back masked",
        advice="Grant the tenant's users the permission secrets.secret.readRaw, then run again",
        endpoint=GET,
    )


def _is_everybodys(error: FlowMateError) -> bool:
    """Return whether the admin token was rejected, or the client's configuration is invalid."""
    if isinstance(error, ConfigurationError):
        return not isinstance(error, InvalidIdError)
    return isinstance(error, AuthenticationError) and error.endpoint == IMPERSONATE


def _is_refusal(error: FlowMateError) -> bool:
    """Return whether a user may not be impersonated. If the first few may not, no user may."""
    return isinstance(error, PermissionDeniedError) and error.endpoint == IMPERSONATE


def _was_impersonated(error: FlowMateError) -> bool:
    """Return whether a user failed at a request with the user's token."""
    return bool(error.endpoint) and error.endpoint != IMPERSONATE


def _is_unusable(error: FlowMateError) -> bool:
    """Return whether upstream failed as a whole.

    A strange answer to one secret's GET, or a timeout because its provider hangs, only concerns that secret.
    """
    if isinstance(error, ProtocolError | UpstreamTimeoutError):
        return error.endpoint in (IMPERSONATE, LIST)
    return isinstance(error, UpstreamUnavailableError)
