"""How a command ends: one line on stderr and an exit code, never a traceback for a user's mistake."""

import sys
from enum import IntEnum

from flowmate_async.errors import (
    CheckpointError,
    ConfigurationError,
    CredentialExpiredError,
    FlowMateError,
    IncompleteListingError,
    RefreshFailedError,
    SecretNotFoundError,
    StoreError,
    TooManyFailuresError,
    UserNotFoundError,
)
from flowmate_async.redaction import one_line

_ONE_USERS = (
    CredentialExpiredError,
    IncompleteListingError,
    RefreshFailedError,
    SecretNotFoundError,
    TooManyFailuresError,
    UserNotFoundError,
)


class Exit(IntEnum):
    """The exit codes of every command."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    UPSTREAM = 3
    INTERRUPTED = 130


def exit_code(error: FlowMateError) -> Exit:
    """The exit code of an error: whose fault it is."""
    if isinstance(error, ConfigurationError | StoreError | CheckpointError):
        return Exit.USAGE
    return Exit.SOME_FAILED if isinstance(error, _ONE_USERS) else Exit.UPSTREAM


def complain(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    print(f"flowmate: {one_line(text, limit=2000)}", file=sys.stderr)  # noqa: T201


def say(text: str) -> None:
    """One line of message on stderr, where messages belong."""
    print(one_line(text, limit=4000), file=sys.stderr)  # noqa: T201


def put(text: str) -> None:
    """One line of data on stdout."""
    print(text)  # noqa: T201
