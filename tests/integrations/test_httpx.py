"""What is httpx's own: it follows redirects between its auth and its transport."""

import ssl
import subprocess
import sys

import httpcore
import httpx
import pytest

from flowmate_async import ConfigurationError
from flowmate_async.integrations.httpx import FlowMateAuth, FlowMateTransport

from .conftest import FIRST, SECOND, WORKER

pytestmark = pytest.mark.anyio

BEARER = f"Bearer {FIRST}"


async def test_httpx_itself_would_carry_an_api_key_to_another_origin(app, elsewhere):
    """Why the auth refuses every header but Authorization. If this fails, httpx has become stricter."""

    class Naive(httpx.Auth):
        async def async_auth_flow(self, request):
            request.headers["X-Api-Key"] = "abroad"
            yield request

    async with httpx.AsyncClient(follow_redirects=True, trust_env=False, auth=Naive()) as client:
        await client.get(app.redirect(f"{elsewhere.url}/"))
    assert elsewhere.credentials == ["abroad"]


async def test_the_auth_refuses_an_api_key_and_names_the_transport(fm, app, api_key, exposed):
    auth = FlowMateAuth(fm, WORKER, api_key.id, origins=[app.url])
    async with httpx.AsyncClient(trust_env=False, auth=auth) as client:
        with pytest.raises(ConfigurationError, match="FlowMateTransport") as caught:
            await client.get(f"{app.url}/")
    assert app.seen == []
    assert FIRST not in exposed(caught.value)


def test_the_auth_refuses_a_synchronous_client(fm_unentered):
    auth = FlowMateAuth(fm_unentered, WORKER, "0" * 24, origins=["https://api.example.com"])
    with (
        httpx.Client(trust_env=False, auth=auth) as client,
        pytest.raises(ConfigurationError, match="AsyncClient"),
    ):
        client.get("https://api.example.com/")


def test_the_auth_refuses_the_one_redirect_on_which_httpx_keeps_authorization(fm_unentered):
    with pytest.raises(ConfigurationError, match="https://localhost"):
        FlowMateAuth(fm_unentered, WORKER, "0" * 24, origins=["http://localhost"])
    both = ["http://localhost", "https://localhost"]
    assert FlowMateAuth(fm_unentered, WORKER, "0" * 24, origins=both)
    assert FlowMateTransport(fm_unentered, WORKER, "0" * 24, origins=["http://localhost"])


async def test_after_a_redirect_the_auth_does_not_send_the_first_request_again(fm, app, oauth):
    """The first hop has done its work: a POST that was answered with 303 must not be posted twice."""
    auth = FlowMateAuth(fm, WORKER, oauth.id, origins=[app.url])
    async with httpx.AsyncClient(follow_redirects=True, trust_env=False, auth=auth) as client:
        await client.get(f"{app.url}/")
        oauth.value["accessToken"] = SECOND
        app.accepts = {f"Bearer {SECOND}"}
        app.seen.clear()
        response = await client.post(app.redirect(f"{app.url}/result", status=303), content=b"pay")
        assert response.status_code == 401
        assert [(seen.method, seen.path) for seen in app.seen] == [("POST", "/redirect"), ("GET", "/result")]
        assert (await client.get(f"{app.url}/")).status_code == 200


async def test_the_auth_does_not_take_a_401_to_a_hop_without_it_for_a_rejection(
    fm, app, elsewhere, oauth, sandbox
):
    auth = FlowMateAuth(fm, WORKER, oauth.id, origins=[app.url])
    app.accepts = set()
    async with httpx.AsyncClient(follow_redirects=True, trust_env=False, auth=auth) as client:
        response = await client.get(app.redirect(elsewhere.redirect(f"{app.url}/back")))
    assert response.status_code == 401
    assert app.credentials == [BEARER, None]
    assert sum(sandbox.stats().requests["GET /secrets/{id}"].values()) == 1


async def test_the_first_answer_gives_its_connection_back(fm, app, oauth):
    """Over a single connection: the second request would wait for an answer that is never read."""
    inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=1))
    transport = FlowMateTransport(fm, WORKER, oauth.id, origins=[app.url], transport=inner)
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get(f"{app.url}/")
        oauth.value["accessToken"] = SECOND
        app.accepts = {f"Bearer {SECOND}"}
        assert (await client.get(f"{app.url}/long")).status_code == 200


async def test_a_request_that_cannot_be_written_shows_no_credential(fm, app, oauth, exposed, monkeypatch):
    async def stuck(*_args, **_options):
        raise httpcore.WriteTimeout

    transport = FlowMateTransport(fm, WORKER, oauth.id, origins=[app.url])
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get(f"{app.url}/")
        monkeypatch.setattr("httpcore._backends.anyio.AnyIOStream.write", stuck)
        with pytest.raises(httpx.WriteTimeout) as caught:
            await client.get(f"{app.url}/")
    assert FIRST not in exposed(caught.value)


async def test_a_request_may_go_without_the_auth(fm, app, oauth):
    auth = FlowMateAuth(fm, WORKER, oauth.id, origins=[app.url])
    async with httpx.AsyncClient(trust_env=False, auth=auth) as client:
        await client.get(f"{app.url}/", auth=None, headers={"Authorization": "Bearer mine"})
    assert app.credentials == ["Bearer mine"]


@pytest.mark.parametrize("way", ["auth", "transport"])
async def test_the_answer_does_not_hold_the_credential(fm, app, oauth, way):
    made = FlowMateAuth if way == "auth" else FlowMateTransport
    options = {way: made(fm, WORKER, oauth.id, origins=[app.url])}
    async with httpx.AsyncClient(follow_redirects=False, trust_env=False, **options) as client:
        response = await client.get(f"{app.url}/")
    assert app.credentials == [BEARER]
    assert "Authorization" not in response.request.headers


async def test_a_redirect_that_is_followed_by_hand_works_as_well(fm, app, oauth):
    transport = FlowMateTransport(fm, WORKER, oauth.id, origins=[app.url])
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.get(app.redirect(f"{app.url}/there"))
        assert (await client.send(response.next_request)).status_code == 200
    assert app.credentials == [BEARER, BEARER]


async def test_the_transport_sends_through_the_one_it_is_given_and_closes_it(fm, oauth, app):
    class Inner(httpx.AsyncBaseTransport):
        closed = False

        async def handle_async_request(self, request):
            return httpx.Response(200, text=request.headers["Authorization"])

        async def aclose(self):
            self.closed = True

    inner = Inner()
    async with httpx.AsyncClient(
        transport=FlowMateTransport(fm, WORKER, oauth.id, origins=[app.url], transport=inner)
    ) as client:
        assert (await client.get(f"{app.url}/")).text == BEARER
    assert inner.closed


def test_without_httpx_the_error_names_the_extra():
    code = "import sys; sys.modules['httpx'] = None; import flowmate_async.integrations.httpx"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'flowmate-async[httpx]'" in done.stderr.splitlines()[-1]


@pytest.fixture
def fm_unentered():
    """A lender that must not be asked."""
    return object()


async def test_transports_of_one_process_share_a_tls_context(fm, oauth, monkeypatch):
    made, genuine = [], ssl.SSLContext.load_default_certs

    def counted(context, *arguments):
        made.append(context)
        genuine(context, *arguments)

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", counted)
    for _ in range(3):
        assert FlowMateTransport(fm, WORKER, oauth.id, origins=["https://app.example"])
    assert len(made) <= 1
