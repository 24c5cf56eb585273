"""What an integration hands back (responses, their history, errors) holds no credential; nor do frames."""

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager

import aiohttp
import httpcore
import httpx
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowmate_async import ConfigurationError
from flowmate_async.integrations.aiohttp import CredentialMiddleware
from flowmate_async.integrations.httpx import FlowMateAuth, FlowMateTransport
from flowmate_async.values.auth_headers import api_key
from flowmate_async.values.secrets import ApiKeySecret, ApiKeyValue

from .conftest import FIRST, WORKER

pytestmark = pytest.mark.anyio

BEARER = f"Bearer {FIRST}"
HTTPX = {"auth": FlowMateAuth, "transport": FlowMateTransport}


@pytest.fixture
def client(fm, oauth, app):
    """An httpx client with the credential, attached in one of both ways."""

    def made(way, secret=oauth, **options):
        attached = {way: HTTPX[way](fm, WORKER, secret.id, origins=[app.url])}
        return httpx.AsyncClient(trust_env=False, **attached, **({"follow_redirects": True} | options))

    return made


@pytest.fixture
async def session(fm, oauth, app):
    middleware = CredentialMiddleware(fm, WORKER, oauth.id, origins=[app.url])
    async with aiohttp.ClientSession(middlewares=(middleware,)) as opened:
        yield opened


def urls(app):
    """Requests with and without redirects within the app, which may end in a 401."""
    return [
        f"{app.url}/",
        app.redirect(f"{app.url}/b"),
        app.redirect(app.redirect(f"{app.url}/c", status=302)),
    ]


def requests_of(response):
    """Every request of httpx that the caller can get at."""
    following = [] if response.next_request is None else [response.next_request]
    return [response.request, *(one.request for one in response.history), *following]


@pytest.mark.parametrize("accepted", [{BEARER}, set()], ids=["accepted", "rejected"])
@pytest.mark.parametrize("way", HTTPX)
async def test_no_request_of_httpx_holds_it(client, app, way, accepted):
    app.accepts = accepted
    async with client(way) as http:
        for url in urls(app):
            for followed in (True, False):
                response = await http.get(url, follow_redirects=followed)
                for request in requests_of(response):
                    assert FIRST not in str(dict(request.headers))
                    assert FIRST.encode() not in b"".join(value for _, value in request.headers.raw)
    assert BEARER in app.credentials


@pytest.mark.parametrize("accepted", [{BEARER}, set()], ids=["accepted", "rejected"])
async def test_no_request_of_aiohttp_holds_it(session, app, accepted):
    app.accepts = accepted
    for url in urls(app):
        async with session.get(url) as response:
            for one in (response, *response.history):
                assert FIRST not in str(one.request_info)
                assert FIRST not in str(one.request_info.headers)
    assert BEARER in app.credentials


@pytest.mark.parametrize("way", HTTPX)
async def test_a_redirect_is_followed_by_hand(client, app, way):
    async with client(way, follow_redirects=False) as http:
        response = await http.get(app.redirect(f"{app.url}/there"))
        assert (await http.send(response.next_request)).status_code == 200
    assert app.credentials == [BEARER, BEARER]


@pytest.mark.parametrize("way", HTTPX)
async def test_an_error_after_a_redirect_does_not_hold_it(client, app, exposed, way):
    async with client(way) as http:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await http.get(app.redirect(f"{app.url}/drop"))
    assert app.credentials[-1] == BEARER
    assert caught.value.request.url == f"{app.url}/drop"
    assert FIRST not in str(dict(caught.value.request.headers)) + repr(caught.value.request.headers.raw)
    assert FIRST not in exposed(caught.value)


@pytest.mark.parametrize("way", HTTPX)
async def test_too_many_redirects_do_not_hold_it(client, app, exposed, way):
    async with client(way, max_redirects=1) as http:
        with pytest.raises(httpx.TooManyRedirects) as caught:
            await http.get(app.redirect(app.redirect(app.redirect(f"{app.url}/"))))
    assert FIRST not in str(dict(caught.value.request.headers)) + exposed(caught.value)


async def test_errors_of_aiohttp_after_a_redirect_do_not_hold_it(session, app, exposed):
    with pytest.raises(aiohttp.ServerDisconnectedError) as caught:
        await session.get(app.redirect(f"{app.url}/drop"))
    assert FIRST not in exposed(caught.value)
    with pytest.raises(aiohttp.TooManyRedirects) as many:
        await session.get(app.redirect(app.redirect(app.redirect(f"{app.url}/"))), max_redirects=1)
    assert FIRST not in repr(many.value) + exposed(many.value)
    assert FIRST not in str([one.request_info.headers for one in many.value.history])


@pytest.mark.parametrize("hops", [0, 1])
@pytest.mark.parametrize("way", HTTPX)
async def test_frames_of_a_request_that_cannot_be_written_are_dropped(
    client, app, exposed, monkeypatch, way, hops
):
    genuine, written = httpcore._backends.anyio.AnyIOStream.write, []

    async def stuck(self, buffer, timeout=None):  # noqa: ASYNC109 - httpcore's
        written.append(buffer)
        if sum(BEARER.encode() in one for one in written) > hops:
            raise httpcore.WriteTimeout
        await genuine(self, buffer, timeout)

    monkeypatch.setattr("httpcore._backends.anyio.AnyIOStream.write", stuck)
    seen = []

    async def trace(event, _info):
        seen.append(event)

    async with client(way) as http:
        target = app.redirect(f"{app.url}/there") if hops else f"{app.url}/"
        with pytest.raises(httpx.WriteTimeout) as caught:
            await http.get(target, extensions={"trace": trace})
    assert FIRST not in exposed(caught.value)
    assert "http11.send_request_headers.failed" in seen, "the caller's own trace is called as well"


@pytest.mark.parametrize("way", [*HTTPX, "aiohttp"])
async def test_frames_of_a_request_that_is_given_up_are_dropped(client, session, fm, oauth, exposed, way):
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if way == "aiohttp":
            middleware = CredentialMiddleware(fm, WORKER, oauth.id, origins=[url])
            http = aiohttp.ClientSession(middlewares=(middleware,))
        else:
            http = httpx.AsyncClient(
                trust_env=False, **{way: HTTPX[way](fm, WORKER, oauth.id, origins=[url])}
            )
        await fm.credential(WORKER, oauth.id)
        async with http:
            task = asyncio.ensure_future(http.get(url))
            connection, _ = await asyncio.get_running_loop().run_in_executor(None, silent.accept)
            with connection:
                await asyncio.get_running_loop().run_in_executor(None, connection.recv, 65536)
                task.cancel()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
    assert FIRST not in exposed(caught.value)


@pytest.mark.parametrize("way", ["transport", "aiohttp"])
@pytest.mark.parametrize("key", ["na\u00efve-k\u00e9y", "\u00ff" * 8])
async def test_a_key_in_latin_1_is_sent(fm, api_key, app, way, key):
    api_key.value["key"] = key
    if way == "aiohttp":
        middleware = CredentialMiddleware(fm, WORKER, api_key.id, origins=[app.url])
        async with (
            aiohttp.ClientSession(middlewares=(middleware,)) as http,
            http.get(f"{app.url}/") as response,
        ):
            assert response.status == 200
    else:
        transport = FlowMateTransport(fm, WORKER, api_key.id, origins=[app.url])
        async with httpx.AsyncClient(transport=transport) as http:
            assert (await http.get(f"{app.url}/")).status_code == 200
    assert len(app.credentials) == 1


class Lender:
    """Lends one secret, and notes for how long it is asked to be valid."""

    def __init__(self, secret):
        self.secret = secret
        self.asked = []

    @asynccontextmanager
    async def lease(self, username, secret_id, *, min_valid=60.0):
        self.asked.append((username, secret_id, min_valid))
        yield self


@pytest.mark.parametrize("way", [*HTTPX, "aiohttp"])
@pytest.mark.parametrize("min_valid", [None, 300.0, 1.5])
async def test_the_credential_is_asked_to_be_valid_for_as_long_as_said(app, way, min_valid):
    header = "Authorization"
    lender = Lender(ApiKeySecret(id="a" * 24, value=ApiKeyValue(key=FIRST, header_name=header)))
    options = {"origins": [app.url]} | ({} if min_valid is None else {"min_valid": min_valid})
    if way == "aiohttp":
        middleware = CredentialMiddleware(lender, WORKER, "a" * 24, **options)
        async with aiohttp.ClientSession(middlewares=(middleware,)) as http, http.get(f"{app.url}/"):
            pass
    else:
        async with httpx.AsyncClient(
            trust_env=False, **{way: HTTPX[way](lender, WORKER, "a" * 24, **options)}
        ) as http:
            await http.get(f"{app.url}/")
    assert lender.asked == [(WORKER, "a" * 24, min_valid or 60.0)]
    assert app.credentials == [FIRST]


@given(key=st.text(st.characters(max_codepoint=0x2FF), min_size=1, max_size=12))
@settings(max_examples=2 * settings().max_examples, suppress_health_check=list(HealthCheck))
def test_h11_takes_every_value_that_is_a_header(key):
    """Its own error would quote the value."""
    h11 = pytest.importorskip("h11")
    try:
        headers = api_key("X-Key", key)
    except ConfigurationError:
        return
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert h11.Request(method="GET", target="/", headers=[("Host", "h"), *raw])


async def test_httpx_keeps_to_the_librarys_tls_rules(fm, oauth, tmp_path, monkeypatch):
    """Without a transport of the caller's: verified, and no key log."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    async with server:
        transport = FlowMateTransport(fm, WORKER, oauth.id, origins=[url])
        async with httpx.AsyncClient(transport=transport) as http:
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await http.get(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        transport = FlowMateTransport(fm, WORKER, oauth.id, origins=[url])
        async with httpx.AsyncClient(transport=transport) as http:
            assert (await http.get(url)).status_code == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.pem"]
