"""Which proxy the environment names for an origin, read as curl reads it."""

import os
import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted

_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https")
_EXAMPLE = "It looks like http://proxy.example:3128; or list the host of the base URL in NO_PROXY"


class _Proxy(Redacted, frozen=True):
    """A proxy's URL, which may hold a password."""

    url: str

    def problem(self) -> str:
        """Return why it cannot be used, or an empty string."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return "is not the URL of a proxy"
        if parts.scheme not in _SCHEMES:
            return "names a proxy that is not an HTTP proxy"
        return "" if host else "names no host"


def proxy_of(base_url: str) -> str | None:
    """Return the environment's proxy for this origin; ``None`` without one.

    A scheme that is left out is ``http``. ``ALL_PROXY`` counts if there is no ``HTTPS_PROXY``. ``NO_PROXY``
    lists hosts, domains (``example.com``, ``.example.com`` and ``*.example.com`` are the same), addresses and
    networks (``10.0.0.0/8``), each with an optional port, or ``*`` for all.

    Args:
        base_url: scheme, host and port of the origin.

    Raises:
        ConfigurationError: it is not a proxy that can be used; names the variable, not the proxy.
    """
    parts = urlsplit(base_url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if _is_exempt(host, port) or proxy_bypass(host):
        return None
    found = getproxies()
    proxy = _completed(found.get(parts.scheme) or found.get("all") or "")
    del found
    if not proxy.url:
        return None
    problem = proxy.problem()
    if not problem:
        return proxy.url
    raise ConfigurationError(f"{_variable(parts.scheme)} {problem}", advice=_EXAMPLE)


def _variable(scheme: str) -> str:
    """Return the name of the variable that was used."""
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), "the system's proxy setting")


def _completed(url: str) -> _Proxy:
    return _Proxy(f"http://{url}" if url and "://" not in url else url)


def _is_exempt(host: str, port: int) -> bool:
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return any(_covers(entry, host, port) for entry in re.split(r"[\s,]+", listed.lower()) if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of ``NO_PROXY`` covers a host and port."""
    name, only_port = _split(entry)
    if only_port not in (None, port):
        return False
    if name == "*":
        return True
    try:
        return ip_address(host) in ip_network(name, strict=False)
    except ValueError:  # at least one of them is a name
        domain = name.removeprefix("*").strip(".")
        return bool(domain) and f".{host}.".endswith(f".{domain}.")


def _split(entry: str) -> tuple[str, int | None]:
    """Return the name and the port of ``name:port``, ``[address]:port``, ``name`` or ``address``."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", entry)
    plain = bracketed or re.fullmatch(r"([^:]*):(\d+)", entry)
    if plain is None:
        return entry, None
    return plain[1], None if plain[2] is None else int(plain[2])
