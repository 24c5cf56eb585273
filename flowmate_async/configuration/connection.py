"""How FlowMate is reached, from the environment and the configuration file, by the rules of the commands."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from flowmate_async.configuration.file import read_configuration
from flowmate_async.configuration.variables import misspelled
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted
from flowmate_async.system.keyring import ask_keyring
from flowmate_async.values.settings import DEFAULT_BASE_URL, checked_base_url

KEYRING_SERVICE = "flowmate_async admin token"

_WORDS = {
    **dict.fromkeys(("yes", "y", "1", "true", "t"), True),
    **dict.fromkeys(("no", "n", "0", "false", "f"), False),
}
_TRANSPORTS = ("auto", "wire", "aiohttp")
_log = logging.getLogger("flowmate_async")


def connection_from_environment(given: dict[str, Any], *, config: Path | None) -> None:
    """Add the settings that were not given, from the environment and then from the configuration file.

    Args:
        given: arguments of a client; changed in place, so that no frame keeps a token.
        config: the configuration file; ``None`` for ``FLOWMATE_CONFIG`` or the user's own.

    Raises:
        ConfigurationError: a value or the file is invalid, or the admin token is missing.
    """
    environment = _Environment.without_empty()
    for name, near in misspelled(frozenset(environment.variables)):
        _log.warning("%s is set, and nothing reads it. Did you mean %s?", name, near)
    if config is None and "FLOWMATE_CONFIG" in environment.variables:
        config = Path(environment.variables["FLOWMATE_CONFIG"])
    file, path = read_configuration(config, frozenset(environment.variables))
    _fill(given, environment, file, path)
    token_file = given.pop("admin_token_file", None)
    if "admin_token" not in given:
        base_url = checked_base_url(given.get("base_url", DEFAULT_BASE_URL))
        given["admin_token"] = find_admin_token(token_file, base_url, environment.variables)


class _Environment(Redacted, frozen=True):
    """The environment, kept out of the locals of frames: it may hold every credential of the process."""

    variables: dict[str, str]

    @classmethod
    def without_empty(cls) -> Self:
        """Return the environment. Empty variables of this library count as unset."""
        return cls({name: value for name, value in os.environ.items() if value.strip() or not _is_ours(name)})


def _is_ours(variable: str) -> bool:
    return variable.startswith("FLOWMATE_")


def _fill(
    given: dict[str, Any], environment: _Environment, file: Mapping[str, Any], path: Path | None
) -> None:
    """Add the settings that were found and not given."""
    for name, value, source in _found(environment, file, path):
        if name not in given:
            given[name] = _SETTINGS[name](value, source)


def _found(
    environment: _Environment, file: Mapping[str, Any], path: Path | None
) -> Iterator[tuple[str, Any, str]]:
    """Yield each setting that was found, with its value and where it was found."""
    for name in _SETTINGS:
        if (variable := f"FLOWMATE_{name.upper()}") in environment.variables:
            yield name, environment.variables[variable], f"{variable} from env"
        elif name in file:
            yield name, file[name], f"[{name}] from {path}"


def find_admin_token(file: Path | None, base_url: str, environ: Mapping[str, str]) -> str | Path:
    """Return the admin token, or the path of its file: as named, from the environment, from the keyring.

    Args:
        file: the file that was named.
        base_url: FlowMate's URL. The keyring keeps one token per URL, so none is sent to another URL.
        environ: the environment.

    Raises:
        ConfigurationError: there is none.
    """
    if file is not None:
        return file
    if environ.get("FLOWMATE_ADMIN_TOKEN"):
        return environ["FLOWMATE_ADMIN_TOKEN"]
    del environ  # or an error's frames would show it
    found = ask_keyring(KEYRING_SERVICE, base_url)
    if found.text:
        return found.text
    keyring = f", and the system keyring does not answer: {found.problem}" if found.problem else ""
    raise ConfigurationError(
        f"there is no admin token{keyring}",
        advice=(
            "Set FLOWMATE_ADMIN_TOKEN, or name a private file with --admin-token-file, or put it in the "
            f"system keyring (extra 'keyring') as '{KEYRING_SERVICE}' for {base_url}"
        ),
    )


def _number(value: Any, source: str) -> float:
    try:
        return float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise _invalid(value, source, "float") from None


def _rate(value: Any, source: str) -> float | None:
    return _number(value, source) or None


def _count(value: Any, source: str) -> int:
    try:
        return round(_number(value, source))
    except (ConfigurationError, OverflowError, ValueError):
        raise _invalid(value, source, "int") from None


def _truth(value: Any, source: str) -> bool:
    known = value if isinstance(value, bool) else _WORDS.get(str(value).lower())
    if known is None:
        raise _invalid(value, source, "bool")
    return known


def _text(value: Any, source: str) -> str:
    if not isinstance(value, str):
        raise _invalid("a value", source, "text")
    return value


def _path(value: Any, source: str) -> Path:
    return Path(_text(value, source))


def _transport(value: Any, source: str) -> str:
    if value not in _TRANSPORTS:
        choices = ", ".join(f'"{name}"' for name in _TRANSPORTS)
        raise ConfigurationError(f'Invalid value "{value}" for {source}', advice=f"Choose from: {choices}")
    return str(value)


def _invalid(value: Any, source: str, kind: str) -> ConfigurationError:
    return ConfigurationError(f'Invalid value for {source}: unable to convert "{value}" into {kind}')


_SETTINGS: dict[str, Callable[[Any, str], Any]] = {
    "base_url": _text,
    "admin_token_file": _path,
    "rate": _rate,
    "burst": _count,
    "concurrency": _count,
    "ca_file": _path,
    "proxy": _text,
    "trust_env": _truth,
    "transport": _transport,
}
"""The settings that are read, with what converts each. Its messages are those of the commands."""
