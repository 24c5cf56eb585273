"""When a run is not worth going on with: pure rules over how its users end."""

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
from flowmate_async.protocol import IMPERSONATE, LIST
from flowmate_async.sync.ends import UserEnd

_UNPERMITTED_USERS = 3


class AbortRules:
    """Watches how users end and says when, and with what, the run ends at once.

    - The admin token is rejected or cannot be read: nobody else will fare better.
    - The first users may all not be impersonated, or all come back masked: the permission is missing.
    - So many users in a row met an unusable upstream that it is down.
    - More users failed than was allowed.

    Args:
        patience: users in a row that may meet an unusable upstream.
        max_failures: users that may fail; ``None`` for any number.
        synced_before: an earlier part of the run has synced users, so no permission is missing.
    """

    def __init__(self, *, patience: int, max_failures: int | None, synced_before: bool = False) -> None:
        self._patience = patience
        self._max_failures = max_failures
        self._failures = 0
        self._unusable_in_a_row = 0
        self._unpermitted: list[FlowMateError] = []
        self._permitted = synced_before

    def note(self, end: UserEnd) -> FlowMateError | None:
        """Take note of a user; the error to end the run with, if it must end."""
        if end.proves_raw_read:
            self._permitted = True
        if end.error is None:
            self._unusable_in_a_row = 0
            return None
        self._failures += 1
        return self._fatal(end.error) or self._too_many(end.error)

    def at_end(self) -> FlowMateError | None:
        """The error of a run that tried everybody and was permitted nothing."""
        return self._unpermitted[0] if self._unpermitted and not self._permitted else None

    def _fatal(self, error: FlowMateError) -> FlowMateError | None:
        if _is_everybodys(error):
            return error
        if _is_permission(error) and not self._permitted:
            self._unpermitted.append(error)
            return error if len(self._unpermitted) >= _UNPERMITTED_USERS else None
        self._unusable_in_a_row = self._unusable_in_a_row + 1 if _is_unusable(error) else 0
        return error if self._unusable_in_a_row >= self._patience else None

    def _too_many(self, error: FlowMateError) -> FlowMateError | None:
        if self._max_failures is None or self._failures <= self._max_failures:
            return None
        return TooManyFailuresError(
            f"{self._failures} users failed, more than the {self._max_failures} allowed; the last: {error}",
            advice="Run again to resume",
        )


def _is_everybodys(error: FlowMateError) -> bool:
    """Whether the admin token was rejected, or what the client was given cannot work."""
    if isinstance(error, ConfigurationError):
        return not isinstance(error, InvalidIdError)
    return isinstance(error, AuthenticationError) and error.endpoint == IMPERSONATE


def _is_permission(error: FlowMateError) -> bool:
    """Whether a permission was missing; for everybody, if it is for the first few users."""
    denied = isinstance(error, PermissionDeniedError) and error.endpoint == IMPERSONATE
    return denied or isinstance(error, MaskedSecretError)


def _is_unusable(error: FlowMateError) -> bool:
    """Whether upstream failed as a whole.

    A strange answer to one secret's GET, or none because its provider hangs, is that secret's trouble.
    """
    if isinstance(error, ProtocolError | UpstreamTimeoutError):
        return error.endpoint in (IMPERSONATE, LIST)
    return isinstance(error, UpstreamUnavailableError)
