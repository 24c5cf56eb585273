"""The default transport on real sockets, against small servers that misbehave in one way each."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest
import trustme

from flowmate_async import ConfigurationError, FlowMate, Headers, Limits, TransportError
from flowmate_async.transport.aiohttp import AiohttpOptions, AiohttpTransport
from flowmate_async.transport.tls import client_context

pytestmark = pytest.mark.anyio

TOKEN = "5ecr3t-" * 6
HEADERS = Headers((("Authorization", f"Bearer {TOKEN}"),))
LIMITS = Limits(timeout_seconds=5.0, max_body_bytes=1000)
SHORT = Limits(timeout_seconds=0.05, max_body_bytes=1000)


class Server:
    """Reads requests and answers each with the next script: bytes to send, then ``close`` or stay."""

    def __init__(self, *answers, close=False):
        self.answers = list(answers)
        self.close = close
        self.requests = []
        self.connections = 0
        self._writers = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    tls = None

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.split(b":")[1])
                        for line in head.lower().split(b"\r\n")
                        if line.startswith(b"content-length")
                    ),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else None
                if answer is None:
                    await asyncio.sleep(60)
                writer.write(answer)
                await writer.drain()
                if self.close:
                    break
        writer.close()

    def say(self, unasked):
        """Send bytes on every open connection that nobody asked for."""
        for writer in self._writers:
            writer.write(unasked)

    @property
    def heads(self):
        return [request.decode("latin-1").lower() for request in self.requests]


def http(body=b"{}", status="200 OK", *headers, length=None):
    length = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    if length >= 0:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def chunked(*chunks, end=True):
    parts = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return http(parts + (b"0\r\n\r\n" if end else b""), "200 OK", "Transfer-Encoding: chunked", length=-1)


@contextlib.asynccontextmanager
async def transport(url, *, ca_file=None, **options) -> AsyncIterator[AiohttpTransport]:
    made = AiohttpTransport(
        url, user_agent="test", tls=client_context(ca_file=ca_file), options=AiohttpOptions(**options)
    )
    async with made:
        yield made


async def get(made, path="/secrets/s", limits=LIMITS):
    return await made.send("GET", path, HEADERS, None, limits)


class TestRequests:
    async def test_what_is_sent_is_what_was_asked_and_nothing_is_kept(self):
        """Encoded brackets stay encoded, no compression is asked for, and a cookie never comes back."""
        async with (
            Server(http(b"{}", "200 OK", "Set-Cookie: id=1; Path=/"), http()) as server,
            transport(server.url + "/v1") as made,
        ):
            await get(made, "/secrets/?page%5Bsize%5D=3")
            await made.send("POST", "/impersonate", HEADERS, b'{"username":"u"}', LIMITS)
        first, second = server.heads
        assert first.startswith("get /v1/secrets/?page%5bsize%5d=3 http/1.1")
        assert f"authorization: bearer {TOKEN.lower()}" in first
        assert "accept-encoding: identity" in first
        assert second.endswith('{"username":"u"}')
        assert "content-type: application/json" in second
        assert "cookie" not in second

    async def test_an_idle_connection_is_used_again(self):
        async with Server(*[http()] * 3) as server, transport(server.url) as made:
            for _ in range(3):
                await get(made)
        assert server.connections == 1

    async def test_header_names_are_lower_case_and_the_body_is_whole(self):
        async with (
            Server(http(b'{"a":1}', "404 Not Found", "X-Odd: 1")) as server,
            transport(server.url) as made,
        ):
            answer = await get(made)
        assert (answer.status, answer.headers["x-odd"], answer.body) == (404, "1", b'{"a":1}')

    async def test_chunks_are_put_together(self):
        async with Server(chunked(b'{"a"', b":1}")) as server, transport(server.url) as made:
            assert (await get(made)).body == b'{"a":1}'


class TestRedirects:
    @pytest.mark.parametrize(
        "status", ["301 Moved", "302 Found", "303 Other", "307 Temporary", "308 Permanent"]
    )
    async def test_none_is_followed(self, status):
        async with (
            Server(http()) as elsewhere,
            Server(http(b"", status, f"Location: {elsewhere.url}/x")) as server,
            transport(server.url) as made,
        ):
            answer = await get(made)
        assert answer.status == int(status[:3])
        assert elsewhere.connections == 0


BROKEN = {
    "announced too large": (http(b"x" * 2000), False, "too_large"),
    "announced too large, never sent": (http(b"", length=10**12), False, "too_large"),
    "chunked too large": (chunked(*[b"x" * 300] * 5), False, "too_large"),
    "endless chunks": (chunked(*[b"x" * 300] * 5, end=False), False, "too_large"),
    "until close, too large": (http(b"x" * 2000, length=-1), True, "too_large"),
    "truncated": (http(b'{"a":', length=100), True, "interrupted"),
    "truncated chunks": (chunked(b'{"a":', end=False), True, "interrupted"),
    "compressed": (http(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip"), False, "malformed"),
    "not http": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", True, "malformed"),
    "garbled length": (http(b"{}", "200 OK", "Content-Length: x", length=-1), True, "malformed"),
    "two lengths": (http(b"{}", "200 OK", "Content-Length: 99"), True, "malformed"),
    "garbled chunk": (http(b"zz\r\n{}\r\n", "200 OK", "Transfer-Encoding: chunked", length=-1), True, None),
    "closed at once": (b"", True, "stale"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Ty", True, None),
}


class TestBrokenAnswers:
    @pytest.mark.parametrize("name", BROKEN)
    async def test_each_is_its_failure_sent_once_and_shows_nothing(self, name, exposed):
        """No credential in any traceback, even with the locals that an error tracker captures."""
        answer, close, failure = BROKEN[name]
        async with Server(answer, close=close) as server, transport(server.url) as made:
            with pytest.raises(TransportError) as broken:
                await get(made)
        assert broken.value.failure == failure or (
            failure is None and broken.value.failure in ("malformed", "interrupted", "stale")
        )
        assert len(server.requests) == 1
        assert TOKEN not in exposed(broken.value)
        assert broken.value.__context__ is broken.value.__cause__ is None

    async def test_a_server_that_hangs_is_left_after_the_limit(self, exposed):
        async with Server() as server, transport(server.url) as made:
            with pytest.raises(TransportError) as broken:
                await get(made, limits=SHORT)
        assert broken.value.failure == "timeout"
        assert TOKEN not in exposed(broken.value)

    async def test_a_body_that_stops_is_left_after_the_limit(self, exposed):
        async with Server(http(b"{", length=100)) as server, transport(server.url) as made:
            with pytest.raises(TransportError) as broken:
                await get(made, limits=SHORT)
        assert broken.value.failure == "timeout"
        assert TOKEN not in exposed(broken.value)

    async def test_nobody_listening_is_a_failure_to_connect(self, exposed):
        async with Server() as server:
            pass
        async with transport(server.url) as made:
            with pytest.raises(TransportError) as broken:
                await get(made)
        assert broken.value.failure == "connect"
        assert TOKEN not in exposed(broken.value)

    async def test_a_cancelled_exchange_shows_nothing(self, exposed):
        """A caller's own timeout chains the cancellation, and with it the frames it went through."""
        async with Server() as server, transport(server.url) as made:
            with pytest.raises(TimeoutError) as late:
                async with asyncio.timeout(0.05):
                    await get(made)
        assert TOKEN not in exposed(late.value)

    async def test_bytes_after_an_answer_are_never_the_next_answer(self):
        """Or a server that miscounts would hand one user's secret to another."""
        smuggled = http(b'{"whose":"smuggled"}')
        async with (
            Server(http(b"{}") + smuggled, http(b'{"whose":"mine"}')) as server,
            transport(server.url) as made,
        ):
            await get(made)
            try:
                body = (await get(made)).body
            except TransportError:
                return
        assert body == b'{"whose":"mine"}'

    @pytest.mark.parametrize("smuggled", [http(b'{"whose":"smuggled"}'), http(b"{", length=-1)], ids=len)
    async def test_bytes_that_come_while_a_connection_idles_are_never_the_next_answer(self, smuggled):
        """The connection is not used again; an answer without a length would also never end."""
        async with (
            Server(http(b"{}"), http(b'{"whose":"mine"}')) as server,
            transport(server.url) as made,
        ):
            await get(made)
            server.say(smuggled)
            await asyncio.sleep(0.02)  # they are read while nobody waits for an answer
            async with asyncio.timeout(2):
                assert (await get(made)).body == b'{"whose":"mine"}'
        assert server.connections == 2

    async def test_before_it_is_entered_and_after_it_is_closed_it_says_so(self, exposed):
        made = AiohttpTransport("http://127.0.0.1:1", user_agent="test", tls=client_context())
        with pytest.raises(RuntimeError, match="entered") as refused:
            await get(made)
        assert TOKEN not in exposed(refused.value)


class TestStaleConnections:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_a_request_that_met_a_closed_connection_is_sent_exactly_once(self, method):
        """By itself aiohttp would repeat the GET, which may be refreshing a credential upstream."""
        async with Server(http(), b"", http()) as server, transport(server.url) as made:
            await get(made)
            server.close = True  # the connection is reused, the request read, and closed without an answer
            with pytest.raises(TransportError) as broken:
                await made.send(method, "/secrets/s", HEADERS, None, LIMITS)
        assert broken.value.failure == "stale"
        assert len(server.requests) == 2

    async def test_the_client_recovers_by_itself(self):
        async with Server(b"", http(b'{"token":"t"}'), close=True) as server:  # noqa: SIM117 - the server first
            async with FlowMate(admin_token=TOKEN, base_url=server.url, rate=None) as fm:
                assert (await fm.impersonate("u")).token == "t"
        assert len(server.requests) == 2


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def tls_server(authority, name, *answers):
    server = Server(*answers)
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server.tls)
    return server


class TestTls:
    async def test_a_trusted_certificate_of_the_right_host_is_accepted(self, authority, ca_file):
        async with tls_server(authority, "127.0.0.1", http()) as server:  # noqa: SIM117 - the same
            async with transport(f"https://127.0.0.1:{server.port}", ca_file=ca_file) as made:
                assert (await get(made)).status == 200

    @pytest.mark.parametrize("wrong", ["host", "authority"])
    async def test_any_other_is_refused_before_anything_is_sent(self, authority, ca_file, wrong, exposed):
        issuer, name = (authority, "elsewhere.example") if wrong == "host" else (trustme.CA(), "127.0.0.1")
        async with tls_server(issuer, name, http()) as server:  # noqa: SIM117 - the same
            async with transport(f"https://127.0.0.1:{server.port}", ca_file=ca_file) as made:
                with pytest.raises(TransportError) as broken:
                    await get(made)
        assert broken.value.failure == "tls"
        assert server.requests == []
        assert TOKEN not in exposed(broken.value)

    async def test_a_certificate_no_system_authority_signed_is_refused_by_default(self, authority):
        async with tls_server(authority, "127.0.0.1", http()) as server:  # noqa: SIM117 - the same
            async with transport(f"https://127.0.0.1:{server.port}") as made:
                with pytest.raises(TransportError, match="tls"):
                    await get(made)

    async def test_session_keys_are_never_written_to_a_file(self, authority, ca_file, tmp_path, monkeypatch):
        keys = tmp_path / "keys"
        async with tls_server(authority, "127.0.0.1", http()) as server:
            monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
            async with FlowMate(
                admin_token=TOKEN, base_url=f"https://127.0.0.1:{server.port}", ca_file=ca_file, rate=None
            ) as fm:
                with pytest.raises(Exception, match="not what the contract documents"):
                    await fm.impersonate("u")
        assert not keys.exists()

    def test_old_versions_of_tls_are_refused(self):
        context = client_context()
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED

    @pytest.mark.parametrize("content", [None, "", "no certificate"])
    def test_an_unusable_ca_file_is_a_configuration_error(self, tmp_path, content):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ConfigurationError, match="CA file"):
            client_context(ca_file=path)


class TestProxies:
    @pytest.fixture
    async def proxy(self, monkeypatch):
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with Server(http(b'{"by":"proxy"}')) as running:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, running.url)
            yield running

    async def test_one_from_the_environment_is_ignored(self, proxy):
        async with Server(http(b'{"by":"server"}')) as server, transport(server.url) as made:
            assert (await get(made)).body == b'{"by":"server"}'
        assert proxy.connections == 0

    async def test_unless_the_environment_is_trusted(self, proxy):
        async with Server(http()) as server, transport(server.url, trust_env=True) as made:
            assert (await get(made)).body == b'{"by":"proxy"}'

    async def test_an_explicit_one_is_used(self, proxy):
        async with Server(http()) as server, transport(server.url, proxy=proxy.url) as made:
            assert (await get(made)).body == b'{"by":"proxy"}'
        assert proxy.heads[0].startswith(f"get {server.url}/secrets/s ")
        assert server.connections == 0

    async def test_netrc_never_replaces_the_token(self, tmp_path, monkeypatch):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login u password from-netrc\n")
        monkeypatch.setenv("NETRC", str(netrc))
        async with Server(http()) as server, transport(server.url, trust_env=True) as made:
            await get(made)
        assert server.heads[0].count("authorization:") == 1
        assert f"authorization: bearer {TOKEN.lower()}" in server.heads[0]
