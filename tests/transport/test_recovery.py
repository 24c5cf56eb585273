"""What the library makes of a connection that breaks: sent again on another where that is harmless."""

import asyncio
import contextlib
import os
import random
import socket
from contextvars import ContextVar

import pytest

from flowmate_async import FlowMate, Headers, Limits, RetryPolicy, TransportError
from flowmate_async.engine.priority import Priority, current_priority, in_background
from flowmate_async.events import Broken, Retried
from flowmate_async.testing.scripted_server import Answer, ScriptedServer, http
from flowmate_async.testing.transport_suite import get

pytestmark = pytest.mark.anyio

TOKEN = http(b'{"token":"t","id":"i"}')
SECRET = http(
    b'{"data":{"_id":"s","name":"n","owners":[],"type":"SIMPLE","value":{"username":"u","passphrase":"p"}}}'
)
PAGE = http(b'{"data":[],"meta":{"page":1,"perPage":30,"total":0,"totalPages":0}}')
LOCK_SECONDS = 0.3
POLICY = RetryPolicy(base_seconds=0.01, lock_seconds=LOCK_SECONDS)


@pytest.fixture
def client(transport_name):
    def make(url, events):
        return FlowMate(
            admin_token="5ecr3t",
            base_url=url,
            rate=None,
            transport=transport_name,
            retry=POLICY,
            on_event=events.append,
        )

    return make


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_harmless_request_on_a_closed_connection_is_sent_again(client, ending):
    events = []
    async with ScriptedServer(TOKEN, Answer((), ending), PAGE) as server, client(server.url, events) as fm:
        assert await fm.list_secrets("u") == []
    assert [head.partition(" http")[0].partition("?")[0] for head in server.heads] == [
        "post /impersonate",
        "get /secrets/",
        "get /secrets/",
    ]
    assert server.connections == 2
    assert next(event.failure for event in events if isinstance(event, Broken)) in ("stale", "interrupted")


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_refreshing_get_is_not_sent_again_before_the_lock_ends(client, ending):
    """It may have been read before the connection closed (docs/contract/OBSERVED.md § Connections)."""
    events = []
    async with ScriptedServer(TOKEN, Answer((), ending), SECRET) as server, client(server.url, events) as fm:
        began = asyncio.get_running_loop().time()
        assert (await fm.get_secret("u", "s")).value.username == "u"
        took = asyncio.get_running_loop().time() - began
    assert len(server.requests) == 3
    assert [event.wait_seconds >= LOCK_SECONDS for event in events if isinstance(event, Retried)] == [True]
    assert took >= LOCK_SECONDS


class Echo:
    """A server that answers each request with its own path, after a random while and in two pieces."""

    def __init__(self, choose):
        self.choose = choose
        self.serving = set()

    async def __call__(self, reader, writer):
        self.serving.add(asyncio.current_task())
        try:
            while True:
                await self.answer(await reader.readuntil(b"\r\n\r\n"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def answer(self, head, writer):
        path = head.split(b" ")[1]
        await asyncio.sleep(self.choose.random() * 0.004)
        if writer.transport.is_closing():
            raise ConnectionResetError
        for part in (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path), path):
            writer.write(part)
            await writer.drain()


async def test_under_cancellations_and_deadlines_nobody_gets_the_answer_of_another(make_transport):
    """Most requests are given up at some instant or other."""
    choose = random.Random(7)
    ended = {"answered": 0, "cancelled": 0, "timeout": 0}

    async def ask(made, path):
        limits = Limits(timeout_seconds=choose.choice((0.003, 5.0)), max_body_bytes=100)
        try:
            async with asyncio.timeout(choose.choice((0.0, 0.002, 0.004, None))):
                answer = await made.send("GET", path, Headers(), None, limits)
        except TransportError:
            ended["timeout"] += 1
        except TimeoutError:
            ended["cancelled"] += 1
        else:
            ended["answered"] += 1
            assert answer.body == path.encode()

    echo = Echo(choose)
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with make_transport(url) as made:
            for batch in range(40):
                await asyncio.gather(*(ask(made, f"/{batch}-{number}") for number in range(20)))
        await asyncio.wait(echo.serving)
    assert min(ended.values()) > 5, "the test is too tame"


@pytest.mark.parametrize("what", ["an answer", "the end"])
async def test_what_waits_unread_on_an_idle_connection_is_never_the_next_answer(make_transport, what):
    """It came while the loop was busy, which has not looked at it yet."""
    async with ScriptedServer(http(b"[1]"), http(b"[2]")) as server, make_transport(server.url) as made:
        assert (await get(made)).body == b"[1]"
        writer = server.writers[-1]
        if what == "an answer":
            writer.write(http(b'["smuggled"]').pieces[0])
        else:
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as shared:
                shared.shutdown(socket.SHUT_WR)
        assert (await get(made)).body == b"[2]"


who = ContextVar("who", default="nobody")


@pytest.mark.parametrize("name", ["aiohttp", "wire"])
async def test_a_retry_goes_on_for_whom_it_was_begun(name):
    """It runs with its own caller's priority and context, not those of the caller who dialled."""
    seen = []

    def listener(_event):
        seen.append((who.get(), current_priority()))

    token, secret = http(b'{"token":"t"}'), b'{"data":{"_id":"s","type":"SIMPLE","value":{"passphrase":"p"}}}'
    async with (
        ScriptedServer(token, http(b"{}", "503 X"), http(secret)) as server,
        FlowMate(
            admin_token="a",
            base_url=server.url,
            transport=name,
            rate=None,
            retry=RetryPolicy(base_seconds=0.01),
            on_event=listener,
        ) as fm,
    ):

        async def dial():
            who.set("dialler")
            with in_background():
                await fm.impersonate("u")

        await asyncio.create_task(dial())
        who.set("caller")
        seen.clear()
        await fm.get_secret("u", "s")
    assert len(seen) >= 3
    assert set(seen) == {("caller", Priority.INTERACTIVE)}
