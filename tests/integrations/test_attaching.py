"""A credential reaches only its own app; a 401 causes exactly one retry."""

import pytest

from flowmate_async import ConfigurationError, SecretNotFoundError, UpstreamUnavailableError

from .conftest import FIRST, KEY_HEADER, SECOND, WORKER

pytestmark = pytest.mark.anyio

BEARER = f"Bearer {FIRST}"
NEWER = f"Bearer {SECOND}"


def fetches(sandbox):
    return sum(sandbox.stats().requests.get("GET /secrets/{id}", {}).values())


async def test_the_app_gets_the_credential(attach, oauth, app):
    app.accepts = {BEARER}
    send = await attach(oauth)
    assert (await send("GET", f"{app.url}/")).status == 200


async def test_many_requests_fetch_the_credential_once(attach, oauth, app, sandbox):
    send = await attach(oauth)
    for _ in range(5):
        await send("GET", f"{app.url}/")
    assert app.credentials == [BEARER] * 5
    assert fetches(sandbox) == 1


async def test_another_origin_does_not_get_it(attach, oauth, elsewhere, sandbox):
    send = await attach(oauth)
    await send("GET", f"{elsewhere.url}/")
    assert elsewhere.credentials == [None]
    assert fetches(sandbox) == 0


async def test_it_does_not_travel_along_a_redirect_to_another_origin(attach, oauth, app, elsewhere):
    send = await attach(oauth)
    answer = await send("GET", app.redirect(f"{elsewhere.url}/there"))
    assert answer.hops == 1
    assert app.credentials == [BEARER]
    assert elsewhere.credentials == [None]


async def test_out_and_back_the_other_origin_never_sees_it(attach, oauth, app, elsewhere):
    send = await attach(oauth)
    await send("GET", app.redirect(elsewhere.redirect(f"{app.url}/back")))
    assert elsewhere.credentials == [None]
    assert app.seen[0].credential == BEARER


async def test_an_api_key_stays_at_home_as_well(attach_per_hop, api_key, app, elsewhere):
    send = await attach_per_hop(api_key)
    await send("GET", app.redirect(elsewhere.redirect(f"{app.url}/back")))
    assert elsewhere.credentials == [None]
    assert app.credentials == [FIRST, FIRST]


async def test_a_redirect_into_the_app_gets_it_on_that_hop(attach_per_hop, oauth, app, elsewhere):
    send = await attach_per_hop(oauth)
    await send("GET", elsewhere.redirect(f"{app.url}/"))
    assert elsewhere.credentials == [None]
    assert app.credentials == [BEARER]


async def test_a_redirect_within_the_app_keeps_it(attach, oauth, app):
    send = await attach(oauth)
    await send("GET", app.redirect(f"{app.url}/there"))
    assert app.credentials == [BEARER, BEARER]


async def test_a_401_elsewhere_rejects_nothing(attach, oauth, app, elsewhere, sandbox):
    elsewhere.accepts = set()
    send = await attach(oauth)
    answer = await send("GET", app.redirect(f"{elsewhere.url}/"))
    assert answer.status == 401
    assert fetches(sandbox) == 1
    assert len(elsewhere.seen) == 1


@pytest.mark.parametrize("body", [None, b"month=7"])
async def test_after_a_401_it_is_sent_once_more_with_the_newer_one(attach, oauth, app, sandbox, body):
    send = await attach(oauth)
    await send("GET", f"{app.url}/")  # the cache holds the first one now
    app.seen.clear()
    oauth.value["accessToken"] = SECOND
    app.accepts = {NEWER}
    answer = await send("POST", f"{app.url}/", body=body)
    assert answer.status == 200
    assert app.credentials == [BEARER, NEWER]
    assert [seen.body for seen in app.seen] == [body or b""] * 2
    assert fetches(sandbox) == 2


async def test_without_a_newer_one_the_caller_gets_the_apps_own_401(attach, oauth, app):
    app.accepts = set()
    send = await attach(oauth)
    answer = await send("GET", f"{app.url}/")
    assert (answer.status, answer.text) == (401, "who are you?")
    assert app.credentials == [BEARER]


async def test_a_newer_one_that_is_rejected_too_ends_it(attach, oauth, app):
    send = await attach(oauth)
    await send("GET", f"{app.url}/")
    app.seen.clear()
    oauth.value["accessToken"] = SECOND
    app.accepts = set()
    answer = await send("GET", f"{app.url}/")
    assert (answer.status, answer.text) == (401, "who are you?")
    assert app.credentials == [BEARER, NEWER]


async def test_a_stream_is_not_sent_twice_but_the_next_request_has_the_newer_one(attach, oauth, app):
    async def stream():
        yield b"once"

    send = await attach(oauth)
    await send("GET", f"{app.url}/")
    app.seen.clear()
    oauth.value["accessToken"] = SECOND
    app.accepts = {NEWER}
    assert (await send("POST", f"{app.url}/", body=stream())).status == 401
    assert [seen.body for seen in app.seen] == [b"once"]
    assert (await send("GET", f"{app.url}/")).status == 200


async def test_a_large_body_that_the_app_refused_unread_is_sent_whole(attach, oauth, app):
    body = b"0123456789abcdef" * 2**18
    send = await attach(oauth)
    await send("GET", f"{app.url}/")
    app.seen.clear()
    oauth.value["accessToken"] = SECOND
    app.accepts = {NEWER}
    answer = await send("POST", f"{app.url}/early", body=body)
    assert answer.status == 200
    assert app.credentials == [BEARER, NEWER]
    assert answer.text == str(len(body))


@pytest.mark.parametrize("header", ["Authorization", "authorization"])
async def test_a_header_of_the_callers_own_is_an_error_not_overwritten(attach, oauth, app, header, exposed):
    send = await attach(oauth)
    with pytest.raises(ConfigurationError, match="already has the header Authorization") as caught:
        await send("GET", f"{app.url}/", headers={header: "Bearer mine"})
    assert app.seen == []
    assert FIRST not in exposed(caught.value)


async def test_elsewhere_a_header_of_the_callers_own_is_his(attach, oauth, elsewhere):
    send = await attach(oauth)
    await send("GET", f"{elsewhere.url}/", headers={"Authorization": "Bearer mine"})
    assert elsewhere.credentials == ["Bearer mine"]


async def test_a_key_without_a_header_takes_the_default_one(attach_per_hop, api_key, app):
    del api_key.value["headerName"]
    send = await attach_per_hop(api_key, default_header=KEY_HEADER)
    await send("GET", f"{app.url}/")
    assert app.credentials == [FIRST]


async def test_a_key_without_any_header_is_not_guessed(attach, api_key, app):
    del api_key.value["headerName"]
    send = await attach(api_key)
    with pytest.raises(ConfigurationError, match=r"names no header.*default_header") as caught:
        await send("GET", f"{app.url}/")
    assert (caught.value.username, caught.value.secret_id) == (WORKER, api_key.id)
    assert app.seen == []


async def test_a_secret_that_is_gone_is_the_callers_error(attach, oauth, app, sandbox):
    send = await attach(oauth)
    sandbox.world.remove_secret(oauth.id)
    with pytest.raises(SecretNotFoundError):
        await send("GET", f"{app.url}/")
    assert app.seen == []


async def test_a_newer_one_that_cannot_be_fetched_is_the_callers_error(attach, oauth, app, monkeypatch):
    send = await attach(oauth)
    await send("GET", f"{app.url}/")
    app.accepts = set()

    async def down(*_args, **_options):
        raise UpstreamUnavailableError("FlowMate is down")

    monkeypatch.setattr("flowmate_async.access.fetch.SecretFetcher.get", down)
    with pytest.raises(UpstreamUnavailableError):
        await send("GET", f"{app.url}/")


async def test_an_app_that_hangs_up_shows_no_credential(attach, oauth, app, exposed):
    send = await attach(oauth)
    with pytest.raises(Exception, match=r"(?i)disconnected") as caught:
        await send("GET", f"{app.url}/drop")
    assert FIRST not in exposed(caught.value)
    assert FIRST not in repr(caught.value)
    assert app.credentials[0] == BEARER
