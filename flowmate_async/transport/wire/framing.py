"""Reading answers off a connection: bytes in, one whole answer or a failure out. No socket, no clock.

llhttp parses, in its strict mode. What it leaves to its caller is decided here and in ``response_rules.py``:
bounds, which interim answers are skipped, when an answer ends with its connection, that nothing follows it.
"""

import httptools

from flowmate_async.transport.base import Response, TransportError
from flowmate_async.transport.response_rules import (
    BODILESS,
    HeaderFields,
    announced_too_large,
    grown_too_large,
    joined,
    refusal,
)

MAX_HEAD_BYTES = 64 * 1024
"""Maximum bytes of header names and values; also of consecutive bytes that do not belong to a body."""

MAX_HEADERS = 200
MAX_INTERIM_ANSWERS = 16
_MAX_NAMES = 512


_names: dict[bytes, str] = {}
"""Header names as received, mapped to lower case. Servers use a handful."""


class AnswerReader:
    """A push parser of the answers of one connection, one at a time.

    :meth:`expect` opens an answer. :meth:`feed` and :meth:`end` return it when it is whole, a failure when
    it is broken, and ``None`` until then. They return failures instead of raising them, since their frames
    hold the bytes. After a failure the reader, and so the connection, cannot be used again.

    Attributes:
        keep_alive: whether the connection can carry another request.
        keep_alive_hint: the value of the answer's ``Keep-Alive`` header.
        started: whether any byte of the answer has come.
    """

    __slots__ = (
        "_body",
        "_failure",
        "_feed",
        "_head",
        "_head_only",
        "_interim",
        "_max_body_bytes",
        "_parser",
        "_plain",
        "_raw",
        "_status",
        "_unlike_body",
        "_until_end",
        "_whole",
        "keep_alive",
        "keep_alive_hint",
        "started",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._raw: list[tuple[bytes, bytes]] = []
        self.expect(head_only=False, max_body_bytes=0)

    def expect(self, *, head_only: bool, max_body_bytes: int) -> None:
        """Prepare for the answer to one request.

        Args:
            head_only: the request is a HEAD, whose answer has no body whatever its headers say.
            max_body_bytes: maximum bytes of the body.
        """
        self._head_only = head_only
        self._max_body_bytes = max_body_bytes
        self._failure: TransportError | None = None
        self._plain = False
        self._whole = False
        self._until_end = False
        self._interim = self._status = self._unlike_body = 0
        self._raw.clear()
        self._head: dict[str, bytes] = {}
        self._body: bytes | bytearray = b""
        self.started: bool = False
        self.keep_alive: bool = False
        self.keep_alive_hint: bytes | None = None

    def feed(self, data: bytes | memoryview) -> Response | TransportError | None:
        """Take bytes as they were received; nothing refers to them afterwards."""
        if not self.started:
            self.started = True
            self._plain = data[:9] == b"HTTP/1.1 "  # cheaper than to have llhttp format its version
        self._unlike_body += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserUpgrade:
            return _malformed(refusal("1.1", 101, {}))
        except httptools.HttpParserError as error:
            return self._failure or _malformed(f"not a well-formed answer ({error})")
        if self._whole:
            return self._answer()
        if self._unlike_body > MAX_HEAD_BYTES:
            return _malformed(f"more than {MAX_HEAD_BYTES} bytes in a row that are not of a body")
        return None

    def end(self) -> Response | None:
        """Return the answer that ends with its connection; ``None`` if there is none, or it ended early."""
        return self._answer() if self._until_end else None

    def close(self) -> None:
        """Drop the parser, which refers to this reader, and what was received."""
        del self._parser, self._feed
        self._body = b""

    def _answer(self) -> Response:
        body, self._body = self._body, b""
        self.keep_alive_hint = self._head.get("keep-alive")
        return Response(self._status, HeaderFields(self._head), body if type(body) is bytes else bytes(body))

    def _refuse(self, failure: TransportError) -> None:
        """Stop the parser. It stops only for an exception."""
        self._failure = failure
        raise _Refused

    def _check_bounds(self, raw: list[tuple[bytes, bytes]]) -> None:
        if len(raw) > MAX_HEADERS:
            self._refuse(_malformed(f"more than {MAX_HEADERS} headers"))
        if _size(raw) > MAX_HEAD_BYTES:
            self._refuse(_malformed(f"a head of more than {MAX_HEAD_BYTES} bytes"))

    def _check_meaning(self, version: str, status: int, head: dict[str, bytes]) -> None:
        reason = refusal(version, status, head)
        if reason:
            self._refuse(_malformed(reason))

    # What llhttp reports, in this order.

    def on_message_begin(self) -> None:
        """Another answer begins: the requested one, the one after an interim one, or one too many."""
        if self._whole:
            self._refuse(_malformed("bytes after the answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers come here as well and are ignored. Runs most often, so it does least."""
        self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuse what can be refused before the body."""
        raw = self._raw
        self._status = status = self._parser.get_status_code()
        if len(raw) > MAX_HEADERS or self._unlike_body > MAX_HEAD_BYTES:
            self._check_bounds(raw)
        if 100 <= status < 200 and status != 101:
            return  # only a sign of life
        self._head = head = _by_name(raw)
        version = "1.1" if self._plain else self._parser.get_http_version()
        if version != "1.1" or status < 200 or "content-encoding" in head or "transfer-encoding" in head:
            self._check_meaning(version, status, head)
        length = head.get("content-length")
        if self._head_only:
            # llhttp cannot be told about the HEAD and waits for a body: the connection is not kept alive.
            self._whole = True
        elif length is not None:
            if int(length) > self._max_body_bytes and status not in BODILESS:
                self._refuse(announced_too_large(int(length), self._max_body_bytes))
        elif status not in BODILESS and "transfer-encoding" not in head:
            self._until_end = True

    def on_body(self, piece: bytes) -> None:
        """Collect the body: one buffer, since an object per chunk takes many times the chunk's size."""
        if self._whole:
            self._refuse(_malformed("a body after an answer that has none"))
        self._unlike_body = 0
        if not self._body:
            self._body = piece
        elif type(self._body) is bytes:
            self._body = bytearray(self._body)
            self._body += piece
        else:
            self._body += piece
        if len(self._body) > self._max_body_bytes:
            self._refuse(grown_too_large(self._max_body_bytes))

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self._status >= 200:
            self.keep_alive = self._parser.should_keep_alive()
            self._whole = True
            return
        self._interim += 1
        if self._interim > MAX_INTERIM_ANSWERS:
            self._refuse(_malformed(f"more than {MAX_INTERIM_ANSWERS} interim answers"))
        self._raw.clear()
        self._status = 0
        self._plain = False


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Stops llhttp; the reason is kept beside it."""


def _malformed(reason: str) -> TransportError:
    return TransportError("malformed", reason)


def _by_name(raw: list[tuple[bytes, bytes]]) -> dict[str, bytes]:
    """Return headers by lower-case name; repeated ones are joined."""
    try:
        head = {_names[name]: value for name, value in raw}
    except KeyError:
        lower = [(name, name.decode("ascii").lower()) for name, _ in raw]
        if len(_names) < _MAX_NAMES:
            _names.update(lower)
        head = {name: value for (_, name), (_, value) in zip(lower, raw, strict=True)}
    return (
        head
        if len(head) == len(raw)
        else joined((name.decode("ascii").lower(), value) for name, value in raw)
    )


def _size(raw: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in raw)
