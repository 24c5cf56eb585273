"""The URL of a webhook or ping, and a webhook's key, may be secret: no error or frame shows them."""

from collections.abc import Callable

import anyio
import pytest

from flowmate_async.errors import ConfigurationError
from flowmate_async.health.webhook import SigningKey
from flowmate_async.integrations.ping import Ping
from flowmate_async.integrations.webhook import Webhook
from flowmate_async.testing.scripted_server import ScriptedServer, http

pytestmark = pytest.mark.anyio

SECRET = "nobody-may-see-this-0123456789"
KEY = "whsec_" + "A" * 40

REFUSED = {
    "another scheme": f"ftp://app.example/{SECRET}",
    "plain http": f"http://app.example/{SECRET}",
    "a password": f"https://user:{SECRET}@app.example/",
    "a blank": f"https://app.example/{SECRET} x",
    "a port that is none": f"https://app.example:{SECRET}/",
    "a bracket": f"https://[{SECRET}/",
    "no URL": SECRET,
    "no text": SECRET.encode(),
}


def a_ping(url: str) -> object:
    return Ping(url)


def a_webhook(url: str) -> object:
    return Webhook(url, key=KEY)


@pytest.mark.parametrize("make", [a_ping, a_webhook])
@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED)
def test_a_url_that_is_refused_is_in_no_frame(
    url: str, make: Callable[[str], object], exposed: Callable[[BaseException], str]
) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        make(url)
    shown = exposed(caught.value)
    assert SECRET not in shown
    assert KEY not in shown


@pytest.mark.parametrize("key", [SECRET, f"whsec_{SECRET}", "whsec_YWJjZA==", SECRET.encode()], ids=repr)
def test_a_key_that_is_refused_is_in_no_frame(key: str, exposed: Callable[[BaseException], str]) -> None:
    for make in (SigningKey.parse, lambda given: Webhook(f"https://app.example/{SECRET}", key=given)):
        with pytest.raises(ConfigurationError, match="not a key") as caught:
            make(key)
        shown = exposed(caught.value)
        assert not [text for text in (SECRET, "YWJjZA", "abcd") if text in shown]


async def test_a_ping_that_is_given_up_shows_no_url(exposed: Callable[[BaseException], str]) -> None:
    """While it waits for an answer, and while it waits to try again."""
    async with ScriptedServer() as silent:
        for origin in (silent.url, "http://127.0.0.1:1"):
            with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.3):
                await Ping(f"{origin}/{SECRET}").send("start", b"{}")
            assert SECRET not in exposed(caught.value)


@pytest.mark.parametrize(
    ("rest", "targets"),
    [
        ("", ["/start", "/", "/fail"]),
        ("/id/", ["/id/start", "/id", "/id/fail"]),
        ("/id?rid=1", ["/id/start?rid=1", "/id?rid=1", "/id/fail?rid=1"]),
        ("?rid=1", ["/start?rid=1", "/?rid=1", "/fail?rid=1"]),
    ],
)
async def test_a_query_stays_behind_what_happened(rest: str, targets: list[str]) -> None:
    async with ScriptedServer(*[http(b"")] * 3) as monitor:
        ping = Ping(monitor.url + rest)
        assert [await ping.send(event, b"{}") for event in ("start", "success", "failure")] == [""] * 3
        assert [request.split()[1].decode() for request in monitor.requests] == targets
