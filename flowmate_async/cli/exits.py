"""How a command ends: one line on stderr and an exit code, never a traceback for a user's mistake."""

import contextlib
import os
import re
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
from flowmate_async.redaction import one_line

_CONTROL = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
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
    INTERRUPTED = 130


def exit_code(error: FlowMateError) -> Exit:
    """The exit code of an error: whose fault it is."""
    if isinstance(error, ConfigurationError | StoreError | CheckpointError):
        return Exit.USAGE
    return Exit.SOME_FAILED if isinstance(error, _ONE_USERS) else Exit.UPSTREAM


def complain(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    say(f"flowmate: {text}", limit=2000)


def say(text: str, *, limit: int = 4000) -> None:
    """One line of message on stderr, where messages belong; nobody misses it when nobody can read it.

    Args:
        text: what to say.
        limit: most characters of it.
    """
    # A closed pipe or a full disk under the log must not change how the command ends.
    with contextlib.suppress(OSError):
        print(one_line(text, limit=limit), file=sys.stderr)  # noqa: T201


def put(text: str) -> None:
    """A line of data on stdout; nothing once nobody reads it any more, so that the exit code stays true.

    Raises:
        ConfigurationError: it cannot be written, as on a full disk.
    """
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        reason = error.strerror
        # What is still buffered must not be tried again while exiting.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ConfigurationError(f"standard output cannot be written: {reason}") from None


def put_json(value: object) -> None:
    """A value as a line of JSON; upstream's control characters escaped, also those that JSON allows."""
    encoded = msgspec.json.encode(value).decode()
    put(_CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", encoded))
