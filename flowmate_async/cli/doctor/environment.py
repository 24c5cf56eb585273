"""This machine and its settings: base URL, variables, token, open-file limit. Nothing is sent."""

import importlib.util
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from flowmate_async import __version__
from flowmate_async.cli.doctor.findings import Finding, error, failed, ok, warning
from flowmate_async.cli.options import Connection
from flowmate_async.configuration.file import default_path
from flowmate_async.configuration.variables import misspelled
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import one_line
from flowmate_async.system.private_files import is_file, read_private_text
from flowmate_async.transport.factory import chosen_transport
from flowmate_async.values.settings import checked_base_url

_SPARE_DESCRIPTORS = 64
"""File descriptors for the store, the interpreter and whatever the process started with."""


def check_environment(connection: Connection, env: Mapping[str, str]) -> Iterator[Finding]:
    """Run every check that needs no network.

    Args:
        connection: the flags.
        env: the environment.
    """
    yield _check_version()
    yield _check_configuration(connection)
    yield from _check_variables(env)
    yield _check_token_source(connection, env)
    yield from _check_descriptors(connection)


def _check_version() -> Finding:
    loop = "with uvloop" if importlib.util.find_spec("uvloop") else "on asyncio's own loop"
    return ok("version", f"flowmate_async {__version__} on Python {platform.python_version()}, {loop}")


def _check_configuration(connection: Connection) -> Finding:
    try:
        base_url = checked_base_url(connection.base_url)
        connection.client()
    except ConfigurationError as problem:
        if problem.message != "there is no admin token":  # which has its own finding
            return failed("configuration", problem)
    rate = f"{connection.rate:g} requests/s" if connection.rate else "no rate limit"
    return ok("configuration", f"{base_url}, {rate}, {_transport(connection)}; {_file(connection)}")


def _transport(connection: Connection) -> str:
    """Return the configured transport, and the one it resolves to."""
    chosen = chosen_transport(
        connection.transport, connection.base_url, proxy=connection.proxy, trust_env=connection.trust_env
    )
    return f"{chosen} (auto)" if connection.transport == "auto" else chosen


def _file(connection: Connection) -> str:
    if connection.config is not None:
        return f"settings from {connection.config}"
    path = default_path()
    return "no settings file" if path is None or not is_file(path) else f"settings from {path}"


def _check_variables(env: Mapping[str, str]) -> Iterator[Finding]:
    for name, near in misspelled(env):
        shown = one_line(name, limit=80)
        yield warning("variables", f"{shown} is set, and nothing reads it", f"Did you mean {near}?")


def _check_token_source(connection: Connection, env: Mapping[str, str]) -> Finding:
    path, in_variable = connection.admin_token_file, bool(env.get("FLOWMATE_ADMIN_TOKEN"))
    try:
        if path is not None:
            return _check_token_file(path, in_variable=in_variable)
        connection.client()
    except ConfigurationError as problem:
        return failed("token file" if path is not None else "token source", problem)
    return ok("token source", "FLOWMATE_ADMIN_TOKEN" if in_variable else "the system keyring")


def _check_token_file(path: Path, *, in_variable: bool) -> Finding:
    if not read_private_text(path, what="the admin token file"):
        return error("token file", f"{path} is empty", "Put the admin token into it, and nothing else")
    if in_variable:
        return warning(
            "token file",
            f"{path} is read, and FLOWMATE_ADMIN_TOKEN is set as well and ignored",
            "Unset one of them",
        )
    return ok("token file", f"{path} is private")


def _check_descriptors(connection: Connection) -> Iterator[Finding]:
    """Check whether the process may open enough connections."""
    try:
        import resource  # noqa: PLC0415 - POSIX only
    except ImportError:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connection.concurrency + _SPARE_DESCRIPTORS
    if limit not in (resource.RLIM_INFINITY, -1) and limit < needed:
        yield warning(
            "descriptors",
            f"this process may open {limit} files, and concurrency {connection.concurrency} needs {needed}",
            f"ulimit -n {max(1024, needed)}, or a lower --concurrency",
        )
