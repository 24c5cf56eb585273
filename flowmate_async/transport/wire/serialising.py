"""Serialise requests. Constant parts are encoded in advance, and each user's token once."""

import weakref

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Headers, Redacted
from flowmate_async.transport.base import TransportError
from flowmate_async.transport.request_rules import NOT_SENDABLE, are_fields, is_method, is_target, is_value
from flowmate_async.transport.response_rules import ACCEPT, BODY_TYPE

_MAX_HEADS = 4096
"""Maximum :class:`Headers` whose lines are kept, since a caller may hold any number of them."""


class Serialised(Redacted, frozen=True):
    """A request as it is written. ``repr`` shows nothing of it, whichever frame it is a local of.

    Attributes:
        data: all its bytes.
        head_only: whether it is a HEAD.
    """

    data: bytes
    head_only: bool = False


class Serialiser:
    """The requests to one origin.

    The lines of a request's headers are kept while its :class:`Headers` live. So a user's token is checked
    and encoded once, and no copy of it outlives them.

    Args:
        host: the ``Host`` header.
        prefix: the path of the base URL, without a final slash.
        user_agent: the ``User-Agent`` header.

    Raises:
        ConfigurationError: one of them cannot stand in a request.
    """

    __slots__ = ("_before_target", "_heads", "_prefix", "_same_lines")

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
        self._same_lines = "".join(f"{line}\r\n" for line in lines)
        self._prefix = prefix
        self._before_target: dict[str, bytes] = {}
        self._heads: dict[int, tuple[weakref.ref[Headers], bytes]] = {}

    def serialise(
        self, method: str, path: str, headers: Headers, body: bytes | None
    ) -> Serialised | TransportError:
        """Return all bytes of a request, or why it is refused (not raised, since this frame holds it)."""
        before = self._before_target.get(method) or self._prefixed(method)
        kept = self._heads.get(id(headers))
        head = kept[1] if kept is not None and kept[0]() is headers else self._head(headers)
        if before is None or head is None or not is_target(path):
            return TransportError("malformed", NOT_SENDABLE)
        if body is None:
            return Serialised(b"".join((before, path.encode(), head, b"\r\n")), method == "HEAD")
        framing = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (BODY_TYPE.encode(), len(body))
        return Serialised(b"".join((before, path.encode(), head, framing, body)), method == "HEAD")

    def forget(self) -> None:
        """Drop every kept head."""
        self._heads.clear()

    def _head(self, headers: Headers) -> bytes | None:
        """Return the lines that follow the target, and keep them; ``None`` if they must not be sent."""
        if not are_fields(headers):
            return None
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.pairs)
        head = (self._same_lines + lines).encode("ascii")
        heads, key = self._heads, id(headers)
        if len(heads) >= _MAX_HEADS:
            heads.clear()
        heads[key] = (weakref.ref(headers, lambda _: heads.pop(key, None)), head)
        return head

    def _prefixed(self, method: str) -> bytes | None:
        if not is_method(method):
            return None
        before = f"{method} {self._prefix}".encode("ascii")
        self._before_target[method] = before
        return before
