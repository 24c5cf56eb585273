"""The network path to FlowMate: address, connection, certificate. No token is sent."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from flowmate_async.cli.doctor.findings import Finding, error, ok, skipped, warning
from flowmate_async.cli.exits import Exit
from flowmate_async.cli.options import Connection
from flowmate_async.redaction import one_line
from flowmate_async.transport.proxies import proxy_of
from flowmate_async.transport.tls import client_context

_SECONDS = 10.0
_EXPIRES_SOON_DAYS = 21
_DAY_SECONDS = 86_400


class _Goal(msgspec.Struct, frozen=True):
    """The host that is connected to: FlowMate, or the proxy in front of it."""

    host: str
    port: int
    tls: bool
    what: str


async def check_network(connection: Connection, base_url: str) -> AsyncIterator[Finding]:
    """Check that FlowMate's host resolves, accepts connections and has a valid certificate.

    Args:
        connection: the flags.
        base_url: FlowMate's, checked.
    """
    goal = _goal(connection, base_url)
    try:
        found = await asyncio.wait_for(
            asyncio.get_running_loop().getaddrinfo(goal.host, goal.port, type=socket.SOCK_STREAM), _SECONDS
        )
    except (OSError, TimeoutError) as problem:
        reason = _reason(problem)
        yield error(
            "address",
            f"the name {goal.host} of {goal.what} cannot be looked up: {reason}",
            "Check the base URL's host and this machine's DNS",
            code=Exit.UPSTREAM,
        )
        yield skipped("connection", f"{goal.what} has no address")
        return
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    yield ok("address", f"{goal.host} is {', '.join(addresses[:4])}")
    async for finding in _check_connection(connection, goal):
        yield finding


def _goal(connection: Connection, base_url: str) -> _Goal:
    secure = base_url.startswith("https:")
    proxy = connection.proxy or (proxy_of(base_url) if connection.trust_env and secure else None)
    host, port = _host_and_port(proxy or base_url)
    if proxy is not None:
        return _Goal(host, port or 80, tls=False, what="the proxy")
    return _Goal(host, port or (443 if secure else 80), tls=secure, what="FlowMate")


def _host_and_port(url: str) -> tuple[str, int | None]:
    """Return only host and port of a URL, which may come from the environment and hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    return host, port


async def _check_connection(connection: Connection, goal: _Goal) -> AsyncIterator[Finding]:
    began = time.monotonic()
    try:
        await _connected(goal, None)
    except (OSError, TimeoutError) as problem:
        yield error(
            "connection",
            f"{goal.what} on port {goal.port} cannot be reached: {_reason(problem)}",
            "Check the base URL, the network, and whether a proxy is needed (--proxy)",
            code=Exit.UPSTREAM,
        )
        return
    took = (time.monotonic() - began) * 1000
    yield ok("connection", f"{goal.what} accepts connections on port {goal.port} within {took:.1f} ms")
    if goal.tls:
        yield await _check_certificate(connection, goal)
    elif goal.what == "FlowMate":
        yield ok("tls", "not used: FlowMate is on this very machine")
    else:
        yield skipped("tls", "the connection to FlowMate goes through the proxy; the next checks use it")


async def _check_certificate(connection: Connection, goal: _Goal) -> Finding:
    try:
        seen = await _connected(goal, client_context(ca_file=connection.ca_file))
    except ssl.SSLCertVerificationError as problem:
        return error(
            "tls",
            f"the certificate of {goal.host} is refused: {one_line(problem.verify_message or str(problem))}",
            "Check the host name; name the authority that signed it with --ca-file",
            code=Exit.UPSTREAM,
        )
    except (OSError, TimeoutError) as problem:
        return error(
            "tls",
            f"there is no TLS connection with {goal.host}: {_reason(problem)}",
            "The server must speak TLS 1.2 or newer on that port",
            code=Exit.UPSTREAM,
        )
    return _judged(seen)


def _judged(seen: dict[str, Any]) -> Finding:
    """Judge a valid certificate by its remaining lifetime."""
    days = (ssl.cert_time_to_seconds(seen["notAfter"]) - time.time()) / _DAY_SECONDS
    text = f"{seen['version']}, and the certificate is trusted for another {days:,.0f} days"
    if days >= _EXPIRES_SOON_DAYS:
        return ok("tls", text)
    return warning("tls", text, "Have it renewed: once it has expired nothing is sent any more")


async def _connected(goal: _Goal, tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Connect and close. Return the certificate's ``notAfter`` and the TLS version, if there are any."""
    async with asyncio.timeout(_SECONDS):
        _, writer = await asyncio.open_connection(goal.host, goal.port, ssl=tls)
        channel = writer.get_extra_info("ssl_object")
        seen = {} if channel is None else {**(channel.getpeercert() or {}), "version": channel.version()}
        writer.transport.abort()
    return seen


def _reason(problem: Exception) -> str:
    if isinstance(problem, TimeoutError):
        return f"no answer within {_SECONDS:.0f} s"
    return one_line(getattr(problem, "strerror", None) or str(problem) or type(problem).__name__)
