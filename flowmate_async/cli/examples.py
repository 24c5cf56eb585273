"""The examples of each command, shown by its ``--help`` and taken from its docstring.

The docstring parser drops that section; this puts it back below the command's help.
"""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from cyclopts import App

_HEADING = "Examples:"


def examples(command: Callable[..., Any]) -> list[str]:
    """Return the command lines in the ``Examples:`` section of a command's docstring."""
    lines = (inspect.getdoc(command) or "").splitlines()
    if _HEADING not in lines:
        return []
    section = lines[lines.index(_HEADING) + 1 :]
    # The section lasts as long as lines are indented.
    end = next((number for number, line in enumerate(section) if line and line[0] != " "), len(section))
    return [line for line in textwrap.dedent("\n".join(section[:end])).splitlines() if line.strip()]


def show_examples(app: App) -> None:
    """Add the examples of every command, at any depth, below its help.

    Args:
        app: with all its commands.
    """
    for name in app:
        if name.startswith("-"):
            continue
        command = app[name]
        show_examples(command)
        found = [] if command.default_command is None else examples(command.default_command)
        if found:
            command.help_epilogue = "Examples:\n\n" + "\n".join(f"- `{line}`" for line in found)
