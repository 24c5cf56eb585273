"""Reading answers off a connection: bytes in, one whole answer or a failure out. No socket, no clock.

llhttp parses, in its strict mode. What it leaves to its caller is decided here and in ``response_rules.py``:
bounds, which interim answers are skipped, when an answer ends with its connection, that nothing follows it.
"""

import httptools

from flowmate_async.transport.base import Response, TransportError
from flowmate_async.transport.response_rules import BODILESS, announced_too_large, grown_too_large, refusal
from flowmate_async.transport.wire.header_fields import HeaderFields, known_layouts, layout_of

MAX_HEAD_BYTES = 64 * 1024
"""Maximum bytes of header names and values; also of consecutive bytes that do not belong to a body."""

MAX_HEADERS = 200
MAX_INTERIM_ANSWERS = 16

_NO_HEADERS = HeaderFields({}, ())


class AnswerReader:
    """A push parser of the answers of one connection, one at a time.

    :meth:`feed` and :meth:`end` return an answer when it is whole, a failure when it is broken, and ``None``
    until then. They return failures instead of raising them, since their frames hold the bytes. After a
    failure the reader, and so the connection, cannot be used again.

    What an answer changes is set back when it is whole, so that the next one needs no preparation.

    Attributes:
        max_body_bytes: maximum bytes of the body; the caller sets it before each request.
        head_only: the request is a HEAD, whose answer has no body whatever its headers say.
        keep_alive: whether the connection can carry another request after this answer.
        keep_alive_hint: the value of the answer's ``Keep-Alive`` header.
        started: whether any byte of the answer has come.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_failure",
        "_feed",
        "_head",
        "_interim",
        "_names",
        "_parser",
        "_plain",
        "_status",
        "_unlike_body",
        "_until_end",
        "_values",
        "head_only",
        "keep_alive",
        "keep_alive_hint",
        "max_body_bytes",
        "started",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._failure: TransportError | None = None
        self._answer: Response | None = None  # once it is whole
        self._plain = self._until_end = False
        self._interim = self._status = self._unlike_body = 0
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._head = _NO_HEADERS
        self._body: bytes | bytearray = b""
        self.max_body_bytes: int = 0
        self.head_only: bool = False
        self.keep_alive: bool = False
        self.keep_alive_hint: bytes | None = None
        self.started: bool = False

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
        answer = self._answer
        if answer is not None:
            self._answer = None
            self._interim = self._unlike_body = 0
            self.started = False
            return answer
        if self._unlike_body > MAX_HEAD_BYTES:
            return _malformed(f"more than {MAX_HEAD_BYTES} bytes in a row that are not of a body")
        return None

    def end(self) -> Response | None:
        """Return the answer that ends with its connection; ``None`` if there is none, or it ended early."""
        return Response(self._status, self._head, bytes(self._body)) if self._until_end else None

    def close(self) -> None:
        """Drop the parser, which refers to this reader, and what was received."""
        del self._parser, self._feed
        self._head, self._body = _NO_HEADERS, b""

    def _refuse(self, failure: TransportError) -> None:
        """Stop the parser. It stops only for an exception."""
        self._failure = failure
        raise _Refused

    def _check_bounds(self, names: list[bytes], values: list[bytes]) -> None:
        if len(names) > MAX_HEADERS:
            self._refuse(_malformed(f"more than {MAX_HEADERS} headers"))
        if sum(map(len, names)) + sum(map(len, values)) > MAX_HEAD_BYTES:
            self._refuse(_malformed(f"a head of more than {MAX_HEAD_BYTES} bytes"))

    def _check_meaning(self, status: int, fields: dict[str, bytes]) -> None:
        version = "1.1" if self._plain else self._parser.get_http_version()
        reason = refusal(version, status, fields)
        if reason:
            self._refuse(_malformed(reason))

    # Called by llhttp, in this order.

    def on_message_begin(self) -> None:
        """Another answer begins: the requested one, the one after an interim one, or one too many."""
        if self._answer is not None:
            self._refuse(_malformed("bytes after the answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers come here as well. Runs most often, so it does least."""
        self._names.append(name)
        self._values.append(value)

    def on_headers_complete(self) -> None:
        """Refuse what can be refused before the body."""
        names, values = self._names, self._values
        self._names, self._values = [], []
        self._status = status = self._parser.get_status_code()
        if len(names) > MAX_HEADERS or self._unlike_body > MAX_HEAD_BYTES:
            self._check_bounds(names, values)
        if 100 <= status < 200 and status != 101:
            return  # an interim answer, which is ignored
        key = tuple(names)
        layout = known_layouts.get(key) or layout_of(key)
        if layout.repeats:
            values = layout.joined(values)
        self._head = HeaderFields(layout.positions, values)
        if layout.coded or status < 200 or not self._plain:
            self._check_meaning(status, dict(zip(layout.positions, values, strict=True)))
        self.keep_alive_hint = None if layout.keep_alive is None else values[layout.keep_alive]
        if self.head_only:
            # llhttp cannot be told about the HEAD and waits for a body: the connection is not kept alive.
            self._answer, self.keep_alive = Response(status, self._head, b""), False
        elif layout.length is not None:
            length = int(values[layout.length])
            if length > self.max_body_bytes and status not in BODILESS:
                self._refuse(announced_too_large(length, self.max_body_bytes))
        elif status not in BODILESS and not layout.chunked:
            self._until_end, self.keep_alive = True, False

    def on_body(self, piece: bytes) -> None:
        """Collect the body: one buffer, since an object per chunk takes many times the chunk's size."""
        if self._answer is not None:
            self._refuse(_malformed("a body after an answer that has none"))
        self._unlike_body = 0
        if not self._body:
            self._body = piece
        elif type(self._body) is bytes:
            self._body = bytearray(self._body)
            self._body += piece
        else:
            self._body += piece
        if len(self._body) > self.max_body_bytes:
            self._refuse(grown_too_large(self.max_body_bytes))

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self._names:  # trailers, which are ignored
            self._names, self._values = [], []
        if self._status >= 200:
            self.keep_alive = self._parser.should_keep_alive()
            head, body = self._head, self._body
            self._head, self._body = _NO_HEADERS, b""
            self._answer = Response(self._status, head, body if type(body) is bytes else bytes(body))
            return
        self._interim += 1
        if self._interim > MAX_INTERIM_ANSWERS:
            self._refuse(_malformed(f"more than {MAX_INTERIM_ANSWERS} interim answers"))
        self._status = 0
        self._plain = False


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Stops llhttp; the reason is kept beside it."""


def _malformed(reason: str) -> TransportError:
    return TransportError("malformed", reason)
