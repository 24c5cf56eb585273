"""What only the aiohttp transport has: proxies, and guards against what aiohttp does by itself."""

import asyncio
import gc

import pytest
from aiohttp import StreamReader

from flowmate_async.testing.scripted_exchanges import BROKEN, TOKEN
from flowmate_async.testing.scripted_server import Answer, ScriptedServer, chunked, http, split
from flowmate_async.testing.transport_suite import LIMITS, get
from flowmate_async.transport.aiohttp import AiohttpOptions, AiohttpTransport
from flowmate_async.transport.base import TransportError
from flowmate_async.transport.tls import client_context

pytestmark = pytest.mark.anyio


def transport(url, **options):
    tls = client_context(system=False)
    return AiohttpTransport(url, user_agent="test", tls=tls, options=AiohttpOptions(**options))


class TestProxies:
    @pytest.fixture
    async def proxy(self, monkeypatch):
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with ScriptedServer(http(b'{"by":"proxy"}')) as running:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, running.url)
            yield running

    async def test_one_from_the_environment_is_ignored(self, proxy):
        async with ScriptedServer(http(b'{"by":"server"}')) as server, transport(server.url) as made:
            assert (await get(made)).body == b'{"by":"server"}'
        assert proxy.connections == 0

    async def test_unless_the_environment_is_trusted(self, proxy):
        async with ScriptedServer(http()) as server, transport(server.url, trust_env=True) as made:
            assert (await get(made)).body == b'{"by":"proxy"}'

    async def test_an_explicit_one_is_used(self, proxy):
        async with ScriptedServer(http()) as server, transport(server.url, proxy=proxy.url) as made:
            assert (await get(made)).body == b'{"by":"proxy"}'
        assert proxy.heads[0].startswith(f"get {server.url}/secrets/s ")
        assert server.connections == 0

    async def test_netrc_never_replaces_the_token(self, tmp_path, monkeypatch):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login u password from-netrc\n")
        monkeypatch.setenv("NETRC", str(netrc))
        async with ScriptedServer(http()) as server, transport(server.url, trust_env=True) as made:
            await get(made)
        assert server.heads[0].count("authorization:") == 1
        assert f"authorization: bearer {TOKEN.lower()}" in server.heads[0]


class TestGuards:
    async def test_a_body_that_goes_wrong_later_is_not_waited_for(self):
        """Aiohttp closes the connection and tells nobody: the reader would wait until its deadline."""
        answer = split(BROKEN["a chunk longer than it says"][0], 3, pause_seconds=0.002)
        async with ScriptedServer(answer) as server, transport(server.url) as made:
            with pytest.raises(TransportError, match=r"interrupted|malformed"):
                async with asyncio.timeout(LIMITS.timeout_seconds / 2):
                    await get(made)

    async def test_that_guard_keeps_no_body_alive(self):
        """It is a callback on a connection, which outlives the answers it brings."""
        answer = split(chunked(b"{}"), 40, pause_seconds=0.002)
        async with ScriptedServer(*[answer] * 10) as server, transport(server.url) as made:
            for _ in range(10):
                await get(made)
            gc.collect()
            bodies = [one for one in gc.get_objects() if isinstance(one, StreamReader)]
        assert server.connections == 1
        assert len(bodies) < 5

    async def test_no_connection_is_handed_out_with_bytes_that_nobody_asked_for(self):
        """Aiohttp puts it back at the end of the body, before it has looked at what came behind."""
        head, rest = http(b"{}").pieces[0][:-2], b"{}" + b"".join(http(b'{"whose":"smuggled"}').pieces)
        answer = Answer((head, rest), pause_seconds=0.01)
        async with ScriptedServer(answer, http(b"[2]")) as server, transport(server.url) as made:
            assert (await get(made)).body == b"{}"
            assert (await get(made)).body == b"[2]"
        assert server.connections == 2
