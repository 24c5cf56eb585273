"""The settings of a client, validated before anything is opened: base URL, rates, bounds.

Plain values and their checks; where they come from (arguments, environment, a file) is the caller's business.
"""

import ipaddress
from urllib.parse import urlsplit

from flowmate_async.errors import ConfigurationError

DEFAULT_BASE_URL = "https://api.platform.openintegrationhub.com"

USER_AGENT = "flowmate_async"

_LEAST_RATE = 0.001


def checked_base_url(base_url: str) -> str:
    """Return the base URL without a final slash: https, or http to this machine.

    Raises:
        ConfigurationError: it is anything else; user tokens would cross a network unencrypted.
    """
    if not isinstance(base_url, str):  # such as os.environ.get(…) of an unset variable
        raise ConfigurationError(f"the base URL is text, not {type(base_url).__name__}", advice=_example())
    if "@" in base_url:
        del base_url
        raise ConfigurationError("the base URL holds a username or password", advice=_example())
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigurationError("the base URL is not a URL", advice=_example()) from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigurationError("the base URL is not a plain http(s) URL", advice=_example())
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigurationError(
            f"the base URL is plain http to {host}", advice="Use https; http is for this machine only"
        )
    bracketed = f"[{host}]" if ":" in host else host
    where = bracketed if port is None else f"{bracketed}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}"


def proxy_problem(proxy: str, *, base_url: str) -> str:
    """Return why a proxy cannot be used, or an empty string. The URL, maybe with a password, is not shown.

    Args:
        proxy: the proxy's URL.
        base_url: FlowMate's, as :func:`checked_base_url` returned it.
    """
    try:
        parts = urlsplit(proxy)
        plain = parts.scheme == "http" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        plain = False
    if not plain or "@" in proxy:
        return "the proxy is not http://host:port, without a password"
    if not base_url.startswith("https:"):
        return "a proxy of a plain http base URL would read the admin token"
    return ""


def _example() -> str:
    return f"It looks like {DEFAULT_BASE_URL}"


def is_loopback(host: str) -> bool:
    """Return whether a URL's host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_rate(rate: float | None, burst: int, concurrency: int) -> None:
    """Check the numbers that bound traffic.

    Raises:
        ConfigurationError: a rate that is not above 0, or a burst or concurrency below 1.
    """
    if rate is not None and not _LEAST_RATE <= rate < float("inf"):
        raise ConfigurationError(
            f"rate must be at least {_LEAST_RATE} requests/s, or None for no limit, not {rate!r}"
        )
    for name, value in (("burst", burst), ("concurrency", concurrency)):
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
