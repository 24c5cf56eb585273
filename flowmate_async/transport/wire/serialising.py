"""From a request to its bytes: what never changes is encoded beforehand, and a user's token once."""

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.transport.base import TransportError
from flowmate_async.transport.header_cache import HeaderCache
from flowmate_async.transport.request_rules import NOT_SENDABLE, are_fields, is_method, is_target, is_value
from flowmate_async.transport.response_rules import ACCEPT, BODY_TYPE


class Serialised(Redacted, frozen=True):
    """A request as it is written. ``repr`` shows nothing of it, whichever frame it is a local of."""

    data: bytes


class Serialiser:
    """The requests to one origin.

    Args:
        host: the ``Host`` header.
        prefix: the path of the base URL, without a final slash.
        user_agent: the ``User-Agent`` header.

    Raises:
        ConfigurationError: one of them cannot stand in a request.
    """

    __slots__ = ("_after_target", "_before_target", "_fields", "_prefix")

    def __init__(self, *, host: str, prefix: str, user_agent: str) -> None:
        if not is_value(host) or not is_value(user_agent) or not is_target(f"{prefix}/"):
            raise ConfigurationError("the base URL or the user agent cannot stand in a request")
        lines = (
            " HTTP/1.1",
            f"Host: {host}",
            f"User-Agent: {user_agent}",
            f"Accept: {ACCEPT}",
            "Accept-Encoding: identity",
        )
        self._after_target = "".join(f"{line}\r\n" for line in lines).encode("ascii")
        self._prefix = prefix
        self._before_target: dict[str, bytes] = {}
        self._fields = HeaderCache(_lines)

    def serialise(
        self, method: str, path: str, headers: Headers, body: bytes | None
    ) -> Serialised | TransportError:
        """Return all bytes of a request, or why it is refused (not raised, since this frame holds it)."""
        before = self._before_target.get(method) or self._prefixed(method)
        fields = self._fields.of(headers)
        if before is None or fields is None or not is_target(path):
            return TransportError("malformed", NOT_SENDABLE)
        target = path.encode("ascii")
        if body is None:
            return Serialised(b"".join((before, target, self._after_target, fields, b"\r\n")))
        framing = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (BODY_TYPE.encode(), len(body))
        return Serialised(b"".join((before, target, self._after_target, fields, framing, body)))

    def forget(self) -> None:
        """Drop every kept header."""
        self._fields.forget()

    def _prefixed(self, method: str) -> bytes | None:
        if not is_method(method):
            return None
        before = f"{method} {self._prefix}".encode("ascii")
        self._before_target[method] = before
        return before


def _lines(headers: Headers) -> bytes | None:
    """Return the lines of these headers, or ``None`` if they must not be sent."""
    if not are_fields(headers):
        return None
    return "".join(f"{name}: {value}\r\n" for name, value in headers.pairs).encode("ascii")
