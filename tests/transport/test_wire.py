"""The wire transport's parts: its pool, its connections, its deadlines, what it writes."""

import asyncio
import gc
import time
from types import SimpleNamespace

import pytest

from flowmate_async import ConfigurationError, Headers, Limits, TransportError
from flowmate_async.testing.scripted_exchanges import CAP, HEADERS
from flowmate_async.testing.scripted_server import Answer, ScriptedServer, http, split
from flowmate_async.testing.transport_suite import LIMITS, broken_by, get
from flowmate_async.transport.base import KEEP_ALIVE_SECONDS
from flowmate_async.transport.deadlines import Sweeper
from flowmate_async.transport.tls import client_context
from flowmate_async.transport.wire import WireOptions, WireTransport
from flowmate_async.transport.wire.connection import Connection, ReadBuffer
from flowmate_async.transport.wire.serialising import Serialised, Serialiser

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking")]


def transport(url, *, ca_file=None, **options):
    tls = client_context(ca_file=ca_file, system=False)
    return WireTransport(url, user_agent="test", tls=tls, options=WireOptions(**options))


def read(connection, answer):
    """Hand an answer to a connection as the event loop would."""
    data = answer.pieces[0]
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def bare(data, **options):
    return Answer((data,), **options)


class TestPool:
    async def test_an_idle_connection_is_closed_after_its_time(self):
        """Before the server does it."""
        async with ScriptedServer(http()) as server, transport(server.url, keep_alive_seconds=0.05) as made:
            await get(made)
            await server.gone()

    async def test_one_past_its_time_is_not_used_even_if_the_loop_was_held_up(self, monkeypatch):
        """The client has not had time to close it yet; its server has."""
        async with ScriptedServer(http(), http()) as server, transport(server.url) as made:
            await get(made)
            later = SimpleNamespace(monotonic=lambda: time.monotonic() + KEEP_ALIVE_SECONDS)
            monkeypatch.setattr("flowmate_async.transport.wire.transport.time", later)
            await get(made)
        assert server.connections == 2

    @pytest.mark.parametrize(
        ("hint", "connections"), [("timeout=0", 2), ("max=5, Timeout=0", 2), ("timeout=9", 1), ("x", 1)]
    )
    async def test_a_server_that_keeps_connections_for_less_is_believed(self, hint, connections):
        answers = [http(b"{}", "200 OK", f"Keep-Alive: {hint}") for _ in range(2)]
        async with ScriptedServer(*answers) as server, transport(server.url) as made:
            await get(made)
            await get(made)
        assert server.connections == connections

    @pytest.mark.parametrize(("idle_seconds", "connections"), [(1.5, 1), (1.7, 2)])
    async def test_it_is_kept_for_four_fifths_of_what_the_server_says(
        self, monkeypatch, idle_seconds, connections
    ):
        """The rest is for the way there: the server's own time may be over when the request arrives."""
        answers = [http(b"{}", "200 OK", "Keep-Alive: timeout=2") for _ in range(2)]
        async with ScriptedServer(*answers) as server, transport(server.url) as made:
            await get(made)
            later = SimpleNamespace(monotonic=lambda: time.monotonic() + idle_seconds)
            monkeypatch.setattr("flowmate_async.transport.wire.transport.time", later)
            await get(made)
        assert server.connections == connections

    async def test_the_connection_used_last_is_used_next_and_the_others_age(self):
        answers = [split(http(), pause_seconds=0.001)] * 3 + [http()] * 100
        async with ScriptedServer(*answers) as server, transport(server.url, keep_alive_seconds=0.3) as made:
            await asyncio.gather(*(get(made) for _ in range(3)))
            assert server.connections == 3
            for _ in range(30):
                await get(made)
                await asyncio.sleep(0.02)
            assert len(made._pool._connections) == 1
        assert server.connections == 3

    async def test_where_one_was_found_closed_its_neighbours_are_not_tried(self):
        """So that a retry after a restart of the server uses a fresh connection."""
        answers = [split(http(), pause_seconds=0.001)] * 3 + [Answer((), "close"), http(b"[2]")]
        async with ScriptedServer(*answers) as server, transport(server.url) as made:
            await asyncio.gather(*(get(made) for _ in range(3)))
            assert (await broken_by(server, made)).failure == "stale"
            assert (await get(made)).body == b"[2]"
        assert server.connections == 4

    async def test_a_head_is_the_last_on_its_connection(self):
        """There is no way to tell llhttp that an answer belongs to a HEAD."""
        async with ScriptedServer(http(b"", length=9), http()) as server, transport(server.url) as made:
            await made.send("HEAD", "/", HEADERS, None, LIMITS)
            await server.gone()

    async def test_a_connection_made_too_late_is_closed(self):
        """The transport was left while it was made."""
        async with ScriptedServer() as server:
            async with transport(server.url) as made:
                waiting = asyncio.ensure_future(get(made))
                await asyncio.sleep(0)
            with pytest.raises(TransportError, match=r"connect|interrupted"):
                await waiting
            for at in range(server.connections):
                await server.gone(connection=at)
        assert server.requests == []

    async def test_who_was_cancelled_as_the_answer_came_leaves_the_next_exchange_alone(self):
        """The connection has been used again before the cancelled task gets to run."""

        class Silent(asyncio.Transport):
            def write(self, data):
                written.append(data)

            def is_closing(self):
                return False

            def abort(self):
                raise AssertionError("closed under the next exchange")

        class Nobody:
            def released(self, connection, keep_alive_hint):
                pass

        written, first, second = [], [], []
        buffer = ReadBuffer()
        connection = Connection(Nobody(), asyncio.get_running_loop(), buffer)
        connection.connection_made(Silent())
        first_came, second_came = first.append, second.append
        connection.exchange(Serialised(b"1"), CAP, first_came)
        read(connection, http(b"[1]"))
        connection.exchange(Serialised(b"2"), CAP, second_came)
        connection.abandon(first_came)
        read(connection, http(b"[2]"))
        assert [answer.body for answer in second] == [b"[2]"]
        assert written == [b"1", b"2"]


class TestConnecting:
    async def test_it_is_bounded(self):
        """The server takes the connection and never says a word of TLS."""
        async with ScriptedServer() as server:
            url = server.url.replace("http:", "https:")
            async with transport(url, connect_seconds=0.05) as made, asyncio.timeout(3):
                assert (await broken_by(server, made)).failure == "connect"
            async with transport(url) as made:
                short = Limits(timeout_seconds=0.05, max_body_bytes=CAP)
                assert (await broken_by(server, made, limits=short)).failure == "connect"

    async def test_the_next_address_is_tried_when_one_fails(self):
        async with ScriptedServer() as gone:
            pass
        async with ScriptedServer(http()) as server, transport(server.url) as made:
            loop = asyncio.get_running_loop()
            infos = [
                (await loop.getaddrinfo("127.0.0.1", int(one.url.rpartition(":")[2]), type=1))[0]
                for one in (gone, server)
            ]
            made._pool._dialler._addresses = infos
            made._pool._dialler._asked_at = loop.time()
            assert (await get(made)).status == 200

    @pytest.fixture
    def looked_up(self, monkeypatch):
        """The hosts that asyncio's loop looked up; uvloop's cannot be watched."""
        asked, ask = [], asyncio.BaseEventLoop.getaddrinfo

        async def watched(loop, host, *args, **options):
            asked.append(host)
            return await ask(loop, host, *args, **options)

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", watched)
        return asked

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_many_connections_at_once_share_one_look_up(self, looked_up):
        async with ScriptedServer(*[http()] * 20) as server:
            looked_up.clear()
            async with transport(server.url.replace("127.0.0.1", "localhost")) as made:
                await asyncio.gather(*(get(made) for _ in range(20)))
        assert looked_up == ["localhost"]

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_addresses_are_used_for_ten_seconds(self, make_transport, looked_up, monkeypatch):
        """An upstream that moves is found again; both transports, each on its own clock."""
        now = time.monotonic()
        monkeypatch.setattr(
            "flowmate_async.transport.wire.dialling.time", SimpleNamespace(monotonic=lambda: now)
        )
        monkeypatch.setattr("aiohttp.connector.monotonic", lambda: now)
        last = http(b"{}", "200 OK", "Connection: close")
        async with (
            ScriptedServer(*[last] * 3) as server,
            make_transport(server.url.replace("127.0.0.1", "localhost")) as made,
        ):
            looked_up.clear()
            await get(made)
            now += 9.9
            await get(made)
            assert looked_up == ["localhost"]
            now += 0.2
            await get(made)
        assert looked_up == ["localhost"] * 2

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_addresses_that_failed_are_looked_up_again(self, looked_up):
        async with ScriptedServer() as server:
            pass
        async with transport(server.url.replace("127.0.0.1", "localhost")) as made:
            looked_up.clear()
            for _ in range(2):
                assert (await broken_by(server, made)).failure == "connect"
        assert looked_up == ["localhost"] * 2

    @pytest.mark.parametrize(
        "url",
        [
            "http://exämple.example",
            "ftp://h.example",
            "http:///x",
            "http://h.example/a b",
            "http://h.example/a%20b ",
            "http://h.example/päth",
            "http://h.example/a\tb",
            "http://h.example/a\r\nX-Evil: 1",
            "http://h.example/\0",
            "http://h.example/用户",
            "http://h .example",
        ],
    )
    def test_a_base_url_that_cannot_be_sent_is_a_configuration_error(self, make_transport, url):
        """Found when the transport is made, by either."""
        with pytest.raises(ConfigurationError):
            make_transport(url)

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("http://h.example", "h.example"),
            ("https://h.example:443/v1", "h.example"),
            ("http://h.example:8080", "h.example:8080"),
            ("http://[::1]:81", "[::1]:81"),
        ],
    )
    def test_the_host_is_named_with_its_port_unless_it_is_the_usual_one(self, url, host):
        request = transport(url)._serialiser.serialise("GET", "/", Headers(), None)
        assert f"\r\nHost: {host}\r\n".encode() in request.data


class TestDeadlines:
    def test_one_timer_serves_all(self):
        """Armed for the earliest; deadlines that come later cost nothing."""

        class Loop:
            def __init__(self):
                self.timers = []

            def call_later(self, seconds, callback):
                timer = asyncio.TimerHandle(seconds, callback, (), self)
                self.timers.append(timer)
                return timer

            def get_debug(self):
                return False

            def _timer_handle_cancelled(self, timer):
                pass

        loop, left = Loop(), [7e9]
        sweeper = Sweeper(lambda _: left.pop(), loop)
        for due in (5e9, 6e9, 5e9, 4e9, 9e9):
            sweeper.arm(due)
        assert [timer.cancelled() for timer in loop.timers] == [True, False]
        assert sweeper.armed_for == 4e9
        loop.timers[-1]._run()
        assert sweeper.armed_for == 7e9
        sweeper.stop()
        assert all(timer.cancelled() for timer in loop.timers[2:])

    async def test_each_exchange_keeps_its_own(self):
        """The later ones are not taken along by the first."""
        async with ScriptedServer() as server, transport(server.url) as made:
            ended = []

            async def ask(seconds):
                with pytest.raises(TransportError, match="timeout"):
                    await get(made, limits=Limits(timeout_seconds=seconds, max_body_bytes=CAP))
                ended.append(seconds)

            await asyncio.gather(*(ask(seconds) for seconds in (0.3, 0.05, 0.2, 0.1)))
        assert ended == [0.05, 0.1, 0.2, 0.3]


class TestSerialising:
    def test_a_token_is_encoded_once_and_forgotten_with_its_headers(self):
        """No copy of a credential outlives what it was made from."""
        serialiser = Serialiser(host="h.example", prefix="", user_agent="test")
        headers = Headers((("Authorization", "Bearer t"),))
        serialiser.serialise("GET", "/1", headers, None)
        (first,) = serialiser._heads.values()
        serialiser.serialise("GET", "/2", headers, None)
        (second,) = serialiser._heads.values()
        assert first is second
        del headers
        gc.collect()
        assert len(serialiser._heads) == 0

    def test_no_more_are_kept_than_the_bound(self, monkeypatch):
        monkeypatch.setattr("flowmate_async.transport.wire.serialising._MAX_HEADS", 10)
        serialiser = Serialiser(host="h.example", prefix="", user_agent="test")
        held = [Headers((("Authorization", f"Bearer {at}"),)) for at in range(100)]
        for at, headers in enumerate(held * 2):
            request = serialiser.serialise("GET", "/", headers, None)
            assert f"Bearer {at % 100}\r\n".encode() in request.data
            assert len(serialiser._heads) <= 10

    def test_leaving_the_transport_forgets_them_all(self):
        serialiser = Serialiser(host="h.example", prefix="", user_agent="test")
        headers = Headers((("Authorization", "Bearer t"),))
        serialiser.serialise("GET", "/", headers, None)
        serialiser.forget()
        assert len(serialiser._heads) == 0

    def test_a_request_shows_nothing_of_itself(self):
        serialiser = Serialiser(host="h.example", prefix="", user_agent="test")
        assert "5ecr3t" not in repr(serialiser.serialise("POST", "/5ecr3t", HEADERS, b"5ecr3t"))
        assert "5ecr3t" not in str(vars(TransportError("stale", "")))
