"""The laws of a transport, as tests that any transport can run.

Derive from :class:`TransportSuite` in a test module of yours and say how your transport is made::

    class TestMyTransport(TransportSuite):
        @pytest.fixture
        def open_transport(self):
            return lambda base_url: MyTransport(base_url)

Needs pytest and anyio's plugin, which comes with anyio. Nothing here knows any particular transport.
"""

# ruff: noqa: S101 - these are tests

import asyncio
import contextlib

import pytest

from flowmate_async.testing.immediate_laws import ImmediateLaws
from flowmate_async.testing.scripted_exchanges import (
    BODY,
    BROKE,
    BROKEN,
    CAP,
    HEADERS,
    INJECTIONS,
    LIMITS,
    SHORT,
    TOKEN,
    WHOLE,
    OpenTransport,
    broken_by,
    exposed,
    get,
)
from flowmate_async.testing.scripted_server import SILENCE, Answer, ScriptedServer, http, split
from flowmate_async.transport.base import TransportError

__all__ = [
    "LIMITS",
    "SHORT",
    "OpenTransport",
    "TransportSuite",
    "broken_by",
    "exposed",
    "get",
]


class TransportSuite(ImmediateLaws):
    """Contract tests: derive, and override :meth:`open_transport`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> object:
        """The event loop to run on."""
        return "asyncio"

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        """Return a function that creates a transport to a base URL, not yet entered."""
        raise NotImplementedError("override the fixture open_transport")

    # Requests.

    async def test_the_request_is_sent_as_asked_and_no_cookie_is_kept(
        self, open_transport: OpenTransport
    ) -> None:
        """Encoded brackets stay encoded, no compression is asked for, and a cookie never comes back."""
        cookie = http(b"{}", "200 OK", "Set-Cookie: id=1; Path=/")
        async with ScriptedServer(cookie, http()) as server, open_transport(server.url + "/v1") as made:
            await get(made, "/secrets/?page%5Bsize%5D=3")
            await made.send("POST", "/impersonate", HEADERS, BODY, LIMITS)
        first, second = server.heads
        assert first.startswith("get /v1/secrets/?page%5bsize%5d=3 http/1.1\r\n")
        assert f"\r\nauthorization: bearer {TOKEN.lower()}\r\n" in first
        assert f"\r\nhost: {server.url.removeprefix('http://')}\r\n" in first
        assert "\r\naccept-encoding: identity\r\n" in first
        assert first.endswith("\r\n\r\n")
        assert "content-length" not in first
        assert second.startswith("post /v1/impersonate http/1.1\r\n")
        assert "\r\ncontent-type: application/json\r\n" in second
        assert f"\r\ncontent-length: {len(BODY)}\r\n" in second
        assert second.endswith("\r\n\r\n" + BODY.decode())
        assert "cookie" not in second

    @pytest.mark.parametrize("name", INJECTIONS)
    async def test_a_request_that_would_be_another_is_not_sent(
        self, open_transport: OpenTransport, name: str
    ) -> None:
        """No byte of it is sent, and the refused data is not shown."""
        method, path, headers = INJECTIONS[name]
        async with ScriptedServer(http()) as server, open_transport(server.url) as made:
            with pytest.raises(TransportError) as refused:
                await made.send(method, path, headers, BODY, LIMITS)
        assert refused.value.failure == "malformed"
        assert server.requests == []
        assert "5ecr3t" not in exposed(refused.value)
        assert "evil" not in exposed(refused.value).lower()

    # Whole answers.

    @pytest.mark.parametrize("size", [None, 1])
    @pytest.mark.parametrize("name", WHOLE)
    async def test_an_answer_is_read_however_it_is_framed_and_cut(
        self, open_transport: OpenTransport, name: str, size: int | None
    ) -> None:
        """So is the next one, on the same connection or a new one."""
        answer = WHOLE[name] if size is None else split(WHOLE[name], size)
        async with ScriptedServer(answer, http(b"[2]")) as server, open_transport(server.url) as made:
            first, second = await get(made), await get(made)
        status = {"no content": 204, "not modified": 304}.get(name, 200)
        body = b"" if status != 200 or name.endswith(("empty", "without a body")) else b'{"a":1}'
        body = b"x" * CAP if "exactly the cap" in name else body
        assert (first.status, first.body) == (status, body)
        assert "link" not in first.headers
        assert "x-odd" not in second.headers
        assert second.body == b"[2]"
        assert server.connections == (2 if WHOLE[name].then == "close" else 1)

    async def test_a_head_is_answered_without_a_body(self, open_transport: OpenTransport) -> None:
        """Whatever ``Content-Length`` it has."""
        head, after = http(b"", length=10**6), http(b"[2]")
        async with ScriptedServer(head, after) as server, open_transport(server.url) as made:
            answer = await made.send("HEAD", "/", HEADERS, None, LIMITS)
            assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "1000000")
            assert (await get(made)).body == b"[2]"

    async def test_header_names_are_lower_case_and_repeated_headers_joined(
        self, open_transport: OpenTransport
    ) -> None:
        """Without the surrounding blanks (RFC 9110 § 5.3, § 5.5)."""
        answer = http(b"{}", "404 Not Found", "X-Odd:  1 ", "ETAG: a", "x-odd: 2", "X-Empty:")
        async with ScriptedServer(answer) as server, open_transport(server.url) as made:
            received = await get(made)
        assert received.status == 404
        assert received.headers["x-odd"] == "1, 2"
        assert received.headers["etag"] == "a"
        assert received.headers["x-empty"] == ""

    @pytest.mark.parametrize(
        "status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"]
    )
    async def test_no_redirect_is_followed(self, open_transport: OpenTransport, status: str) -> None:
        """A token must never reach another origin."""
        async with ScriptedServer(http()) as elsewhere:
            answer = http(b"", status, f"Location: {elsewhere.url}/x")
            async with ScriptedServer(answer) as server, open_transport(server.url) as made:
                assert (await get(made)).status == int(status[:3])
        assert elsewhere.connections == 0

    async def test_many_at_once_each_get_their_own_answer(self, open_transport: OpenTransport) -> None:
        """The sender decides how many are in flight."""
        async with (
            ScriptedServer(*[http(b"%d" % number) for number in range(50)]) as server,
            open_transport(server.url) as made,
        ):
            answers = await asyncio.gather(*(get(made, f"/{number}") for number in range(50)))
        served = [request.split(b" ")[1] for request in server.requests]
        assert {b"/%d" % at: answer.body for at, answer in enumerate(answers)} == {
            path: b"%d" % number for number, path in enumerate(served)
        }

    # Broken answers.

    @pytest.mark.parametrize("size", [None, 3])
    @pytest.mark.parametrize("name", BROKEN)
    async def test_a_broken_answer_is_a_failure_and_never_the_next_answer(
        self, open_transport: OpenTransport, name: str, size: int | None
    ) -> None:
        """It is sent once and leaks nothing, and the next request gets its own answer."""
        answer, failures = BROKEN[name]
        answer = answer if size is None else split(answer, size)
        async with ScriptedServer(answer, http(b"[2]")) as server, open_transport(server.url) as made:
            assert (await broken_by(server, made)).failure in failures
            assert (await get(made)).body == b"[2]"

    @pytest.mark.parametrize("parted", [0, 1, 2], ids=["at once", "after the head", "within the body"])
    async def test_bytes_after_an_answer_are_never_the_next_answer(
        self, open_transport: OpenTransport, parted: int
    ) -> None:
        """Otherwise a server that miscounts would give one user's secret to another."""
        data = b"".join(http(b"{}").pieces + http(b'{"whose":"smuggled"}').pieces)
        at = data.index(b"{}") + parted - 1 if parted else 0
        smuggled = Answer((data[:at], data[at:]), pause_seconds=0.01)
        async with ScriptedServer(smuggled, http(b"[2]")) as server, open_transport(server.url) as made:
            with contextlib.suppress(TransportError):
                assert (await get(made)).body == b"{}"
            assert (await get(made)).body == b"[2]"

    async def test_an_answer_that_nobody_asked_for_is_never_the_next_answer(
        self, open_transport: OpenTransport
    ) -> None:
        """It arrives while the connection is idle; the connection is closed."""
        async with ScriptedServer(http(), http(b"[2]")) as server, open_transport(server.url) as made:
            await get(made)
            await server.say(b"".join(http(b'{"whose":"smuggled"}').pieces))
            await asyncio.sleep(0.02)
            assert (await get(made)).body == b"[2]"

    # Time.

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(SILENCE, id="nothing"),
            pytest.param(http(b"{", length=100), id="half a body"),
            pytest.param(split(http(b"x" * 250), pause_seconds=0.01), id="a byte now and then"),
        ],
    )
    async def test_an_exchange_ends_at_its_deadline(
        self, open_transport: OpenTransport, answer: Answer
    ) -> None:
        """However much data arrives meanwhile; the connection is closed."""
        async with ScriptedServer(answer, http(b"[2]")) as server, open_transport(server.url) as made:
            assert (await broken_by(server, made, limits=SHORT)).failure == "timeout"
            await server.gone()
            assert (await get(made)).body == b"[2]"

    async def test_a_cancelled_exchange_closes_its_connection(self, open_transport: OpenTransport) -> None:
        """A caller's own timeout chains the cancellation and its frames."""
        half = http(b'{"whose":', length=100)
        async with ScriptedServer(half, http(b"[2]")) as server, open_transport(server.url) as made:
            with pytest.raises(TimeoutError) as late:
                async with asyncio.timeout(0.1):
                    await made.send("POST", "/5ecr3t-path", HEADERS, BODY, LIMITS)
            await server.gone()
            assert (await get(made)).body == b"[2]"
        assert "5ecr3t" not in exposed(late.value)

    # Connections.

    async def test_an_idle_connection_is_used_again(self, open_transport: OpenTransport) -> None:
        """Making one costs more than a request."""
        async with ScriptedServer(*[http()] * 3) as server, open_transport(server.url) as made:
            for _ in range(3):
                await get(made)
        assert server.connections == 1

    async def test_a_connection_that_closed_while_idle_is_not_used(
        self, open_transport: OpenTransport
    ) -> None:
        """The server keeps idle connections for 5 s (docs/contract/OBSERVED.md § Connections)."""
        async with ScriptedServer(http(), http(b"[2]")) as server, open_transport(server.url) as made:
            await get(made)
            server.hang_up()
            await server.gone()
            await asyncio.sleep(0.01)
            assert (await get(made)).body == b"[2]"
        assert server.connections == 2

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("ending", ["close", "reset"])
    async def test_a_request_on_a_closed_connection_is_sent_once(
        self, open_transport: OpenTransport, method: str, ending: str
    ) -> None:
        """The library decides whether to retry: the request may be refreshing a credential."""
        end = Answer((), "close" if ending == "close" else "reset")
        async with ScriptedServer(http(), end, http()) as server, open_transport(server.url) as made:
            await get(made)
            failure = (await broken_by(server, made, method=method)).failure
        assert failure == "stale" if ending == "close" else failure in BROKE
        assert (len(server.requests), server.connections) == (2, 1)

    async def test_nobody_listening_is_a_failure_to_connect(self, open_transport: OpenTransport) -> None:
        """Nothing was sent."""
        async with ScriptedServer() as server:
            pass
        async with open_transport(server.url) as made:
            assert (await broken_by(server, made)).failure == "connect"

    async def test_before_it_is_entered_and_after_it_is_left_it_raises(
        self, open_transport: OpenTransport
    ) -> None:
        """And it leaves no connection open."""
        async with ScriptedServer(http()) as server:
            made = open_transport(server.url)
            with pytest.raises(RuntimeError, match="entered") as early:
                await made.send("POST", "/5ecr3t", HEADERS, BODY, LIMITS)
            async with made:
                await get(made)
            await server.gone()
            with pytest.raises(RuntimeError, match="closed") as late:
                await made.send("POST", "/5ecr3t", HEADERS, BODY, LIMITS)
        assert "5ecr3t" not in exposed(early.value) + exposed(late.value)

    async def test_leaving_it_ends_what_is_in_flight(self, open_transport: OpenTransport) -> None:
        """They end with a failure instead of hanging."""
        async with ScriptedServer() as server:
            async with open_transport(server.url) as made:
                waiting = asyncio.ensure_future(get(made))
                await server.asked.wait()
            with pytest.raises(TransportError) as broken:
                await waiting
            await server.gone()
        assert broken.value.failure in BROKE
