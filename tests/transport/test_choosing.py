"""Which transport is chosen, and that its choice shows."""

import ssl
import subprocess
import sys

import pytest
import trustme

from flowmate_async import ConfigurationError, FlowMate, FlowMateSync
from flowmate_async.testing.memory_transport import MemoryTransport
from flowmate_async.testing.scripted_exchanges import TOKEN
from flowmate_async.testing.scripted_server import ScriptedServer, http

from .connect_proxy import ConnectProxy

PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, "wire"),
        ({"transport": "auto"}, "wire"),
        ({"transport": "wire"}, "wire"),
        ({"transport": "aiohttp"}, "aiohttp"),
        ({"base_url": "http://localhost:1"}, "wire"),
        ({"proxy": PROXY}, "aiohttp"),
        ({"trust_env": True}, "aiohttp"),
        ({"transport": "auto", "trust_env": True, "proxy": PROXY}, "aiohttp"),
        ({"trust_env": True, "base_url": "http://localhost:1"}, "wire"),
        ({"transport": "wire", "trust_env": True}, "wire"),
        ({"transport": MemoryTransport(lambda *_: None)}, "MemoryTransport"),
    ],
)
@pytest.mark.parametrize("client", [FlowMate, FlowMateSync])
def test_auto_is_wire_unless_there_may_be_a_proxy(client, options, chosen):
    """This machine is reached without a proxy, whatever the environment says."""
    fm = client(admin_token=TOKEN, **options)
    stats = fm.stats() if client is FlowMate else fm._client.stats()
    assert stats.transport == chosen


@pytest.mark.anyio
async def test_auto_goes_through_the_proxy(tmp_path):
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    answers = [http(b'{"token":"t","id":"1"}')] * 2
    async with ScriptedServer(*answers, tls=tls) as server, ConnectProxy() as proxy:
        options = {"admin_token": TOKEN, "base_url": server.url, "ca_file": tmp_path / "ca.pem"}
        async with FlowMate(**options) as fm:
            await fm.impersonate("a")
        assert proxy.heads == []
        async with FlowMate(**options, proxy=proxy.url) as fm:
            await fm.impersonate("a")
        assert len(proxy.heads) == 1


def test_wire_refuses_a_proxy_and_names_the_transports_that_have_them():
    with pytest.raises(ConfigurationError, match=r"'auto' or 'aiohttp'") as refused:
        FlowMate(admin_token=TOKEN, transport="wire", proxy=PROXY)
    assert "proxies" in str(refused.value)


def test_wire_refuses_a_proxy_of_the_environment_if_that_is_trusted(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://user:5ecr3t@proxy.example:3128")
    FlowMate(admin_token=TOKEN, transport="wire")
    with pytest.raises(ConfigurationError, match="aiohttp") as refused:
        FlowMate(admin_token=TOKEN, transport="wire", trust_env=True)
    assert "5ecr3t" not in str(refused.value)
    monkeypatch.setenv("no_proxy", "*")
    FlowMate(admin_token=TOKEN, transport="wire", trust_env=True)


def test_another_name_is_refused():
    with pytest.raises(ConfigurationError, match="'auto', 'wire' and 'aiohttp'"):
        FlowMate(admin_token=TOKEN, transport="carrier pigeon")


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/p\u00e4th", "https://\u00fcmlaut.example"]
)
@pytest.mark.parametrize("transport", ["auto", "wire", "aiohttp"])
def test_a_base_url_that_cannot_be_sent_is_refused_when_the_client_is_made(base_url, transport):
    with pytest.raises(ConfigurationError, match="base URL"):
        FlowMate(admin_token=TOKEN, base_url=base_url, transport=transport)


def test_a_client_without_a_proxy_does_not_load_aiohttp():
    """It would take most of the time in which a command starts."""
    code = (
        "import sys; from flowmate_async import FlowMate; FlowMate(admin_token='t'); "
        "sys.exit('aiohttp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
