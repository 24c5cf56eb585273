"""When a run ends early, and what a run that tried everybody has found out: pure rules over how users end."""

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
"""How checkpoints, and errors that another process has reported, name a masked user."""

_REFUSED_USERS = 3


class AbortRules:
    """Watches how users end and says when, and with what, the run ends at once.

    - The admin token is rejected or cannot be read: nobody else will fare better.
    - The first users may all not be impersonated: the admin token may not do it.
    - So many users in a row met an unusable upstream that it is down.
    - More users failed than was allowed.

    Masked users never end a run early: the raw-read permission belongs to each user, so the next one may be
    readable (docs/contract/OBSERVED.md § Second look). See :attr:`found_only_masks` once everybody was tried.

    Args:
        max_consecutive_failures: users in a row that may meet an unusable upstream.
        max_failures: users that may fail; ``None`` for any number.
        synced_before: an earlier part of the run has synced users, so they can be impersonated.
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
        """Whether users came masked and nothing came in clear, as far as these users tell."""
        return self._masked and not self._read_in_clear

    def note(self, end: UserResult) -> FlowMateError | None:
        """Take note of a user; return the error to end the run with, if it must end."""
        self._read_in_clear = self._read_in_clear or end.proves_raw_read
        if end.error is None:
            self._impersonates = True
            self._unusable_in_a_row = 0
            return None
        self._failures += 1
        self._masked = self._masked or end.error.kind == MASKED
        return self._fatal(end.error) or self._too_many(end.error)

    def at_end(self) -> FlowMateError | None:
        """Return the error of a run that tried everybody and could impersonate nobody."""
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
    """Return the error of a run in which everything came back masked, and nothing stored says otherwise."""
    return MaskedSecretError(
        "every user that could be read came back masked",
        advice="Grant the tenant's users the permission secrets.secret.readRaw, then run again",
        endpoint=GET,
    )


def _is_everybodys(error: FlowMateError) -> bool:
    """Return whether the admin token was rejected, or what the client was given cannot work."""
    if isinstance(error, ConfigurationError):
        return not isinstance(error, InvalidIdError)
    return isinstance(error, AuthenticationError) and error.endpoint == IMPERSONATE


def _is_refusal(error: FlowMateError) -> bool:
    """Return whether a user may not be impersonated; if the first few may not, nobody may."""
    return isinstance(error, PermissionDeniedError) and error.endpoint == IMPERSONATE


def _was_impersonated(error: FlowMateError) -> bool:
    """Return whether a user failed at something that takes the user's token."""
    return bool(error.endpoint) and error.endpoint != IMPERSONATE


def _is_unusable(error: FlowMateError) -> bool:
    """Return whether upstream failed as a whole.

    A strange answer to one secret's GET, or none because its provider hangs, is that secret's trouble.
    """
    if isinstance(error, ProtocolError | UpstreamTimeoutError):
        return error.endpoint in (IMPERSONATE, LIST)
    return isinstance(error, UpstreamUnavailableError)
