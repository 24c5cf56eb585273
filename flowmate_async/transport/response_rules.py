"""What an answer must satisfy once llhttp has parsed it, and the words for what broke."""

import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

from flowmate_async.redaction import one_line
from flowmate_async.transport.base import TransportError

T = TypeVar("T")

ACCEPT = "application/json"
BODY_TYPE = "application/json"

BODILESS = (204, 304)
"""Statuses whose answers have no body, whatever length they announce (RFC 9110 § 6.4.1)."""

_BLANKS = b" \t"
_VERSIONS = ("1.1", "1.0")


class HeaderFields(Mapping[str, str]):
    """Headers by lower-case name. A value is decoded when it is read, since most never are.

    ``repr`` shows the names only.

    Args:
        received: values as they were received; see :func:`joined`.
    """

    __slots__ = ("_received",)

    def __init__(self, received: Mapping[str, bytes]) -> None:
        self._received = received

    def __getitem__(self, name: str) -> str:
        return self._received[name].strip(_BLANKS).decode("utf-8", "surrogateescape")

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, default: T, /) -> str | T: ...
    def get(self, name: str, default: Any = None, /) -> Any:
        """Return the value of a header, or the default: the inherited method takes twice as long."""
        received = self._received.get(name)
        return default if received is None else received.strip(_BLANKS).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return iter(self._received)

    def __len__(self) -> int:
        return len(self._received)

    def __contains__(self, name: object) -> bool:
        return name in self._received

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._received)})"


def joined(pairs: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """Return headers by name. A repeated header is joined with commas (RFC 9110 § 5.3)."""
    fields: dict[str, bytes] = {}
    for name, value in pairs:
        before = fields.get(name)
        fields[name] = value if before is None else b"%b, %b" % (before.strip(_BLANKS), value.strip(_BLANKS))
    return fields


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
