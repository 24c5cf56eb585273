"""The configuration file as a source of flags."""

import os
from pathlib import Path

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from flowmate_async.configuration.file import read_configuration


def fill_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Apply the file's values to arguments that neither a flag nor the environment has set.

    Raises:
        ConfigurationError: the file was named but is missing, can be changed by another user, is not TOML, or
            has unknown keys.
    """
    named = next((argument.tokens for argument in arguments if argument.name == "--config"), [])
    config, path = read_configuration(Path(named[0].value) if named else None, frozenset(os.environ))
    # Nested below its command: at the top level, cyclopts takes a key such as "store" for the command of that
    # name.
    for command in reversed(commands):
        config = {command: config}
    if path is not None:
        Dict(config, source=str(path), allow_unknown=True)(app, commands, arguments)
