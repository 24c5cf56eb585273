"""How a command ends: one line on stderr and an exit code, without a traceback for user errors."""

import contextlib
import os
import sys
from enum import IntEnum

import msgspec

from flowmate_async.errors import (
    CheckpointError,
    ConfigurationError,
    CredentialExpiredError,
    CredentialMissingError,
    FlowMateError,
    IncompleteListingError,
    RefreshFailedError,
    SecretNotFoundError,
    StoreError,
    TooManyFailuresError,
    UserNotFoundError,
)
from flowmate_async.redaction import escaped, one_line

_ONE_USERS = (
    CredentialExpiredError,
    CredentialMissingError,
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
    CRASHED = 70
    INTERRUPTED = 130


class UsageError(ConfigurationError):
    """A command line that cannot be parsed."""


def exit_code(error: FlowMateError) -> Exit:
    """Return the exit code of an error."""
    if isinstance(error, ConfigurationError | StoreError | CheckpointError):
        return Exit.USAGE
    return Exit.SOME_FAILED if isinstance(error, _ONE_USERS) else Exit.UPSTREAM


def print_error(text: str) -> None:
    """Write an error as one line to stderr, whatever the text holds."""
    print_status(f"flowmate: {text}", limit=2000)


def print_status(text: str, *, limit: int = 4000) -> None:
    """Write a message as one line to stderr; a message that cannot be written is dropped.

    Args:
        text: the message.
        limit: maximum characters of it.
    """
    # A closed pipe or a full disk under the log must not change how the command ends.
    with contextlib.suppress(OSError):
        print(one_line(text, limit=limit), file=sys.stderr)  # noqa: T201


def print_data(text: str) -> None:
    """Write a line of data to stdout, with untrusted control characters escaped.

    Once the reader has closed the pipe, as ``head`` does, nothing is written and nothing fails.

    Raises:
        ConfigurationError: it cannot be written, as on a full disk.
    """
    print_styled(escaped(text))


def print_styled(text: str) -> None:
    """Write a line with terminal styles; untrusted text in it must be escaped already.

    Raises:
        ConfigurationError: it cannot be written, as on a full disk.
    """
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        reason = error.strerror
        # The remaining buffer must not be flushed again while exiting.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ConfigurationError(f"standard output cannot be written: {reason}") from None


def print_json(value: object) -> None:
    """Write a value as one line of JSON to stdout."""
    print_data(json_text(value))


def json_text(value: object) -> str:
    """Return a value as JSON with terminal control characters escaped."""
    return escaped(msgspec.json.encode(value).decode())
