"""What an answer must satisfy once llhttp has parsed it, and the words for what broke."""

import ssl
from collections.abc import Mapping

from flowmate_async.redaction import one_line
from flowmate_async.transport.base import TransportError

ACCEPT = "application/json"
BODY_TYPE = "application/json"

BODILESS = (204, 304)
"""Statuses whose answers have no body, whatever length they announce (RFC 9110 § 6.4.1)."""

_BLANKS = b" \t"
_VERSIONS = ("1.1", "1.0")


def refusal(version: str, status: int, fields: Mapping[str, bytes]) -> str:
    """Return why an answer with this head is refused, or an empty string.

    These are the rules that llhttp leaves to its caller.

    Args:
        version: the HTTP version that the answer states: ``"1.1"``.
        status: the status that the answer states.
        fields: its headers by lower-case name, with every blank around the values.
    """
    if version not in _VERSIONS:
        return "an answer of another version than HTTP/1.0 or 1.1"
    if status < 100 or status == 101:
        return "a switch of protocols, which was not asked for" if status == 101 else "a status below 100"
    if "content-encoding" in fields and fields["content-encoding"].strip(_BLANKS).lower() != b"identity":
        return "a compressed answer, which was not asked for"
    # With a tab behind it, llhttp does not know the word, and reads the chunks as the body.
    if "transfer-encoding" in fields and fields["transfer-encoding"].rstrip(b" ").lower() != b"chunked":
        return "a transfer encoding other than chunked"
    return ""


def announced_too_large(announced: int, max_body_bytes: int) -> TransportError:
    """Return the failure of a ``Content-Length`` over the cap."""
    return TransportError("too_large", f"{announced} bytes announced, {max_body_bytes} allowed")


def grown_too_large(max_body_bytes: int) -> TransportError:
    """Return the failure of a body that exceeded the cap while it was read."""
    return TransportError("too_large", f"more than the allowed {max_body_bytes} bytes")


def not_trusted(error: Exception) -> TransportError:
    """Return the failure of a TLS handshake."""
    return TransportError("tls", one_line(str(error)))


def not_connected(error: OSError) -> TransportError:
    """Return the failure of a connection attempt."""
    if isinstance(error, ssl.SSLError):
        return not_trusted(error)
    said = error.strerror or str(error) or "the connection was closed while it was made"
    return TransportError("connect", one_line(said))


def not_connected_in_time() -> TransportError:
    """Return the failure of a connection attempt that took too long."""
    return TransportError("connect", "the connection was not made in time")
