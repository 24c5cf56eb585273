"""What every transport holds an answer to, whoever parsed it, and the words for what broke.

Both transports take these rules from here, so that they agree on what an answer is.
"""

import ssl
from collections.abc import Iterable

from flowmate_async.redaction import one_line
from flowmate_async.transport.base import TransportError

ACCEPT = "application/json"
BODY_TYPE = "application/json"

BODILESS = (204, 304)
"""Statuses whose answers have no body, whatever length they say (RFC 9110 § 6.4.1)."""

NOT_CHUNKED = "a transfer encoding other than chunked"

_VERSIONS = ("1.1", "1.0")


def lowered(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name, without blanks around values; a repeated one is joined (RFC 9110 § 5.3)."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        lower, stripped = name.lower(), value.strip(" \t")
        headers[lower] = f"{headers[lower]}, {stripped}" if lower in headers else stripped
    return headers


def refusal(version: str, status: int, headers: dict[str, str]) -> str:
    """Why an answer with this head is refused, or nothing: the rules a lenient parser leaves to its caller.

    Args:
        version: of HTTP, as the answer says: ``"1.1"``.
        status: as the answer says.
        headers: by lower-case name; of the transfer encoding every blank behind it.
    """
    if version not in _VERSIONS:
        return "an answer of another version than HTTP/1.0 or 1.1"
    if status < 100 or status == 101:
        return "a switch of protocols, which was not asked for" if status == 101 else "a status below 100"
    if "content-encoding" in headers and headers["content-encoding"].lower() != "identity":
        return "a compressed answer, which was not asked for"
    # With a tab behind it, llhttp does not know the word, and reads the chunks as the body.
    if "transfer-encoding" in headers and headers["transfer-encoding"].rstrip(" ").lower() != "chunked":
        return NOT_CHUNKED
    return ""


def announced_too_large(announced: int, cap: int) -> TransportError:
    """A ``Content-Length`` over the cap."""
    return TransportError("too_large", f"{announced} bytes announced, {cap} allowed")


def grown_too_large(cap: int) -> TransportError:
    """A body that went over the cap while it was read."""
    return TransportError("too_large", f"more than the allowed {cap} bytes")


def not_trusted(error: Exception) -> TransportError:
    """A TLS handshake that failed."""
    return TransportError("tls", one_line(str(error)))


def not_connected(error: OSError) -> TransportError:
    """A connection that was not made."""
    if isinstance(error, ssl.SSLError):
        return not_trusted(error)
    said = error.strerror or str(error) or "the connection was closed while it was made"
    return TransportError("connect", one_line(said))


def not_connected_in_time() -> TransportError:
    """A connection that was not made within its limit."""
    return TransportError("connect", "the connection was not made in time")
