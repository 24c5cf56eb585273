"""Which origins may be named, and which requests are of one."""

import httpx
import pytest
from yarl import URL

from flowmate_async import ConfigurationError
from flowmate_async.integrations.httpx import _origin
from flowmate_async.integrations.origins import checked_origins, origin_of

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
    assert checked_origins([text]) == {origin}
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
        checked_origins([text])


def test_no_origin_at_all_is_refused():
    with pytest.raises(ConfigurationError, match="no origins"):
        checked_origins([])


def test_one_string_is_not_mistaken_for_many():
    with pytest.raises(ConfigurationError, match="Pass a list"):
        checked_origins("https://api.example.com")


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
    covered = checked_origins(["https://api.example.com"])
    url = URL(other)
    assert origin_of(url.scheme, url.raw_host, url.port) not in covered
    assert _origin(httpx.URL(other)) not in covered
