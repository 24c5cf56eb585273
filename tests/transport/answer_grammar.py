"""Streams of bytes a server may answer with: whole answers in every framing, and their mutations."""

import itertools
import random

import msgspec

VERSIONS = (
    ("HTTP/1.1",) * 20 + ("HTTP/1.0",) * 4 + ("HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "RTSP/1.0", "http/1.1")
)
STATUSES = ("200 OK",) * 12 + (
    "201 Created", "204 No Content", "206 Partial", "299", "301 Moved", "304 Not Modified",
    "401 Unauthorized",
    "404 Not Found", "429 Slow", "500 Oops", "503 ", "600 Odd", "999 Odder", "101 Switching",
    "99 Low", "099 Low",
    "000", "2000 Many", "100 Continue",
)  # fmt: skip
FIELDS = (
    "Content-Type: application/json", "content-type:application/json; charset=utf-8",
    "X-Odd:  a b \t", "X-Empty:",
    "X-Odd: 2", "Keep-Alive: timeout=5", "Keep-Alive: timeout=0", "Connection: close",
    "Connection: keep-alive",
    "Connection: upgrade", "Upgrade: h2c", "Content-Encoding: identity", "Content-Encoding: gzip",
    "X-High: caf\xe9",
    "X_under!#$%&'*+.^`|~: x", "Set-Cookie: a=1", "Set-Cookie: b=2", 'ETag: W/"1"', "Retry-After: 3",
    "Proxy-Connection: close", "Trailer: X-T", "Date: Mon, 01 Jan 2029 00:00:00 GMT",
)  # fmt: skip
INTERIM = (
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n",
    "HTTP/1.1 102 P\r\nX-Odd: 9\r\n\r\n",
)
BODIES = (
    b"{}",
    b"",
    b'{"a":1}',
    b"[1]\r\n",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"0\r\n\r\n",
    bytes(range(256)),
)
PIECES = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b";", b",", b"0", b"9", b"-1", b"\0",
    b"\x7f", b"\x80", b"\xff",
    b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"0\r\n\r\n", b"HTTP/1.1",
)  # fmt: skip
TRAILERS = (b"X-T: 1\r\n", b"X-T: 1\r\nX-Odd: 2\r\n", b"Content-Length: 1\r\n", b"bad\r\n")
SURPLUS = (
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"x",
    b"\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL",
    b"\0",
    b"{}",
)


class Case(msgspec.Struct, frozen=True):
    """A stream, cut into the pieces it is sent in; ``lingers``: its end does not follow at once."""

    pieces: tuple[bytes, ...]
    lingers: bool


def case(choose: random.Random) -> Case:
    """Any stream."""
    stream = answer(choose)
    if choose.random() < 0.1:
        stream += choose.choice(SURPLUS)
    for _ in range(choose.choice((0, 0, 1, 1, 1, 2, 3))):
        stream = mutated(stream, choose)
    return Case(cut(stream, choose), lingers=choose.random() < 0.2)


def answer(choose: random.Random) -> bytes:
    """A whole answer, or nearly."""
    line = f"{choose.choice(VERSIONS)} {choose.choice(STATUSES)}"
    fields = choose.sample(FIELDS, choose.randrange(5))
    body = choose.choice(BODIES)
    framing = choose.randrange(10)
    if framing < 5:
        name, blank = choose.choice(("Content-Length", "content-length")), choose.choice((" ", "", "  "))
        fields.append(f"{name}:{blank}{len(body)}")
    elif framing < 8:
        fields.append(
            f"Transfer-Encoding: {choose.choice(('chunked', 'chunked', 'Chunked', 'gzip, chunked'))}"
        )
        body = in_chunks(body, choose)
    elif framing == 8:
        fields.append(
            f"Content-Length: {choose.choice(('3', '+2', '2 ', '', '2,2', '0x2', '99', '1000000', '9' * 30))}"
        )
    choose.shuffle(fields)
    interim = "".join(choose.choice(INTERIM) for _ in range(choose.choice((0, 0, 0, 0, 1, 2))))
    return (interim + "\r\n".join([line, *fields]) + "\r\n\r\n").encode("latin-1") + body


def in_chunks(body: bytes, choose: random.Random) -> bytes:
    """A body in chunks, with extensions and trailers now and then."""
    parts = []
    while body:
        size = choose.randrange(1, len(body) + 1)
        chunk, body = body[:size], body[size:]
        extension = choose.choice((b"",) * 6 + (b";a", b";a=b", b';a="b c"', b" ", b" ;a=b"))
        parts.append(b"%x%b\r\n%b\r\n" % (size, extension, chunk))
    trailers = choose.choice(
        (b"",) * 4 + (b"X-T: 1\r\n", b"X-T: 1\r\nX-Odd: 2\r\n", b"Content-Length: 1\r\n", b"bad\r\n")
    )
    return b"".join(parts) + choose.choice((b"0", b"0", b"000")) + b"\r\n" + trailers + b"\r\n"


def mutated(stream: bytes, choose: random.Random) -> bytes:
    """The stream with one thing changed."""
    at, to = sorted(choose.choices(range(len(stream) + 1), k=2))
    to = min(to, at + 20)
    match choose.randrange(7):
        case 0:
            return stream[:at]
        case 1:
            return stream[:at] + stream[to:]
        case 2:
            return stream[:to] + stream[at:]
        case 3:
            return stream[:at] + bytes([choose.randrange(256)]) + stream[at + 1 :]
        case 4:
            return stream[:at] + choose.choice(PIECES) + stream[at:]
        case 5:
            return stream[:at] + choose.choice(PIECES) + stream[to:]
        case _:
            return stream[:at] + stream[at:].replace(
                b"\r\n", choose.choice((b"\n", b"\r", b"\r\n ", b"\r\n\r\n")), 1
            )


def cut(stream: bytes, choose: random.Random) -> tuple[bytes, ...]:
    """The stream whole, in two, in some, or in all its bytes."""
    cuts = choose.choice((0, 0, 1, 1, 3, len(stream) if len(stream) < 200 and choose.random() < 0.3 else 2))
    if cuts == len(stream):
        return tuple(stream[at : at + 1] for at in range(len(stream)))
    places = [0, *sorted(choose.choices(range(len(stream) + 1), k=cuts)), len(stream)]
    return tuple(stream[a:b] for a, b in itertools.pairwise(places) if a < b)
