"""What only the aiohttp transport has: proxies, and connections that belong to aiohttp."""

import asyncio
import gc
import ssl

import pytest
import trustme
from aiohttp.client_proto import ResponseHandler

from flowmate_async import ConfigurationError
from flowmate_async.testing.scripted_exchanges import TOKEN
from flowmate_async.testing.scripted_server import ScriptedServer, http
from flowmate_async.testing.transport_suite import broken_by, get
from flowmate_async.transport.aiohttp import AiohttpOptions, AiohttpTransport
from flowmate_async.transport.tls import client_context

from .connect_proxy import ConnectProxy

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(made)
    return made


@pytest.fixture(scope="module")
def transport(authority):
    context = client_context(system=False)
    authority.configure_trust(context)

    def make(url, **options):
        return AiohttpTransport(url, user_agent="test", tls=context, options=AiohttpOptions(**options))

    return make


class TestProxies:
    @pytest.fixture
    async def proxy(self, monkeypatch):
        for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        async with ConnectProxy() as running:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
                monkeypatch.setenv(name, running.url)
            yield running

    @pytest.fixture
    async def server(self, server_tls):
        async with ScriptedServer(http(b"[1]"), http(b"[2]"), tls=server_tls) as running:
            yield running

    async def test_one_from_the_environment_is_ignored(self, proxy, server, transport):
        async with transport(server.url) as made:
            assert (await get(made)).body == b"[1]"
        assert proxy.heads == []

    async def test_unless_the_environment_is_trusted(self, proxy, server, transport):
        async with transport(server.url, trust_env=True) as made:
            assert (await get(made)).body == b"[1]"
        assert len(proxy.heads) == 1

    async def test_an_explicit_one_carries_many_requests_through_one_tunnel(self, proxy, server, transport):
        """It sees where they go, and nothing else of them."""
        async with transport(server.url, proxy=proxy.url) as made:
            assert (await get(made)).body == b"[1]"
            assert (await get(made)).body == b"[2]"
        where = server.url.removeprefix("https://")
        assert [head.split("\r\n")[0] for head in proxy.heads] == [f"connect {where} http/1.1"]
        assert TOKEN.lower() not in proxy.heads[0]
        assert server.heads[0].startswith("get /secrets/s http/1.1\r\n")

    async def test_its_password_goes_to_it_alone(self, proxy, server, transport):
        with_password = proxy.url.replace("//", "//user:5ecr3t@")
        async with transport(server.url, proxy=with_password) as made:
            await get(made)
        assert "proxy-authorization: basic dxnlcjo1zwnym3q=" in proxy.heads[0]
        assert "proxy-authorization" not in server.heads[0]

    async def test_its_refusal_is_a_failure_to_connect(self, server, transport):
        """The error names its status and shows no password (``broken_by`` looks at every frame)."""
        async with ConnectProxy("407 Proxy Authentication Required") as proxy:
            with_password = proxy.url.replace("//", "//user:5ecr3t@")
            async with transport(server.url, proxy=with_password) as made:
                broken = await broken_by(server, made)
        assert (broken.failure, broken.detail) == ("connect", "the proxy answered 407")
        assert server.requests == []

    async def test_without_it_nothing_is_sent(self, server, transport):
        async with ConnectProxy() as gone:
            pass
        async with transport(server.url, proxy=gone.url.replace("//", "//user:5ecr3t@")) as made:
            assert (await broken_by(server, made)).failure == "connect"
        assert server.connections == 0

    @pytest.mark.parametrize("how", ["explicit", "environment"])
    async def test_plain_http_never_goes_through_one(self, proxy, transport, how):
        """It would read the tokens."""
        options = {"proxy": proxy.url} if how == "explicit" else {"trust_env": True}
        with pytest.raises(ConfigurationError, match="proxy"):
            transport("http://127.0.0.1:1", **options)

    async def test_netrc_never_replaces_the_token(self, proxy, server, transport, tmp_path, monkeypatch):
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login u password from-netrc\n")
        monkeypatch.setenv("NETRC", str(netrc))
        async with transport(server.url, trust_env=True) as made:
            await get(made)
        assert server.heads[0].count("authorization:") == 1
        assert f"authorization: bearer {TOKEN.lower()}" in server.heads[0]


class TestConnections:
    async def test_making_one_is_bounded(self, transport):
        """The server takes the connection and never says a word of TLS."""
        async with ScriptedServer() as server:
            url = server.url.replace("http:", "https:")
            async with transport(url, connect_seconds=0.05) as made, asyncio.timeout(3):
                assert (await broken_by(server, made)).failure == "connect"

    async def test_an_idle_one_is_closed_after_its_time(self, transport):
        async with ScriptedServer(http()) as server, transport(server.url, keep_alive_seconds=0.05) as made:
            await get(made)
            await server.gone()

    @pytest.mark.parametrize("closed_by", ["client", "server"])
    async def test_aiohttp_forgets_a_connection_that_is_lost(self, transport, closed_by):
        """Otherwise a client that runs for months would collect them."""
        last = (
            http(length=-1, then="close") if closed_by == "server" else http(b"", "200", "Connection: close")
        )
        async with ScriptedServer(*[last] * 5, http()) as server, transport(server.url) as made:
            for at in range(5):
                await get(made)
                await server.gone(connection=at)
            await get(made)
            gc.collect()
            held = [one for one in gc.get_objects() if isinstance(one, ResponseHandler)]
        assert server.connections == 6
        assert len(held) == 1
