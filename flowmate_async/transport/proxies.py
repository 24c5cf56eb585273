"""Which proxy the environment names for an origin."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_of(base_url: str) -> str | None:
    """The environment's proxy for this origin; ``None`` without one.

    Args:
        base_url: scheme and host of the origin.
    """
    parts = urlsplit(base_url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
