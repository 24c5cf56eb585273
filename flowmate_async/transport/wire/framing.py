"""Reading answers off a connection: bytes in, one whole answer or a failure out. No socket, no clock.

llhttp parses, in its strict mode. What it leaves to its caller is decided here and in ``answers.py``: bounds,
which interim answers are passed over, when an answer ends with its connection, and that nothing follows it.
"""

import httptools

from flowmate_async.transport.answers import BODILESS, announced_too_large, grown_too_large, lowered, refusal
from flowmate_async.transport.base import Response, TransportError

MAX_HEAD_BYTES = 64 * 1024
"""Most bytes of a status line with its headers; also most bytes in a row that are not of a body."""

MAX_HEADERS = 200
MAX_INTERIM_ANSWERS = 16
_MAX_NAMES = 512


class _Names(dict[bytes, str]):
    """Header names as they came, and in lower case: servers use a handful."""

    def __missing__(self, name: bytes) -> str:
        lower = name.decode("ascii").lower()
        if len(self) < _MAX_NAMES:
            self[name] = lower
        return lower


_names = _Names()


class AnswerReader:
    """A push parser of the answers of one connection, one at a time.

    :meth:`expect` opens an answer; :meth:`feed` and :meth:`end` return it when it is whole, a failure when
    it is broken, and ``None`` while it goes on. They return failures and do not raise them, since their
    frames hold the bytes. After a failure the reader, and so the connection, is of no further use.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_cap",
        "_failure",
        "_head_only",
        "_headers",
        "_interim",
        "_parser",
        "_raw",
        "_status",
        "_unlike_body",
        "_until_end",
        "_whole",
        "keep_alive",
        "started",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._raw: list[tuple[bytes, bytes]] = []
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.expect(head_only=False, cap=0)

    def expect(self, *, head_only: bool, cap: int) -> None:
        """Get ready for the answer to one request.

        Args:
            head_only: the request is a HEAD, whose answer has no body whatever its headers say.
            cap: most bytes of the body.
        """
        self._head_only = head_only
        self._cap = cap
        self._failure: TransportError | None = None
        self._whole = False
        self._until_end = False
        self._interim = 0
        self._status = 0
        self._raw.clear()
        self._body_bytes = 0
        self._unlike_body = 0
        self.started: bool = False
        self.keep_alive: bool = False

    def feed(self, data: bytes) -> Response | TransportError | None:
        """Take bytes as they came."""
        self.started = True
        self._unlike_body += len(data)
        try:
            self._parser.feed_data(data)
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
        """The answer that ends with its connection; ``None`` when there is none, or when it ended early."""
        return self._answer() if self._until_end else None

    def close(self) -> None:
        """Let go of the parser, which holds this reader."""
        del self._parser

    def _answer(self) -> Response:
        headers, self._headers = self._headers, {}
        body = self._body
        if len(body) == 1:
            whole = body.pop()
        else:
            whole = b"".join(body)
            body.clear()
        return Response(self._status, headers, whole)

    def _refuse(self, failure: TransportError) -> None:
        """Stop the parser, by the one way it knows."""
        self._failure = failure
        raise _Refused

    # What llhttp reports, in the order it comes.

    def on_message_begin(self) -> None:
        """Another answer begins: the one asked for, the one after an interim one, or one too many."""
        if self._whole:
            self._refuse(_malformed("bytes after the answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which nobody looks at. This runs most often of all, so it does least."""
        self._raw.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete: everything that can be refused is refused before the body."""
        self._status = status = self._parser.get_status_code()
        if len(self._raw) > MAX_HEADERS:
            self._refuse(_malformed(f"more than {MAX_HEADERS} headers"))
        if self._unlike_body > MAX_HEAD_BYTES and _size(self._raw) > MAX_HEAD_BYTES:
            self._refuse(_malformed(f"a head of more than {MAX_HEAD_BYTES} bytes"))
        if 100 <= status < 200 and status != 101:
            return  # nothing but a sign of life
        self._headers = headers = _headers(self._raw)
        if reason := refusal(self._parser.get_http_version(), status, headers):
            self._refuse(_malformed(reason))
        length = headers.get("content-length")
        if self._head_only:
            # llhttp cannot be told of the HEAD and waits for a body: its connection is not kept alive.
            self._whole = True
        elif length is not None:
            if int(length) > self._cap and status not in BODILESS:
                self._refuse(announced_too_large(int(length), self._cap))
        elif status not in BODILESS and "transfer-encoding" not in headers:
            self._until_end = True

    def on_body(self, piece: bytes) -> None:
        """A part of the body."""
        if self._whole:
            self._refuse(_malformed("a body after an answer that has none"))
        self._unlike_body = 0
        self._body_bytes += len(piece)
        if self._body_bytes > self._cap:
            self._refuse(grown_too_large(self._cap))
        self._body.append(piece)

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


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Stops llhttp; the reason is kept beside it."""


def _malformed(reason: str) -> TransportError:
    return TransportError("malformed", reason)


def _headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as :func:`flowmate_async.transport.answers.lowered` has them, in a third of the time."""
    try:
        headers = {_names[name]: value.strip().decode() for name, value in raw}
    except UnicodeDecodeError:
        headers = {}
    if len(headers) == len(raw) and "transfer-encoding" not in headers:
        return headers
    pairs = [(_names[name], value.decode("utf-8", "surrogateescape")) for name, value in raw]
    headers = lowered(pairs)
    if "transfer-encoding" in headers:
        headers["transfer-encoding"] = ", ".join(
            value for name, value in pairs if name == "transfer-encoding"
        )
    return headers


def _size(raw: list[tuple[bytes, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in raw)
