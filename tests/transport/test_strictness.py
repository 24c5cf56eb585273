"""What both transports read and refuse beyond the public suite: exact bounds, and how a connection ends."""

import gc
import ssl
import tracemalloc

import pytest
import trustme

from flowmate_async import Headers, Limits
from flowmate_async.testing.scripted_exchanges import BROKEN
from flowmate_async.testing.scripted_server import Answer, ScriptedServer, chunked, http, split
from flowmate_async.testing.transport_suite import broken_by, get
from flowmate_async.transport.tls import client_context
from flowmate_async.transport.wire.connection import ReadBuffer
from flowmate_async.transport.wire.framing import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_INTERIM_ANSWERS,
    AnswerReader,
)
from flowmate_async.transport.wire.header_fields import known_layouts

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking")]


@pytest.fixture(scope="module")
def ends():
    """TLS contexts of a server on this machine, and of clients that trust it."""
    authority, server, client = (
        trustme.CA(),
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        client_context(system=False),
    )
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def bare(data, **options):
    return Answer((data,), **options)


def head_of(count):
    """An answer whose header names and values have this many bytes."""
    fixed = len("Content-Type") + len("application/json") + len("Content-Length") + len("2")
    wide = [f"X-{at}: {'x' * 7997}" for at in range((count - fixed) // 8000)]
    left = (count - fixed) % 8000
    return http(b"{}", "200 OK", *wide, *([f"Y: {'y' * (left - 1)}"] if left else []))


LONG = "x" * 8000
STRICT = {
    "bytes after it": bare(b"".join(http().pieces) + b"x"),
    "another answer after it": bare(b"".join(http().pieces * 2)),
    "a bodiless answer after it": bare(b"".join(http().pieces) + b"HTTP/1.1 204 No Content\r\n\r\n"),
    "bytes after a bodiless one": bare(b"HTTP/1.1 204 No Content\r\n\r\nx"),
    "bytes after the last chunk": bare(b"".join(chunked(b"{}").pieces) + b"x"),
    "bytes after one that ends the connection": bare(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}x"
    ),
    "one header too many": http(b"{}", "200 OK", *["X: 1"] * (MAX_HEADERS - 1)),
    "one byte of the head too many": head_of(MAX_HEAD_BYTES + 1),
    "one byte of an interim head too many": bare(
        head_of(MAX_HEAD_BYTES + 1).pieces[0][:-2].replace(b"200 OK", b"103 Early") + http().pieces[0]
    ),
    "a head without an end": bare(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES + 1)),
    "a reason without an end": bare(b"HTTP/1.1 200 " + b"x" * (MAX_HEAD_BYTES + 1)),
    "trailers without an end": chunked(b"{}", end=b"0\r\nX: " + b"x" * (10 * MAX_HEAD_BYTES)),
    "a chunk extension without an end": chunked(b"{}", end=b"2;" + b"x" * (10 * MAX_HEAD_BYTES)),
    "one interim answer too many": bare(
        b"HTTP/1.1 103 Early\r\n\r\n" * (MAX_INTERIM_ANSWERS + 1) + b"".join(http().pieces)
    ),
    "another version after an interim answer": bare(
        b"HTTP/1.1 103 Early\r\n\r\n" + http(version="HTTP/2.0").pieces[0]
    ),
    "interim answers without an end": bare(
        (b"HTTP/1.1 103 Early\r\nX: " + LONG.encode() + b"\r\n\r\n") * (MAX_INTERIM_ANSWERS - 1)
    ),
}
ALLOWED = {
    "as many headers as may be": http(b"{}", "200 OK", *["X: 1"] * (MAX_HEADERS - 2)),
    "a head as large as may be": head_of(MAX_HEAD_BYTES),
    "as many interim answers as may be": bare(
        b"HTTP/1.1 103 Early\r\n\r\n" * MAX_INTERIM_ANSWERS + b"".join(http().pieces)
    ),
}


class TestBounds:
    @pytest.mark.parametrize("size", [None, 50_000])
    @pytest.mark.parametrize("name", STRICT)
    async def test_what_is_not_quite_right_closes_its_connection(self, make_transport, name, size):
        answer = STRICT[name] if size is None else split(STRICT[name], size)
        async with ScriptedServer(answer, http(b"[2]")) as server, make_transport(server.url) as made:
            assert (await broken_by(server, made)).failure == "malformed"
            await server.gone()
            assert (await get(made)).body == b"[2]"

    @pytest.mark.parametrize("size", [None, 1000])
    @pytest.mark.parametrize("name", ALLOWED)
    async def test_what_is_just_within_the_bounds_is_read(self, make_transport, name, size):
        answer = ALLOWED[name] if size is None else split(ALLOWED[name], size)
        async with ScriptedServer(answer) as server, make_transport(server.url) as made:
            assert (await get(made)).body == b"{}"

    @pytest.mark.parametrize("name", BROKEN)
    async def test_a_broken_answer_closes_its_connection_at_once(self, make_transport, name):
        async with ScriptedServer(BROKEN[name][0]) as server, make_transport(server.url) as made:
            await broken_by(server, made)
            await server.gone()

    async def test_an_unsolicited_byte_closes_the_connection_at_once(self, make_transport):
        async with ScriptedServer(http()) as server, make_transport(server.url) as made:
            await get(made)
            await server.say(b"x")
            await server.gone()

    async def test_an_end_without_the_end_of_tls_was_cut(self, make_transport, ends):
        """Its length is known by its end only, and anybody on the way can end a TCP connection."""
        server_tls, client_tls = ends
        whole = http(b'{"a":1}', length=-1, then="close")
        cut = http(b'{"a":', length=-1, then="reset")
        async with (
            ScriptedServer(whole, cut, tls=server_tls) as server,
            make_transport(server.url, tls=client_tls) as made,
        ):
            assert (await get(made)).body == b'{"a":1}'
            assert (await broken_by(server, made)).failure == "interrupted"


class TestBodies:
    BODY = bytes(range(256)) * 4096  # 1 MiB

    @pytest.mark.parametrize("framing", ["length", "chunks", "end"])
    async def test_a_large_body_in_ten_pieces_is_read(self, make_transport, framing):
        """The bound on bytes that are not of a body starts anew with each piece of it."""
        tenth = len(self.BODY) // 10 + 1
        if framing == "chunks":
            pieces = [self.BODY[at : at + tenth] for at in range(0, len(self.BODY), tenth)]
            whole = chunked(*pieces)
        elif framing == "length":
            whole = http(self.BODY)
        else:
            whole = http(self.BODY, length=-1, then="close")
        limits = Limits(timeout_seconds=10.0, max_body_bytes=len(self.BODY))
        answer = split(whole, tenth)
        async with ScriptedServer(answer) as server, make_transport(server.url) as made:
            assert (await get(made, limits=limits)).body == self.BODY

    @pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.long), 16])
    def test_small_chunks_take_no_more_memory_than_a_few_bodies(self, size):
        """Not an object per chunk: that is 30 times the limit."""
        cap, chunk = 2**20, b"%x\r\n%b\r\n" % (size, b" " * size)
        head = http(b"", "200 OK", "Transfer-Encoding: chunked", length=-1).pieces[0]
        reader, block = AnswerReader(), chunk * 1024
        reader.max_body_bytes = cap
        assert reader.feed(head) is None
        tracemalloc.start()
        try:
            for _ in range(cap // size // 1024):
                assert reader.feed(block) is None
            whole = reader.feed(b"0\r\n\r\n")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(whole.body) == cap
        assert peak < 3 * cap

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_nothing_read_stays_in_the_memory_that_connections_share(
        self, make_transport, ends, scheme
    ):
        """Complete answers, broken ones, and unexpected bytes."""
        server_tls, client_tls = ends
        script = [http(b'"5ecr3t"'), http(b'"5ecr3t"', "200 OK", "X : 5ecr3t"), http(b'"5ecr3t"')]
        async with (
            ScriptedServer(*script, tls=server_tls if scheme == "https" else None) as server,
            make_transport(server.url, tls=client_tls) as made,
        ):
            assert (await get(made)).body == b'"5ecr3t"'
            await broken_by(server, made)
            await get(made)
            await server.say(b"5ecr3t")
            await server.gone()
            buffers = [one for one in gc.get_objects() if isinstance(one, ReadBuffer)]
            assert buffers
            assert not any(bytes(one.view).strip(b"\0") for one in buffers)


class TestHeaders:
    async def test_they_are_a_mapping_that_shows_no_values(self, make_transport):
        answer = http(b"{}", "200 OK", "X-Odd: 5ecr3t", "X-HIGH: caf\xc3\xa9", "x-odd:\t2 ")
        async with ScriptedServer(answer) as server, make_transport(server.url) as made:
            headers = (await get(made)).headers
        assert dict(headers) == {
            "content-type": "application/json",
            "x-odd": "5ecr3t, 2",
            "x-high": "café",
            "content-length": "2",
        }
        assert headers == dict(headers)
        assert len(headers) == 4
        assert headers.get("x-none") is None
        assert headers.get("x-none", "a") == "a"
        assert "X-Odd" not in headers
        assert "5ecr3t" not in repr(headers)
        assert "x-odd" in repr(headers)

    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_a_kept_alive_answer_of_one_request_is_not_the_next(self, make_transport, method):
        """What was read of one answer is gone when the next is read."""
        first = http(b"[1]", "404 Not Found", "X-Odd: 1")
        async with ScriptedServer(first, http(b"")) as server, make_transport(server.url) as made:
            await get(made)
            limits = Limits(timeout_seconds=10.0, max_body_bytes=300)
            second = await made.send(method, "/", Headers(), None, limits)
        assert (second.status, second.body, "x-odd" in second.headers) == (200, b"", False)
        assert server.connections == 1


class TestReuse:
    """What one answer leaves in a connection never changes how the next one is read."""

    @pytest.mark.parametrize(
        "answer",
        [
            bare(b"HTTP/1.1 103 Early\r\n\r\n" * MAX_INTERIM_ANSWERS + http().pieces[0]),
            split(bare(b"HTTP/1.1 204 No Content\r\nX: " + b"x" * (MAX_HEAD_BYTES // 2) + b"\r\n\r\n"), 9000),
        ],
        ids=["interim answers", "heads"],
    )
    async def test_bounds_start_anew_with_each_answer(self, make_transport, answer):
        async with ScriptedServer(*[answer] * 4) as server, make_transport(server.url) as made:
            for _ in range(4):
                assert (await get(made)).status in (200, 204)
        assert server.connections == 1

    async def test_trailers_are_no_headers_of_the_next_answer(self, make_transport):
        first = chunked(b"[1]", end=b"0\r\nX-Trailer: 1\r\n\r\n")
        async with ScriptedServer(first, http()) as server, make_transport(server.url) as made:
            assert "x-trailer" not in (await get(made)).headers
            assert dict((await get(made)).headers) == {
                "content-type": "application/json",
                "content-length": "2",
            }
        assert server.connections == 1

    async def test_a_head_is_the_last_on_a_connection_that_was_used_before(self, make_transport):
        async with ScriptedServer(http(), http(b"", length=9)) as server, make_transport(server.url) as made:
            await get(made)
            await made.send("HEAD", "/", Headers(), None, Limits(timeout_seconds=10.0, max_body_bytes=300))
            await server.gone()
        assert server.connections == 1

    async def test_the_names_of_headers_are_remembered_for_a_few_answers_only(self, make_transport):
        """A server could have another name in each."""
        answers = [http(b"{}", "200 OK", f"X-{number}: {number}") for number in range(200)]
        async with ScriptedServer(*answers) as server, make_transport(server.url) as made:
            for number in range(200):
                assert (await get(made)).headers[f"x-{number}"] == str(number)
                assert len(known_layouts) <= 64
