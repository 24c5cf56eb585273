"""Programs that flags name, run without a shell."""

import shlex

from flowmate_async.errors import ConfigurationError

SECONDS = 60.0
"""How long one may run."""


def words_of(command: str, *, flag: str) -> list[str]:
    """Return the program and its arguments, quoted as in a shell.

    Raises:
        ConfigurationError: the command is empty, or its quotes are unbalanced.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise ConfigurationError(
            f"{flag} is not a command", advice="Name a program and its arguments; quote as in a shell"
        )
    return words
