"""How a command ends: one line on stderr and an exit code, without a traceback for user errors."""

import os
import sys
from enum import IntEnum

import msgspec

from flowmate_async.cli.log import write_message
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
from flowmate_async.values.plain import plain

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

    def __str__(self) -> str:
        return f"{self.message}{'' if self.message.endswith('?') else '.'} {self.advice}"


def exit_code(error: FlowMateError) -> Exit:
    """Return the exit code of an error."""
    if isinstance(error, InterruptedSyncError):
        return Exit.INTERRUPTED
    if isinstance(error, ConfigurationError | StoreError | CheckpointError):
        return Exit.USAGE
    return Exit.SOME_FAILED if isinstance(error, _ONE_USERS) else Exit.UPSTREAM


class InterruptedSyncError(FlowMateError):
    """A signal stopped the command; what was acknowledged is kept."""

    @property
    def kind(self) -> str:
        """The word for it in JSON."""
        return "interrupted"


def print_error(text: str, *, event: str = "error", **fields: object) -> None:
    """Write an error as one line to stderr, whatever the text holds.

    Args:
        text: the message.
        event: what happened, in a JSON log.
        fields: whatever else is known, in a JSON log.
    """
    write_message("error", event, text, fields, limit=2000)


def print_warning(text: str, *, event: str, **fields: object) -> None:
    """Write a warning as one line to stderr; see :func:`print_error`."""
    write_message("warning", event, text, fields, limit=2000)


def print_failure(error: FlowMateError) -> None:
    """Write the error that ends a command to stderr."""
    print_error(str(error), event="failed", error=failure(error))


def failure(error: FlowMateError) -> dict[str, object]:
    """Return an error as it is printed in JSON."""
    text = str(error).removesuffix(error.advice).rstrip(" .") if error.advice else str(error)
    return {
        "kind": error.kind,
        "message": one_line(text, limit=2000),
        "advice": error.advice,
        "exit_code": int(exit_code(error)),
    }


def print_status(text: str, *, event: str = "message", limit: int = 4000, **fields: object) -> None:
    """Write a message as one line to stderr; a message that cannot be written is dropped.

    Args:
        text: the message.
        event: what happened, in a JSON log.
        limit: maximum characters of it.
        fields: whatever else is known, in a JSON log.
    """
    write_message("info", event, text, fields, limit=limit)


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
    """Write a value as one line of JSON to stdout: names in snake_case, times in ISO 8601."""
    print_data(msgspec.json.encode(plain(value)).decode())
