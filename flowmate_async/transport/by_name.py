"""The library's own transports by name, each imported only when it is chosen."""

import ssl
from pathlib import Path

from flowmate_async.errors import ConfigurationError
from flowmate_async.settings import USER_AGENT
from flowmate_async.transport.base import Transport
from flowmate_async.transport.proxies import proxy_of
from flowmate_async.transport.tls import client_context

TRANSPORTS = ("aiohttp", "wire")


def transport_by_name(
    name: str, base_url: str, *, ca_file: str | Path | None, proxy: str | None, trust_env: bool
) -> Transport:
    """A transport, not yet entered.

    Args:
        name: one of :data:`TRANSPORTS`.
        base_url: FlowMate's, checked.
        ca_file: certificate authorities (PEM) to trust instead of the system's.
        proxy: an explicit ``http://`` proxy.
        trust_env: take proxies from the environment.

    Raises:
        ConfigurationError: there is no such transport, its extra is not installed, or it has no proxies.
    """
    # What is on this machine is reached without a proxy.
    trust_env = trust_env and base_url.startswith("https:")
    if name == "aiohttp":
        return _aiohttp(base_url, ca_file=ca_file, proxy=proxy, trust_env=trust_env)
    if name != "wire":
        raise ConfigurationError(
            f"no transport is called {name!r}", advice="There are " + " and ".join(map(repr, TRANSPORTS))
        )
    if proxy is not None or (trust_env and proxy_of(base_url) is not None):
        # The proxy may hold a password, so it must not stay a local of the frame that raises.
        proxy = None
        raise ConfigurationError(
            "the wire transport has no proxies", advice="Use transport='aiohttp' to go through a proxy"
        )
    return _wire(base_url, ca_file=ca_file)


def _aiohttp(base_url: str, *, ca_file: str | Path | None, proxy: str | None, trust_env: bool) -> Transport:
    from flowmate_async.transport.aiohttp import AiohttpOptions, AiohttpTransport  # noqa: PLC0415

    return AiohttpTransport(
        base_url,
        user_agent=USER_AGENT,
        tls=_tls(base_url, ca_file),
        options=AiohttpOptions(proxy=proxy, trust_env=trust_env),
    )


def _wire(base_url: str, *, ca_file: str | Path | None) -> Transport:
    try:
        from flowmate_async.transport.wire import WireTransport  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "httptools":
            raise
        missing = True
    else:
        missing = False
    if missing:
        raise ConfigurationError(
            "the wire transport needs httptools, which is not installed",
            advice="Install the extra: pip install 'flowmate-async[wire]'",
        )
    return WireTransport(base_url, user_agent=USER_AGENT, tls=_tls(base_url, ca_file))


def _tls(base_url: str, ca_file: str | Path | None) -> ssl.SSLContext:
    """The context of a base URL's connections; plain HTTP has no use for one, and its trusts nobody."""
    return client_context(ca_file=ca_file, system=base_url.startswith("https:"))
