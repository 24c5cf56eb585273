"""Proxies of the environment: used when asked for only, and read as curl reads them."""

import os

import pytest

from flowmate_async import ConfigurationError, FlowMate, FlowMateError, RetryPolicy
from flowmate_async.testing.scripted_server import ScriptedServer, http
from flowmate_async.transport.proxies import proxy_of

PROXY = "http://proxy.example:3128"
HOST = "https://api.example.com"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "", "ALL_PROXY": PROXY}, PROXY),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        ({"HTTPS_PROXY": "proxy.example:3128"}, PROXY),
        ({"HTTPS_PROXY": "10.0.0.1:3128"}, "http://10.0.0.1:3128"),
        ({"HTTPS_PROXY": "user:word@proxy.example:3128"}, "http://user:word@proxy.example:3128"),
        ({"ALL_PROXY": "proxy.example:3128"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "ALL_PROXY": "socks5://other:1"}, PROXY),
        ({"HTTP_PROXY": "http://other:1"}, None),
    ],
)
def test_the_variable_that_names_a_proxy(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(HOST) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("socks5://planted:1080", "not an HTTP proxy"),
        ("socks5h://user:planted@proxy:1080", "not an HTTP proxy"),
        ("socks4://planted:1080", "not an HTTP proxy"),
        ("ftp://planted:21", "not an HTTP proxy"),
        ("http://", "names no host"),
        ("http://:3128", "names no host"),
        ("http://user:planted@", "names no host"),
        ("http://proxy:planted", "not the URL of a proxy"),
        ("http://[planted", "not the URL of a proxy"),
        ("proxy:99999999", "not the URL of a proxy"),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("transport", ["aiohttp", "wire", "auto"])
def test_what_cannot_be_used_is_refused_by_the_variables_name(
    monkeypatch, exposed, variable, value, reason, transport
):
    """Before anything is sent, and without showing the value, which may hold a password."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=reason) as refused:
        FlowMate(admin_token="t", base_url=HOST, trust_env=True, transport=transport)
    assert str(refused.value).startswith(variable)
    assert "planted" not in exposed(refused.value)


@pytest.mark.parametrize("base_url", [HOST, f"{HOST}:443", f"{HOST}/prefix"])
@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("api.example.com", True),
        ("API.Example.COM", True),
        ("example.com", True),
        (".example.com", True),
        ("*.example.com", True),
        ("example.com.", True),
        ("api.example.com:443", True),
        ("*.example.com:443", True),
        ("*", True),
        ("other.test, api.example.com", True),
        ("other.test api.example.com", True),
        (" ,, example.com ,", True),
        ("api.example.com:8443", False),
        ("ample.com", False),
        ("api.example", False),
        ("*ample.com", False),
        ("xapi.example.com", False),
        ("10.0.0.0/8", False),
        (".", False),
        ("", False),
    ],
)
def test_hosts_that_are_reached_without_the_proxy(monkeypatch, no_proxy, direct, base_url):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, no_proxy)
        assert (proxy_of(base_url) is None) == direct
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("no_proxy", "base_url", "direct"),
    [
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3/8", "https://10.9.9.9", True),
        ("10.1.2.3", "https://10.1.2.3:8443", True),
        ("10.1.2.3:8443", "https://10.1.2.3:8443", True),
        ("10.1.2.3:8443", "https://10.1.2.3", False),
        ("::1", "https://[::1]:8443", True),
        ("[::1]", "https://[::1]", True),
        ("[::1]:8443", "https://[::1]:8443", True),
        ("[::1]:8443", "https://[::1]", False),
        ("fd00::/8", "https://[fd12::1]", True),
        ("fd00::/8", "https://[fe80::1]", False),
        ("localhost", "https://127.0.0.1", False),
    ],
)
def test_addresses_that_are_reached_without_the_proxy(monkeypatch, no_proxy, base_url, direct):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_of(base_url) is None) == direct


def test_an_exempt_host_needs_no_usable_proxy(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy:1080")
    monkeypatch.setenv("NO_PROXY", "example.com")
    assert proxy_of(HOST) is None


@pytest.mark.anyio
async def test_plain_http_is_never_sent_through_a_proxy(monkeypatch):
    """It would read the admin token."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with (
        ScriptedServer(http(b"[]")) as server,
        FlowMate(admin_token="t", base_url=server.url, trust_env=True, transport="aiohttp") as fm,
    ):
        assert [user async for user in fm.users()] == []


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_a_proxy_is_asked_only_if_the_environment_is_trusted(monkeypatch, scheme):
    async with ScriptedServer(*[http(b"", "407 Proxy Authentication Required")] * 4) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", scheme + proxy.url.removeprefix("http://"))
        for trusted in (False, True):
            options = {"base_url": "https://api.invalid", "retry": RetryPolicy(attempts=1)}
            async with FlowMate(admin_token="t", trust_env=trusted, transport="aiohttp", **options) as fm:
                with pytest.raises(FlowMateError):
                    await fm.list_secrets("u")
            assert bool(proxy.requests) == trusted
        assert proxy.requests[0].startswith(b"CONNECT api.invalid:443")
