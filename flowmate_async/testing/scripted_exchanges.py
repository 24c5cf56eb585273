"""The transport suite's scripts and probes: complete answers, broken ones, requests that must not be sent."""

# ruff: noqa: S101 - these are tests

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.redaction import Headers
from flowmate_async.testing.scripted_server import Answer, ScriptedServer, chunked, http
from flowmate_async.transport.base import Limits, Response, Transport, TransportError

__all__ = [
    "BAD",
    "BODY",
    "BROKE",
    "BROKEN",
    "CAP",
    "HEADERS",
    "INJECTIONS",
    "LIMITS",
    "SHORT",
    "TOKEN",
    "WHOLE",
    "OpenTransport",
    "broken_by",
    "exposed",
    "get",
]

TOKEN = "5ecr3t-" * 6
BODY = b'{"username":"5ecr3t-user"}'
HEADERS = Headers((("Authorization", f"Bearer {TOKEN}"),))
CAP = 300
"""Maximum body size that the suite allows, in bytes."""

BROKE = ("stale", "interrupted")
BAD = ("malformed", "interrupted")

WHOLE = {
    "with a length": http(b'{"a":1}'),
    "without a body": http(b""),
    "in chunks": chunked(b'{"a"', b":1}"),
    "in chunks with extensions": http(
        b'7;x=y\r\n{"a":1}\r\n0;z\r\n\r\n', "200 OK", "Transfer-Encoding: chunked", length=-1
    ),
    "in chunks with trailers": chunked(b'{"a":1}', end=b"0\r\nX-Odd: 2\r\nX-More: 3\r\n\r\n"),
    "until the end": http(b'{"a":1}', length=-1, then="close"),
    "until the end, empty": http(b"", length=-1, then="close"),
    "of HTTP/1.0": http(b'{"a":1}', version="HTTP/1.0", then="close"),
    "of HTTP/1.0, kept open": http(b'{"a":1}', "200 OK", "Connection: keep-alive", version="HTTP/1.0"),
    "of HTTP/1.0 until the end": http(b'{"a":1}', length=-1, version="HTTP/1.0", then="close"),
    "that ends the connection": http(b'{"a":1}', "200 OK", "Connection: close", then="close"),
    "without a reason": http(b'{"a":1}', "200"),
    "no content": http(b"", "204 No Content", length=-1),
    "not modified": http(b"", "304 Not Modified", length=10**6),
    "after interim answers": Answer(
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n", *http(b'{"a":1}').pieces)
    ),
    "with a header of 9 KB": http(b'{"a":1}', "200 OK", f"Content-Security-Policy: {'a' * 9000}"),
    "with 150 cookies": http(b'{"a":1}', "200 OK", *[f"Set-Cookie: c{n}=v; Path=/" for n in range(150)]),
    "with a head of 60 KB": http(b'{"a":1}', "200 OK", *[f"X-{n}: {'x' * 4000}" for n in range(15)]),
    "of exactly the cap": http(b"x" * CAP),
    "of exactly the cap, in chunks": chunked(*[b"x" * (CAP // 10)] * 10),
    "of exactly the cap, until the end": http(b"x" * CAP, length=-1, then="close"),
}
"""Complete answers, each with another framing."""

BROKEN: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "announced too large": (http(b"x" * 2 * CAP), ("too_large",)),
    "announced too large, never sent": (http(b"", length=10**12), ("too_large",)),
    "one byte too large, in chunks": (chunked(b"x" * CAP, b"x"), ("too_large",)),
    "endless chunks": (chunked(*[b"x" * 100] * 5, end=b""), ("too_large",)),
    "one byte too large, until the end": (http(b"x" * (CAP + 1), length=-1, then="close"), ("too_large",)),
    "truncated": (http(b'{"a":', length=100, then="close"), ("interrupted",)),
    "truncated by a reset": (http(b'{"a":', length=100, then="reset"), ("interrupted",)),
    "truncated chunks": (chunked(b'{"a":', end=b"", then="close"), ("interrupted",)),
    "chunks without a last one's end": (chunked(b"{}", end=b"0\r\n", then="close"), ("interrupted",)),
    "truncated head": (Answer((b"HTTP/1.1 200 OK\r\nContent-Ty",), "close"), BAD + BROKE),
    "interim answers only": (Answer((b"HTTP/1.1 100 Continue\r\n\r\n",), "close"), BROKE),
    "closed at once": (Answer((), "close"), BROKE),
    "reset at once": (Answer((), "reset"), BROKE),
    "compressed": (http(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip"), ("malformed",)),
    "compressed, said twice": (
        http(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip", "Content-Encoding: identity"),
        ("malformed",),
    ),
    "compressed for the transfer": (
        http(b"2\r\n{}\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: gzip, chunked", length=-1),
        ("malformed",),
    ),
    "in chunks, but for a tab": (
        http(b"2\r\n{}\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked\t", length=-1, then="close"),
        ("malformed",),
    ),
    "not HTTP": (Answer((b"SSH-2.0-OpenSSH_9.6\r\n\r\n",), "close"), ("malformed",)),
    "another HTTP": (http(b"{}", version="HTTP/2.0"), ("malformed",)),
    "a status of two digits": (http(b"{}", "20 OK"), ("malformed",)),
    "a status below 100": (http(b"{}", "099 Odd"), ("malformed",)),
    "another protocol": (
        http(b"", "101 Switching", "Connection: upgrade", "Upgrade: x", length=-1),
        ("malformed",),
    ),
    "a garbled length": (http(b"{}", "200 OK", "Content-Length: x", length=-1), ("malformed",)),
    "a negative length": (http(b"{}", "200 OK", "Content-Length: -2", length=-1), ("malformed",)),
    "a length with a sign": (http(b"{}", "200 OK", "Content-Length: +2", length=-1), ("malformed",)),
    "two lengths": (http(b"{}", "200 OK", "Content-Length: 99"), ("malformed",)),
    "a length beyond counting": (
        http(b"{}", "200 OK", f"Content-Length: {9**99}", length=-1),
        ("malformed",),
    ),
    "a length and chunks": (
        http(b"2\r\n{}\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked"),
        ("malformed",),
    ),
    "a garbled chunk": (
        http(b"zz\r\n{}\r\n", "200 OK", "Transfer-Encoding: chunked", length=-1, then="close"),
        BAD,
    ),
    "a chunk longer than it says": (
        http(b"1\r\n{}\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked", length=-1, then="close"),
        BAD,
    ),
    "a chunk beyond counting": (
        http(b"f" * 20 + b"\r\n", "200 OK", "Transfer-Encoding: chunked", length=-1, then="close"),
        (*BAD, "too_large"),
    ),
    "a header without a name": (http(b"{}", "200 OK", ": x"), ("malformed",)),
    "a header without a colon": (http(b"{}", "200 OK", "X"), ("malformed",)),
    "a blank before the colon": (http(b"{}", "200 OK", "X : y"), ("malformed",)),
    "a blank before the length's colon": (
        http(b"{}", "200 OK", "Content-Length : 2", length=-1),
        ("malformed",),
    ),
    "a blank before the encoding's colon": (
        http(
            b"2\r\n{}\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding : chunked", "Content-Length: 5", length=-1
        ),
        ("malformed",),
    ),
    "a folded header": (http(b"{}", "200 OK", "X: a\r\n b"), ("malformed",)),
    "a folded length": (http(b"{}", "200 OK", "Content-Length:\r\n 2", length=-1), ("malformed",)),
    "a line that ends in a bare line feed": (
        http(b"{}", "200 OK", "Content-Length: 2\nX: a", length=-1),
        ("malformed",),
    ),
    "lines that end in bare line feeds": (
        Answer((b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",)),
        ("malformed",),
    ),
    "a line that ends in a bare return": (http(b"{}", "200 OK", "X: a\rY: b"), ("malformed",)),
    "a blank after a chunk's size": (
        http(b"2 \r\n{}\r\n0\r\n\r\n", "200 OK", "Transfer-Encoding: chunked", length=-1),
        ("malformed",),
    ),
    "a chunk that ends in a bare line feed": (
        http(b"2\n{}\n0\n\n", "200 OK", "Transfer-Encoding: chunked", length=-1),
        ("malformed",),
    ),
    "a head of 1 MB": (http(b"{}", "200 OK", *[f"X-{n}: {'x' * 8000}" for n in range(130)]), ("malformed",)),
    "a thousand headers": (http(b"{}", "200 OK", *["X: 1"] * 1000), ("malformed",)),
    "a null in a header": (http(b"{}", "200 OK", "X: a\0b"), ("malformed",)),
}
"""Broken answers, and the failures to expect."""

INJECTIONS = {
    "a line break in the path": ("GET", "/a\r\nX-Evil: 1", HEADERS),
    "a bare line feed in the path": ("GET", "/a\nX-Evil: 1", HEADERS),
    "a blank in the path": ("GET", "/a HTTP/1.1", HEADERS),
    "a null in the path": ("GET", "/a\0", HEADERS),
    "an invalid path": ("GET", "x-evil.example/a", HEADERS),
    "another letter in the path": ("GET", "/é", HEADERS),
    "a line break in the method": ("GET /evil HTTP/1.1\r\n\r\nGET", "/a", HEADERS),
    "a line break in a value": ("GET", "/a", Headers((("Authorization", f"{TOKEN}\r\nX-Evil: 1"),))),
    "a bare return in a value": ("GET", "/a", Headers((("Authorization", f"{TOKEN}\rX-Evil: 1"),))),
    "a null in a value": ("GET", "/a", Headers((("Authorization", f"{TOKEN}\0"),))),
    "another alphabet in a value": ("GET", "/a", Headers((("Authorization", f"{TOKEN} 用户"),))),
    "a line break in a name": ("GET", "/a", Headers((("X: 1\r\nX-Evil", TOKEN),))),
    "a blank in a name": ("GET", "/a", Headers((("X Evil", TOKEN),))),
    "no name": ("GET", "/a", Headers((("", TOKEN),))),
    "a second length": ("POST", "/a", Headers((("Content-Length", "0"), ("Authorization", TOKEN)))),
    "a second framing": ("POST", "/a", Headers((("Transfer-Encoding", "chunked"), ("X", TOKEN)))),
    "another host": ("GET", "/a", Headers((("Host", "evil.example"), ("Authorization", TOKEN)))),
}
"""Requests that would turn into different or several requests."""

OpenTransport = Callable[[str], Transport]

LIMITS = Limits(timeout_seconds=10.0, max_body_bytes=CAP)
SHORT = Limits(timeout_seconds=0.1, max_body_bytes=CAP)

_SUITES = Path(__file__).parent


def exposed(error: BaseException) -> str:
    """Return what an error tracker would show of an error: the whole chain, with the locals of every frame.

    The frames of the suites are left out: they hold the credentials they plant.
    """
    seen: list[str] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        if (one := waiting.pop()) is None:
            continue
        shown = traceback.TracebackException.from_exception(one, capture_locals=True, compact=False)
        shown.stack[:] = [frame for frame in shown.stack if Path(frame.filename).parent != _SUITES]
        seen.append("".join(shown.format(chain=False)))
        waiting += [one.__cause__, one.__context__]
    return "\n".join(seen)


async def get(transport: Transport, path: str = "/secrets/s", *, limits: Limits = LIMITS) -> Response:
    """Send a GET with a credential."""
    return await transport.send("GET", path, HEADERS, None, limits)


async def broken_by(
    server: ScriptedServer, transport: Transport, *, limits: Limits = LIMITS, method: str = "POST"
) -> TransportError:
    """Return the failure of a failing exchange; check that it is sent at most once and leaks nothing."""
    before = len(server.requests)
    with pytest.raises(TransportError) as broken:
        await transport.send(method, "/secrets/5ecr3t-path", HEADERS, BODY, limits)
    assert len(server.requests) <= before + 1
    assert "5ecr3t" not in exposed(broken.value)
    assert broken.value.__context__ is broken.value.__cause__ is None
    return broken.value
