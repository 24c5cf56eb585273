"""What is aiohttp's own: errors that carry their request's headers, redirects that change the method."""

import socket

import aiohttp
import pytest

from flowmate_async import ConfigurationError
from flowmate_async.integrations.aiohttp import CredentialMiddleware

from .conftest import FIRST, SECOND, WORKER

pytestmark = pytest.mark.anyio


@pytest.fixture
async def session(fm, oauth, app):
    middleware = CredentialMiddleware(fm, WORKER, oauth.id, origins=[app.url])
    async with aiohttp.ClientSession(middlewares=(middleware,)) as opened:
        yield opened


async def test_an_error_of_the_app_does_not_show_the_credential_in_its_request(session, app, exposed):
    app.accepts = set()
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        await session.get(f"{app.url}/", raise_for_status=True)
    assert app.credentials == [f"Bearer {FIRST}"]
    assert FIRST not in repr(caught.value)
    assert FIRST not in exposed(caught.value)


async def test_a_connection_that_is_refused_shows_no_credential(exposed, fm, oauth):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    middleware = CredentialMiddleware(fm, WORKER, oauth.id, origins=[url])
    async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get(f"{url}/")
    assert FIRST not in exposed(caught.value)


async def test_a_request_that_cannot_be_written_shows_no_credential(session, app, exposed, monkeypatch):
    await session.get(f"{app.url}/")
    # The genuine writer, on a transport that has begun to close: its frame holds the bytes of the head.
    monkeypatch.setattr("asyncio.selector_events._SelectorSocketTransport.is_closing", lambda _self: True)
    with pytest.raises(aiohttp.ClientOSError) as caught:
        await session.post(f"{app.url}/", data=b"x")
    assert FIRST not in exposed(caught.value)


async def test_a_single_request_may_go_without(session, app):
    await session.get(f"{app.url}/", middlewares=(), headers={"Authorization": "Bearer mine"})
    assert app.credentials == ["Bearer mine"]


async def test_a_password_in_the_url_is_the_callers_header_too(session, app):
    with pytest.raises(ConfigurationError):
        await session.get(app.url.replace("http://", "http://me:mine@"))
    assert app.seen == []


@pytest.mark.parametrize("body", [{"json": {"a": 1}}, {"data": {"a": "1"}}, {"data": "text"}])
async def test_bodies_in_memory_are_sent_again(session, app, oauth, body):
    await session.get(f"{app.url}/")
    oauth.value["accessToken"] = SECOND
    app.accepts = {f"Bearer {SECOND}"}
    app.seen.clear()
    response = await session.post(f"{app.url}/", **body)
    assert response.status == 200
    assert len({seen.body for seen in app.seen}) == 1
    assert len(app.seen) == 2


async def test_a_file_is_not_sent_twice(session, app, oauth, tmp_path):
    (tmp_path / "upload").write_bytes(b"content")
    await session.get(f"{app.url}/")
    oauth.value["accessToken"] = SECOND
    app.accepts = {f"Bearer {SECOND}"}
    app.seen.clear()
    with (tmp_path / "upload").open("rb") as file:
        response = await session.post(f"{app.url}/", data=file)
    assert response.status == 401
    assert [seen.body for seen in app.seen] == [b"content"]


async def test_the_first_answer_gives_its_connection_back(fm, app, oauth):
    """Over a single connection: the second request would wait for ever for an answer that is never read."""
    middleware = CredentialMiddleware(fm, WORKER, oauth.id, origins=[app.url])
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(middlewares=(middleware,), connector=connector) as session:
        await (await session.get(f"{app.url}/")).read()
        oauth.value["accessToken"] = SECOND
        app.accepts = {f"Bearer {SECOND}"}
        timeout = aiohttp.ClientTimeout(total=5)
        assert (await session.get(f"{app.url}/long", timeout=timeout)).status == 200


async def test_a_web_socket_belongs_to_the_origin_of_its_handshake(session, app):
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await session.ws_connect(app.url.replace("http://", "ws://"))
    assert app.credentials == [f"Bearer {FIRST}"]
