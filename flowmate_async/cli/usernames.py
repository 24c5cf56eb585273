"""Reading a file of usernames: one per line, each checked before anything is sent."""

import io
import sys
from collections.abc import Iterable
from pathlib import Path

from flowmate_async.contract.ids import checked_username
from flowmate_async.errors import ConfigurationError, InvalidIdError

STDIN = Path("-")


def read_usernames(path: Path) -> list[str]:
    """Return the usernames of a file in UTF-8, one per line; ``-`` is standard input.

    Raises:
        ConfigurationError: it cannot be read, or a line is empty, malformed or a duplicate; names the line.
    """
    try:
        if path == STDIN:
            # As bytes, since piped input is UTF-8 regardless of the terminal's encoding.
            piped = io.TextIOWrapper(io.BytesIO(sys.stdin.buffer.read()), encoding="utf-8-sig")
            return checked_usernames(piped, what="standard input")
        with path.open(encoding="utf-8-sig") as lines:
            return checked_usernames(lines, what=str(path))
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    raise ConfigurationError(f"the usernames file {path} cannot be read: {reason}")


def checked_usernames(lines: Iterable[str], *, what: str, unit: str = "line") -> list[str]:
    """Return the usernames of some lines.

    Raises:
        ConfigurationError: a line is empty, malformed or a duplicate, or there are no lines.
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
