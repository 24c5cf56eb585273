"""The library's own transports by name, each imported only when it is chosen."""

import ssl
from pathlib import Path

from flowmate_async.errors import ConfigurationError
from flowmate_async.transport.base import Transport
from flowmate_async.transport.proxies import proxy_of
from flowmate_async.transport.tls import client_context
from flowmate_async.values.settings import USER_AGENT

TRANSPORTS = ("auto", "wire", "aiohttp")


def chosen_transport(name: str, base_url: str, *, proxy: str | None, trust_env: bool) -> str:
    """Return which transport carries requests: ``"wire"`` or ``"aiohttp"``.

    ``"auto"`` is wire wherever it can serve, and aiohttp if a proxy is configured or the environment may name
    one.

    Args:
        name: one of :data:`TRANSPORTS`.
        base_url: FlowMate's, checked.
        proxy: an explicit ``http://`` proxy.
        trust_env: take proxies from the environment.

    Raises:
        ConfigurationError: no transport has this name.
    """
    if name not in TRANSPORTS:
        raise ConfigurationError(
            f"no transport is called {name!r}",
            advice=f"There are {', '.join(map(repr, TRANSPORTS[:-1]))} and {TRANSPORTS[-1]!r}",
        )
    if name != "auto":
        return name
    return "aiohttp" if proxy is not None or _trusts_env(trust_env, base_url) else "wire"


def transport_by_name(
    name: str, base_url: str, *, ca_file: str | Path | None, proxy: str | None, trust_env: bool
) -> Transport:
    """Return a transport, not yet entered.

    Args:
        name: one of :data:`TRANSPORTS`.
        base_url: FlowMate's, checked.
        ca_file: certificate authorities (PEM) to trust instead of the system's.
        proxy: an explicit ``http://`` proxy.
        trust_env: take proxies from the environment.

    Raises:
        ConfigurationError: unknown transport, no support for proxies, or a base URL that cannot be sent.
    """
    name = chosen_transport(name, base_url, proxy=proxy, trust_env=trust_env)
    trust_env = _trusts_env(trust_env, base_url)
    has_proxy = proxy is not None or (trust_env and proxy_of(base_url) is not None)
    if name == "aiohttp":
        return _aiohttp(base_url, ca_file=ca_file, proxy=proxy, trust_env=trust_env)
    if has_proxy:
        # The proxy may hold a password, so it must not stay a local of the frame that raises.
        proxy = None
        raise ConfigurationError(
            "the wire transport has no proxies",
            advice="Use transport='auto' or 'aiohttp' to go through a proxy",
        )
    return _wire(base_url, ca_file=ca_file)


def _trusts_env(trust_env: bool, base_url: str) -> bool:  # noqa: FBT001 - a predicate of both
    """Return whether proxies of the environment count: this machine is reached without a proxy."""
    return trust_env and base_url.startswith("https:")


def _aiohttp(base_url: str, *, ca_file: str | Path | None, proxy: str | None, trust_env: bool) -> Transport:
    from flowmate_async.transport.aiohttp import AiohttpOptions, AiohttpTransport  # noqa: PLC0415

    return AiohttpTransport(
        base_url,
        user_agent=USER_AGENT,
        tls=_tls(base_url, ca_file),
        options=AiohttpOptions(proxy=proxy, trust_env=trust_env),
    )


def _wire(base_url: str, *, ca_file: str | Path | None) -> Transport:
    from flowmate_async.transport.wire import WireTransport  # noqa: PLC0415

    return WireTransport(base_url, user_agent=USER_AGENT, tls=_tls(base_url, ca_file))


def _tls(base_url: str, ca_file: str | Path | None) -> ssl.SSLContext:
    """Return the TLS context of a base URL. For plain HTTP it trusts no authority, since none is needed."""
    return client_context(ca_file=ca_file, system=base_url.startswith("https:"))
