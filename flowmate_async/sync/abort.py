"""When a run is not worth going on with: pure rules over its outcomes."""

from flowmate_async.errors import (
    AuthenticationError,
    FlowMateError,
    MaskedSecretError,
    PermissionDeniedError,
    ProtocolError,
    TooManyFailuresError,
    UpstreamUnavailableError,
)
from flowmate_async.masks import proves_raw_read
from flowmate_async.protocol import IMPERSONATE, LIST
from flowmate_async.sync.outcomes import Outcome, UserFailed

_MASKED_USERS = 3


class AbortRules:
    """Watches outcomes and says when, and with what, the run ends at once.

    - The admin token is rejected or may not impersonate: nobody else will fare better.
    - The first users all come back masked and nothing maskable came back in clear: the permission is missing.
    - So many users in a row met an unusable upstream that it is down.
    - More users failed than was allowed.

    Args:
        patience: users in a row that may meet an unusable upstream.
        max_failures: users that may fail; ``None`` for any number.
    """

    def __init__(self, *, patience: int, max_failures: int | None) -> None:
        self._patience = patience
        self._max_failures = max_failures
        self._failures = 0
        self._unusable_in_a_row = 0
        self._masked: list[FlowMateError] = []
        self._anything_clear = False

    def note(self, outcome: Outcome) -> FlowMateError | None:
        """Take note of an outcome; the error to end the run with, if it must end."""
        if any(proves_raw_read(secret) for secret in outcome.secrets):
            self._anything_clear = True
        if not isinstance(outcome, UserFailed):
            self._unusable_in_a_row = 0
            return None
        self._failures += 1
        return self._fatal(outcome.error) or self._too_many(outcome.error)

    def at_end(self) -> FlowMateError | None:
        """The error of a run that tried everybody and found everything masked."""
        return self._masked[0] if self._masked and not self._anything_clear else None

    def _fatal(self, error: FlowMateError) -> FlowMateError | None:
        if isinstance(error, AuthenticationError | PermissionDeniedError) and error.endpoint == IMPERSONATE:
            return error
        if isinstance(error, MaskedSecretError) and not self._anything_clear:
            self._masked.append(error)
            return error if len(self._masked) >= _MASKED_USERS else None
        self._unusable_in_a_row = self._unusable_in_a_row + 1 if _is_unusable(error) else 0
        return error if self._unusable_in_a_row >= self._patience else None

    def _too_many(self, error: FlowMateError) -> FlowMateError | None:
        if self._max_failures is None or self._failures <= self._max_failures:
            return None
        return TooManyFailuresError(
            f"{self._failures} users failed, more than the {self._max_failures} allowed; the last: {error}",
            advice="Run again to resume",
        )


def _is_unusable(error: FlowMateError) -> bool:
    """Whether upstream failed as a whole; a strange answer to one secret's GET is that secret's trouble."""
    if isinstance(error, ProtocolError):
        return error.endpoint in (IMPERSONATE, LIST)
    return isinstance(error, UpstreamUnavailableError)
