"""Which origins may be named, and which requests are of one."""

import httpx
import pytest
from yarl import URL

from flowmate_async import ConfigurationError
from flowmate_async.integrations.aiohttp import CredentialMiddleware
from flowmate_async.integrations.httpx import FlowMateAuth, FlowMateTransport, _origin
from flowmate_async.integrations.origins import GivenOrigins, origin_of
from flowmate_async.integrations.verification import AppCheck

GOOD = [
    ("https://api.example.com", ("https", "api.example.com", 443)),
    ("https://API.Example.com/", ("https", "api.example.com", 443)),
    ("https://api.example.com:8443", ("https", "api.example.com", 8443)),
    ("http://127.0.0.1:8080", ("http", "127.0.0.1", 8080)),
    ("http://localhost", ("http", "localhost", 80)),
    ("http://[::1]:8080", ("http", "::1", 8080)),
]


@pytest.mark.parametrize(("text", "origin"), GOOD)
def test_an_origin_is_scheme_host_and_port(text, origin):
    assert GivenOrigins([text]).checked() == {origin}
    url = URL(text)
    assert origin_of(url.scheme, url.raw_host, url.port) == origin
    assert _origin(httpx.URL(text)) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.example.com",
        "http://api.example.com",
        "http://127.0.0.1.example.com",
        "ftp://api.example.com",
        "wss://api.example.com",
        "https://",
        "https://user:word@api.example.com",
        "https://api.example.com/v1",
        "https://api.example.com?a=b",
        "https://api.example.com#a",
        "https://api.example.com:port",
        "https://api.example.com:99999",
        "https://[::1",
        "https://bücher.example",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigurationError):
        GivenOrigins([text]).checked()


@pytest.mark.parametrize("takes", [FlowMateTransport, FlowMateAuth, CredentialMiddleware])
@pytest.mark.parametrize("text", ["https://user:a-password@x", "https://[a-password", "a-password"])
def test_one_that_is_refused_is_in_no_frame(takes, text, exposed):
    """Somebody may have put a password where it does not belong."""
    with pytest.raises(ConfigurationError) as caught:
        takes(None, "user", "a" * 24, origins=[text])
    assert "a-password" not in exposed(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        AppCheck(lambda *_: None, origins=[text], applies_to=lambda _: True)
    assert "a-password" not in exposed(caught.value)


def test_no_origin_at_all_is_refused():
    with pytest.raises(ConfigurationError, match="no origins"):
        GivenOrigins([]).checked()


def test_one_string_is_not_mistaken_for_many():
    with pytest.raises(ConfigurationError, match="Pass a list"):
        GivenOrigins("https://api.example.com").checked()


@pytest.mark.parametrize(
    "other",
    [
        "http://api.example.com",
        "https://api.example.com:8443",
        "https://api.example.com.evil.example",
        "https://evil.example/https://api.example.com",
        "https://api.example.com@evil.example",
        "https://evil-api.example.com",
        "https://api.example.com.",
    ],
)
def test_what_only_looks_like_the_origin_is_another_one(other):
    covered = GivenOrigins(["https://api.example.com"]).checked()
    url = URL(other)
    assert origin_of(url.scheme, url.raw_host, url.port) not in covered
    assert _origin(httpx.URL(other)) not in covered
