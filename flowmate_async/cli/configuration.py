"""The configuration file: defaults for flags, below flags and ``FLOWMATE_*``. Never a credential.

It is the file named by ``--config``, or ``config.toml`` in the user's configuration folder; never one from
the working directory, where somebody else may have put it.
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


def default_path() -> Path:
    """Where the user's configuration file is, whether or not it exists."""
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or str(Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Application Support")
    else:
        named = os.environ.get("XDG_CONFIG_HOME", "")
        base = named if Path(named).is_absolute() else str(Path.home() / ".config")
    return Path(base) / "flowmate" / "config.toml"


def _default_path() -> Path | None:
    try:
        return default_path()
    except RuntimeError:  # a user without a home
        return None


def fill_from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give arguments that neither a flag nor the environment has set the file's values.

    Raises:
        ConfigurationError: the file is missing though it was named, is not TOML, or has unknown keys.
    """
    named = next((argument.tokens for argument in arguments if argument.name == "--config"), [])
    path = Path(named[0].value) if named else _default_path()
    if path is None or not _is_file(path):
        if named:
            raise ConfigurationError(f"the configuration file {path} does not exist")
        return
    config = _read(path)
    _check(config, path)
    if "FLOWMATE_ADMIN_TOKEN" in os.environ:
        config.pop("admin_token_file", None)
    if {"FLOWMATE_STORE_KEY", "FLOWMATE_STORE_KEY_FILE"} & set(os.environ):
        config.pop("store_key_file", None)
    # Below its command: at the top, cyclopts takes a key for the command of its name, as "store" would be.
    for command in reversed(commands):
        config = {command: config}
    Dict(config, source=str(path), allow_unknown=True)(app, commands, arguments)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # a home that is somebody else's, as cron jobs and containers have
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        reason = (error.strerror or "it cannot be opened").lower()
    except ValueError as error:
        reason = f"it is no TOML: {one_line(str(error))}"
    raise ConfigurationError(f"the configuration file {path} cannot be read: {reason}")


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
