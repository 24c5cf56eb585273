"""Origins: where a credential may be sent. Pure; ``binding.py`` decides what is sent."""

from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted
from flowmate_async.values.settings import is_loopback

Origin = tuple[str, str, int]
"""Scheme, host and port (RFC 6454)."""

_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"ws": "http", "wss": "https"}
_EXAMPLE = "An origin looks like https://api.example.com"


def origin_of(scheme: str, host: str, port: int | None) -> Origin:
    """Return the origin of a request; for a web socket, that of its initial HTTP request.

    Args:
        scheme: the URL's scheme.
        host: the URL's host, in ASCII.
        port: ``None`` for the scheme's default.
    """
    scheme = _SCHEMES.get(scheme.lower(), scheme.lower())
    return scheme, host.lower(), port if port is not None else _PORTS.get(scheme, 0)


class GivenOrigins(Redacted, frozen=True, gc=True):
    """Origins as passed in, kept out of the locals of frames that raise: a URL may hold a password.

    Attributes:
        texts: some ``scheme://host[:port]``.
    """

    texts: Iterable[str]

    def checked(self) -> frozenset[Origin]:
        """Parse them.

        Raises:
            ConfigurationError: none is given, or one is not a plain origin, or is http to another machine.
        """
        if isinstance(self.texts, str):
            raise ConfigurationError("origins is one string", advice="Pass a list of origins")
        parsed = frozenset(map(_parsed, self.texts))
        if not parsed:
            raise ConfigurationError("there are no origins", advice=f"Name where the app is. {_EXAMPLE}")
        return frozenset(map(_required, parsed))


def _parsed(text: str) -> Origin | str:
    """Return the origin, or what is wrong with it; its frame has the URL and must not be in an error."""
    try:
        parts = urlsplit(text)
        origin = origin_of(parts.scheme, parts.hostname or "", parts.port)
    except ValueError:
        return "an origin is not a URL"
    return origin if _is_plain(parts) else "an origin is more or less than scheme, host and port"


def _required(parsed: Origin | str) -> Origin:
    if isinstance(parsed, str):
        raise ConfigurationError(parsed, advice=_EXAMPLE)
    scheme, host, _ = parsed
    if scheme == "http" and not is_loopback(host):
        raise ConfigurationError(
            f"the origin http://{host} would get the credential in clear",
            advice="Use https; http is for this machine only",
        )
    return parsed


def _is_plain(parts: SplitResult) -> bool:
    # Non-ASCII names are sent as punycode; writing them so avoids confusion.
    return (
        parts.scheme in _PORTS
        and bool(parts.hostname)
        and parts.netloc.isascii()
        and "@" not in parts.netloc
        and parts.path in ("", "/")
        and not parts.query
        and not parts.fragment
    )
