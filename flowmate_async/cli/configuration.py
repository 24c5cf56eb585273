"""The configuration file: defaults for flags, below flags and ``FLOWMATE_*``. Never a credential.

It is the file named by ``--config``, or ``config.toml`` in the user's configuration folder; never one from
the working directory, which another user may have put there. The file and its folder must belong to this user
or to root, and must not be writable by others.
"""

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import one_line
from flowmate_async.system.private_files import home_folder, is_file, require_trusted

_KEYS = frozenset(
    {
        "admin_token_file",
        "base_url",
        "burst",
        "ca_file",
        "concurrency",
        "keep_tokens",
        "proxy",
        "rate",
        "store",
        "store_key_file",
        "transport",
        "trust_env",
        "workers",
    }
)


def default_path() -> Path | None:
    """Return the path of the user's configuration file, whether or not it exists; ``None`` without a home."""
    base, home = None, home_folder()
    if sys.platform == "win32":
        base = _absolute("APPDATA") or _below(home, "AppData", "Roaming")
    elif sys.platform == "darwin":
        base = _below(home, "Library", "Application Support")
    else:
        base = _absolute("XDG_CONFIG_HOME") or _below(home, ".config")
    return _below(base, "flowmate", "config.toml")


def _absolute(variable: str) -> Path | None:
    """Return the folder named by a variable; ignore relative paths, which depend on the working directory."""
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else None


def _below(folder: Path | None, *names: str) -> Path | None:
    return None if folder is None else folder.joinpath(*names)


def fill_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Apply the file's values to arguments that neither a flag nor the environment has set.

    Raises:
        ConfigurationError: the file was named but is missing, can be changed by another user, is not TOML, or
            has unknown keys.
    """
    named = next((argument.tokens for argument in arguments if argument.name == "--config"), [])
    path = Path(named[0].value) if named else default_path()
    if path is None or not is_file(path):
        if named:
            raise ConfigurationError(f"the configuration file {path} does not exist")
        return
    config = _read(path)
    _check(config, path)
    if "FLOWMATE_ADMIN_TOKEN" in os.environ:
        config.pop("admin_token_file", None)
    if {"FLOWMATE_STORE_KEY", "FLOWMATE_STORE_KEY_FILE"} & set(os.environ):
        config.pop("store_key_file", None)
    # Nested below its command: at the top level, cyclopts takes a key such as "store" for the command of that
    # name.
    for command in reversed(commands):
        config = {command: config}
    Dict(config, source=str(path), allow_unknown=True)(app, commands, arguments)


def _read(path: Path) -> dict[str, Any]:
    _require_trusted(path)
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
    except ValueError as error:
        reason = f"it is no TOML: {one_line(str(error))}"
    raise ConfigurationError(f"the configuration file {path} cannot be read: {reason}")


def _require_trusted(path: Path) -> None:
    """Refuse a file that another user could change: it says where the admin token is sent."""
    require_trusted(path, what="the configuration file")
    for folder in {path.parent, path.resolve().parent}:
        require_trusted(folder, what="the folder of the configuration file")


def _check(config: dict[str, Any], path: Path) -> None:
    unknown = sorted(set(config) - _KEYS)
    if any("token" in key or "key" in key or "password" in key for key in unknown):
        raise ConfigurationError(
            f"the configuration file {path} seems to hold a credential under {unknown[0]!r}",
            advice="Name a private file instead: admin_token_file, store_key_file",
        )
    if unknown:
        raise ConfigurationError(
            f"the configuration file {path} has unknown keys: {', '.join(unknown)}",
            advice=f"Known are {', '.join(sorted(_KEYS))}",
        )
