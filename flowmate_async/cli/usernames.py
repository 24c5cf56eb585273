"""Reading a file of usernames: one a line, each checked before anything is sent."""

import sys
from collections.abc import Iterable
from pathlib import Path

from flowmate_async.errors import ConfigurationError, InvalidIdError
from flowmate_async.protocol import checked_username

STDIN = Path("-")


def read_usernames(path: Path) -> list[str]:
    """The usernames of a file, one a line; ``-`` is standard input.

    Raises:
        ConfigurationError: it cannot be read, or a line is empty, malformed or double; says which line.
    """
    try:
        if path == STDIN:
            return checked_usernames(sys.stdin, what="standard input")
        with path.open(encoding="utf-8-sig") as lines:
            return checked_usernames(lines, what=str(path))
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    raise ConfigurationError(f"the usernames file {path} cannot be read: {reason}")


def checked_usernames(lines: Iterable[str], *, what: str, unit: str = "line") -> list[str]:
    """The usernames of some lines.

    Raises:
        ConfigurationError: a line is empty, malformed or double, or there is none.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        username = line.rstrip("\r\n")
        try:
            checked_username(username)
        except InvalidIdError as error:
            problem = error.message
        else:
            first = seen.setdefault(username, number)
            problem = "" if first == number else f"the same as {unit} {first}"
        if problem:
            raise ConfigurationError(f"{what}, {unit} {number}: {problem}", advice="Nothing was sent")
    if not seen:
        raise ConfigurationError(f"{what} has no usernames")
    return list(seen)
