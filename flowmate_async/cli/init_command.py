"""``flowmate init``: writes the configuration file, and private files for the token and the key."""

import getpass
import json
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flowmate_async.access.admin import AdminToken
from flowmate_async.cli.exits import print_status
from flowmate_async.cli.options import Connection
from flowmate_async.configuration.file import default_path
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted, shown_path
from flowmate_async.stores import StoreKey, needs_key, open_store, read_key_file, write_key_file
from flowmate_async.stores.url import StoreUrl, absolute
from flowmate_async.system.private_files import create_private, write_private_atomically
from flowmate_async.values.settings import checked_base_url

_FILES = ("sqlite:///", "jsonl+age:///")
_KEY_VARIABLES = {"FLOWMATE_STORE_KEY", "FLOWMATE_STORE_KEY_FILE"}


class _Token(Redacted, frozen=True):
    """The admin token, out of the locals of frames."""

    text: str


def init(
    *,
    store: Annotated[
        str | None,
        Parameter(env_var="FLOWMATE_STORE", help="The store's URL; by default, a file beside the others."),
    ] = None,
    folder: Annotated[
        Path | None, Parameter(help="Where the files are written; by default, your configuration folder.")
    ] = None,
    connection: Connection = Connection(),
) -> int:
    """Write a configuration file, the admin token and a store key (mode 0600), then run flowmate doctor.

    On a terminal it asks for what is missing. Elsewhere, the token comes from FLOWMATE_ADMIN_TOKEN, from the
    file named by --admin-token-file, or from standard input. No existing file is overwritten.

    Examples:
        flowmate init

        flowmate init --base-url https://flowmate.example --admin-token-file token --store postgresql://me@db/app

    Args:
        connection: How FlowMate is reached; what differs from the defaults is written.
    """
    asks = sys.stdin is not None and sys.stdin.isatty()
    config = _place(folder)
    base_url = connection.base_url
    if asks and base_url == Connection().base_url:
        base_url = _asked("FlowMate's URL", base_url)
    base_url = checked_base_url(base_url)
    token = None if connection.admin_token_file else _token(asks=asks)
    if store is None:
        store = f"sqlite:///{config.parent / 'credentials.db'}"
        store = _asked("Store", store) if asks else store
    store = _absolute(store)
    sealed = needs_key(store)
    open_store(store, key=StoreKey.generate() if sealed else None, create=False)  # which checks the URL
    settings = _settings(connection) | {"base_url": base_url, "store": store}
    config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if token is not None:
        settings["admin_token_file"] = str(config.parent / "token")
        _create(config.parent / "token", token)
    if sealed and not _KEY_VARIABLES & set(os.environ):
        settings["store_key_file"] = str(_key(config.parent / "store.key", age=store.startswith("jsonl")))
    write_private_atomically(config, _toml(settings).encode())
    print_status(f"Wrote {shown_path(config)}")
    return _doctor(config)


def _place(folder: Path | None) -> Path:
    """Return the path of the configuration file to write.

    Raises:
        ConfigurationError: it exists, its folder does not, or the working directory was deleted.
    """
    config = default_path() if folder is None else absolute(folder) / "config.toml"
    if config is None:
        raise ConfigurationError("there is no configuration folder", advice="Name a folder with --folder")
    if config.exists():
        raise ConfigurationError(
            f"{shown_path(config)} exists already", advice="Edit it, or name another folder with --folder"
        )
    return config


def _asked(question: str, default: str) -> str:
    """Ask on the terminal. Return the answer, or the default if it is empty."""
    print(f"{question} [{default}]: ", end="", file=sys.stderr, flush=True)  # noqa: T201 - a question
    return sys.stdin.readline().strip() or default


def _token(*, asks: bool) -> _Token:
    """Return the admin token from the environment, the terminal or standard input.

    Raises:
        ConfigurationError: there is none, or no header can carry it.
    """
    token = _Token(os.environ.get("FLOWMATE_ADMIN_TOKEN", ""))
    if not token.text and asks:
        token = _Token(getpass.getpass("Admin token (not shown): ", stream=sys.stderr).strip())
    elif not token.text and sys.stdin is not None:
        token = _Token(sys.stdin.readline().strip())
    if not token.text:
        raise ConfigurationError(
            "there is no admin token",
            advice="Set FLOWMATE_ADMIN_TOKEN, name a private file with --admin-token-file, or pipe it in",
        )
    AdminToken(token.text).check()
    return token


def _absolute(store: str) -> str:
    """Return the store's URL; that of a file does not depend on the working directory."""
    for prefix in _FILES:
        if (path := StoreUrl.of(store).path_after(prefix)) is not None:
            return f"{prefix}{path}"
    return store


def _create(path: Path, token: _Token) -> None:
    if not create_private(path, f"{token.text}\n".encode()):
        raise ConfigurationError(
            f"{shown_path(path)} exists already", advice=f"Use it with --admin-token-file {shown_path(path)}"
        )


def _key(path: Path, *, age: bool) -> Path:
    """Make a store key, unless there is one from an earlier attempt."""
    if path.exists():
        read_key_file(path)
        return path
    write_key_file(path, age=age)
    print_status(f"Wrote a new key to {shown_path(path)}. Keep a copy: only this key opens the store.")
    return path


def _settings(connection: Connection) -> dict[str, Any]:
    """Return the flags that differ from their defaults; no file depends on the working directory.

    Raises:
        ConfigurationError: a path is relative, and the working directory is gone.
    """
    values = {field.name: getattr(connection, field.name) for field in fields(connection)}
    return {
        name: str(absolute(value)) if isinstance(value, Path) else value
        for name, value in values.items()
        if name != "config" and value != getattr(Connection(), name)
    }


def _toml(settings: dict[str, Any]) -> str:
    """Return flat settings as TOML, whose strings, numbers and booleans are written as in JSON."""
    return "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in sorted(settings.items())
    )


def _doctor(config: Path) -> int:
    from flowmate_async.cli.app import run  # noqa: PLC0415 - it imports the commands

    code = run(["doctor", "--config", str(config)])
    flag = "" if config == default_path() else f" --config {shown_path(config)}"
    print_status(f"Next: flowmate sync --all-users{flag}")
    return code
