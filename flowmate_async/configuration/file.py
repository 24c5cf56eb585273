"""The configuration file: defaults below arguments, flags and ``FLOWMATE_*``. Never a credential.

It is the file named by ``--config``, or ``config.toml`` in the user's configuration folder; never one from
the working directory, which another user may have put there. The file and its folder must belong to this user
or to root, and must not be writable by others.
"""

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import one_line
from flowmate_async.system.private_files import home_folder, is_file, require_trusted

_KEYS = frozenset(
    {
        *("admin_token_file", "base_url", "burst", "ca_file", "concurrency", "proxy", "rate", "transport"),
        *("trust_env", "store", "store_key_file", "workers"),
        *("keep_tokens", "max_failures", "max_removed_share", "max_staleness", "removed", "type", "volatile"),
        *("metrics_file", "report"),
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


def read_configuration(named: Path | None, variables: Collection[str]) -> tuple[dict[str, Any], Path | None]:
    """Return the file's values, and its path if there is one.

    Left out is the place of a credential that the environment has.

    Args:
        named: the file that was asked for; ``None`` for the user's own, which may be missing.
        variables: the names of the variables that are set.

    Raises:
        ConfigurationError: the file was named but is missing, can be changed by another user, is not TOML, or
            has unknown keys.
    """
    path = named or default_path()
    if path is None or not is_file(path):
        if named is not None:
            raise ConfigurationError(f"the configuration file {path} does not exist")
        return {}, None
    config = _read(path)
    _check(config, path)
    if "FLOWMATE_ADMIN_TOKEN" in variables:
        config.pop("admin_token_file", None)
    if {"FLOWMATE_STORE_KEY", "FLOWMATE_STORE_KEY_FILE"} & set(variables):
        config.pop("store_key_file", None)
    return config, path


def _read(path: Path) -> dict[str, Any]:
    # Only here: ``python -m`` imports the package while the working directory is where Python looks first.
    import tomllib  # noqa: PLC0415

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
