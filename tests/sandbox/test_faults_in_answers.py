"""Faults of answers, of the world behind them, of the provider and of the services behind the gateway."""

import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from flowmate_async.sandbox import Faults, ProviderFault, faults, faults_from_text

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
BOB = "user-000001@tenant.example"


def only(*rules: faults.Fault) -> Faults:
    return Faults(rules=rules)


def expired(sandbox: Any) -> Any:
    value = {
        "authClientId": "0" * 24,
        "accessToken": "a",
        "refreshToken": "r",
        "expires": "2020-01-01T00:00:00Z",
    }
    return sandbox.world.add_secret(ALICE, type="OA2_AUTHORIZATION_CODE", value=value)


@pytest.mark.parametrize("said", ["seconds", "date", "none"])
async def test_a_429_comes_with_or_without_retry_after(running: Any, clock: Any, said: str) -> None:
    """Whole seconds or an HTTP date; the endpoint is not reached, and it is counted as throttled."""
    rule = faults.Throttle(retry_after=said, retry_after_seconds=7)
    async with running(now=clock, faults=only(rule)) as (sandbox, call):
        reply = await call.send("POST", "/impersonate", sandbox.admin_token, json={"username": ALICE})
        assert reply.status == 429
        assert (sandbox.stats().throttled, sandbox.stats().impersonations) == (1, 0)
        told = reply.headers.get("retry-after")
        if said == "date":
            assert parsedate_to_datetime(told).timestamp() == clock.instant + 7
        else:
            assert told == {"seconds": "7", "none": None}[said]


@pytest.mark.parametrize(("rule", "processed"), [(faults.Error, 0), (faults.ErrorAfter, 1)])
@pytest.mark.parametrize(
    ("status", "kind"), [(500, "application/json"), (502, "text/html"), (503, "text/html")]
)
async def test_a_server_error_may_come_before_or_after_processing(
    running: Any, rule: Any, processed: int, status: int, kind: str
) -> None:
    """500 as the services say it, 502 and 503 as a gateway does."""
    async with running(faults=only(rule(status=status, retry_after_seconds=3))) as (sandbox, call):
        reply = await call.send("POST", "/impersonate", sandbox.admin_token, json={"username": ALICE})
        assert (reply.status, reply.headers["retry-after"]) == (status, "3")
        assert reply.headers["content-type"].startswith(kind)
        assert sandbox.stats().impersonations == processed


PAGES = [
    # Page, status, content type, what the body says.
    ("default_backend", 404, "text/plain; charset=utf-8", b"default backend - 404"),
    ("firewall", 403, "text/html", b"403 Forbidden"),
    ("unavailable", 503, "text/html", b"503 Service Temporarily Unavailable"),
    ("bad_gateway", 502, "text/html", b"502 Bad Gateway"),
    ("gateway_timeout", 504, "text/html", b"504 Gateway Time-out"),
]


@pytest.mark.observes("Second look: outages", "FlowMate's ingress can answer")
@pytest.mark.parametrize(("page", "status", "kind", "says"), PAGES)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_ingress_may_answer_instead_of_the_service(
    running: Any, page: Any, status: int, kind: str, says: bytes, method: str
) -> None:
    """Not JSON, not processed, and only where the rule applies; the text form names the page too."""
    path = {"GET": "/users/", "POST": "/impersonate"}[method]
    rules = faults_from_text(f"ingress_page page={page} at_most=1 @ {method} {path}")
    async with running(faults=rules) as (sandbox, call):
        replies = [
            await call.send(method, path, sandbox.admin_token, json={"username": ALICE}) for _ in range(2)
        ]
        assert (replies[0].status, replies[0].headers["content-type"]) == (status, kind)
        assert says in replies[0].body
        assert not {"etag", "vary", "access-control-allow-credentials"} & replies[0].headers.keys()
        assert replies[1].status == 200
        assert sandbox.stats().faults == {"ingress_page": 1}
        assert sandbox.stats().impersonations == (method == "POST")


@pytest.mark.observes("Second look: outages", "None of these is an answer")
async def test_every_403_and_404_of_the_service_itself_is_json(running: Any) -> None:
    """On the endpoints of secrets and impersonation; unknown routes are HTML."""
    async with running(users=2) as (sandbox, call):
        token, bobs = await call.impersonate(ALICE), sandbox.world.secrets_of(BOB)[0].id
        for method, path, sent, status in (
            ("GET", f"/secrets/{'0' * 24}", token, 404),
            ("GET", f"/secrets/{bobs}", token, 403),
            ("GET", "/users/", token, 403),
            ("POST", "/impersonate", token, 403),
            ("POST", "/impersonate", sandbox.admin_token, 404),
        ):
            reply = await call.send(method, path, sent, json={"username": "nobody"})
            assert (reply.status, reply.json().keys()) == (status, {"message"})


def test_an_ingress_page_that_does_not_exist_is_refused() -> None:
    """The message names the pages."""
    with pytest.raises(ValueError, match="page"):
        faults_from_text("ingress_page page=nonsense")


async def listing(running: Any, rule: faults.Fault) -> Any:
    async with running(faults=only(rule)) as (sandbox, call):
        token = sandbox.world.tokens.issue(sandbox.world.user(ALICE)).token
        reply = await call.get("/secrets/", token)
        assert sandbox.stats().faults == {rule.kind: 1}
        assert sandbox.stats().lists == {ALICE: 1}
        assert "etag" not in reply.headers
        return reply


async def test_html_comes_instead_of_json(running: Any) -> None:
    """Under a status of 200."""
    reply = await listing(running, faults.Html())
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html")
    assert b"<html>" in reply.body


async def test_json_that_is_no_utf8(running: Any) -> None:
    """One byte makes it so."""
    reply = await listing(running, faults.InvalidUtf8())
    with pytest.raises(UnicodeDecodeError):
        reply.body.decode()
    assert reply.body.decode("utf-8", "ignore").startswith('{"data":[{')


async def test_json_that_breaks_off(running: Any) -> None:
    """Its `Content-Length` is right all the same."""
    reply = await listing(running, faults.InvalidJson())
    assert int(reply.headers["content-length"]) == len(reply.body) > 100
    with pytest.raises(ValueError, match="truncated"):
        reply.json()


async def test_json_that_is_huge_and_true(running: Any) -> None:
    """White space blows it up: a client may read it or refuse it, never misread it."""
    reply = await listing(running, faults.HugeJson(size_bytes=5_000_000))
    assert len(reply.body) == 5_000_000
    assert reply.json()["meta"]["total"] == 40


async def test_tokens_are_revoked_while_they_are_used(running: Any) -> None:
    """A 401 in mid-run for one user; others' tokens live, and a new one can be had."""
    rule = faults.TokenRevoked(skip=1, at_most=1)
    async with running(faults=only(rule)) as (sandbox, call):
        alice, bob = await call.impersonate(ALICE), await call.impersonate(BOB)
        statuses = [(await call.get("/secrets/", token)).status for token in (alice, alice, bob, alice)]
        assert statuses == [200, 401, 200, 401]
        assert (await call.get("/secrets/", await call.impersonate(ALICE))).status == 200
        assert sandbox.stats().faults == {"token_revoked": 1}


async def test_users_are_deleted_while_they_are_read(running: Any) -> None:
    """Token, account, secrets and truth are gone; the rest of the tenant is as it was."""
    async with running(users=5) as (sandbox, call):
        count, mine = sandbox.world.user_count, sandbox.world.secrets_of(ALICE)
        bobs = sandbox.world.secrets_of(BOB)
        alice, bob = await call.impersonate(ALICE), await call.impersonate(BOB)
        sandbox.configure(faults=only(faults.UserDeleted(at_most=1)))
        assert (await call.get("/secrets/", alice)).status == 401
        reply = await call.send("POST", "/impersonate", sandbox.admin_token, json={"username": ALICE})
        assert (reply.status, reply.json()) == (404, {"message": "FORBIDDEN"})
        everybody = (await call.get("/users/", sandbox.admin_token)).json()
        assert len(everybody) == sandbox.world.user_count == count - 1
        assert ALICE not in {user["username"] for user in everybody}
        assert ALICE not in {truth.username for truth in sandbox.world.truth()}
        assert (await call.get(f"/secrets/{mine[0].id}", bob)).status == 404
        assert (await call.get(f"/secrets/{bobs[0].id}", bob)).status == 200


async def test_a_deleted_user_can_come_again_without_secrets(running: Any) -> None:
    """Created on first use, with another id."""
    async with running(create_users_on_impersonate=True) as (sandbox, call):
        before = sandbox.world.user(ALICE).id
        sandbox.world.delete_user(ALICE)
        token = await call.impersonate(ALICE)
        assert (await call.get("/secrets/", token)).json()["meta"]["total"] == 0
        assert sandbox.world.user(ALICE).id != before
        sandbox.world.delete_user(ALICE)
        assert sandbox.world.user(ALICE) is None


async def test_items_move_between_the_pages_of_a_list(running: Any) -> None:
    """One item is missed although `meta.total` stays; a second walk without the fault finds all."""
    async with running(faults=only(faults.ItemsMove(at_most=1))) as (sandbox, call):
        token = await call.impersonate(ALICE)

        async def walk() -> set[str]:
            pages = [(await call.get(f"/secrets/?page[number]={n}", token)).json() for n in (1, 2)]
            assert [page["meta"]["total"] for page in pages] == [40, 40]
            return {item["_id"] for page in pages for item in page["data"]}

        assert len(await walk()) == 39
        assert await walk() == {secret.id for secret in sandbox.world.secrets_of(ALICE)}


@pytest.mark.observes("Errors", "IAM down")
@pytest.mark.parametrize("token", [True, False])
async def test_while_iam_is_down_every_token_is_refused(running: Any, token: bool) -> None:
    """401 `… Details: Authorization failed`; without a token it is the usual 401."""
    async with running(faults=only(faults.IamDown())) as (sandbox, call):
        good = await call.impersonate(ALICE) if token else None
        for path in ("/secrets/", f"/secrets/{'0' * 24}"):
            reply = await call.get(path, good)
            assert reply.status == 401
            message = reply.json()["message"]
            assert message.endswith(
                "Details: Authorization failed" if token else "Missing authorization header."
            )
        assert sandbox.stats().lists == {}


@pytest.mark.observes("Errors", "database down")
async def test_while_the_database_is_down_a_get_by_id_is_a_silent_401_after_a_while(running: Any) -> None:
    """30 s upstream, here what is asked for; lists and impersonations are not touched."""
    assert faults.DatabaseDown().seconds == 30
    async with running(faults=only(faults.DatabaseDown(seconds=0.05))) as (sandbox, call):
        token = await call.impersonate(ALICE)
        began = time.monotonic()
        reply = await call.get(f"/secrets/{sandbox.world.secrets_of(ALICE)[0].id}", token)
        assert time.monotonic() - began >= 0.05
        assert (reply.status, reply.body) == (401, b'{"message":""}')
        assert (await call.get("/secrets/", token)).status == 200


async def test_a_share_of_the_refreshes_fails_at_the_provider(running: Any) -> None:
    """Counted by refreshes; a secret's own fault goes before it, and the setting comes after."""
    rules = only(faults.Provider(fault=ProviderFault.ERROR_BODY, at_most=1))
    async with running(faults=rules, provider_fault=ProviderFault.NO_EXPIRES_IN) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        path = f"/secrets/{secret.id}"
        statuses = [(await call.get(path, token)).status for _ in range(3)]
        assert (statuses, sandbox.stats().faults) == ([500, 200, 200], {"provider": 1})
        assert sandbox.stats().refreshes == {secret.id: 3}


async def test_a_rotation_that_got_lost_kills_the_refresh_token_for_good(running: Any, clock: Any) -> None:
    """The provider rotated, nobody heard: a 500 that names the token URL, then a dead refresh token."""
    rules = only(faults.Provider(fault=ProviderFault.ROTATION_LOST, at_most=1))
    async with running(faults=rules, now=clock) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        first = await call.get(f"/secrets/{secret.id}", token)
        assert (first.status, "https://provider.example/" in first.json()["message"]) == (500, True)
        clock.advance(11)
        for _ in range(2):
            assert (await call.get(f"/secrets/{secret.id}", token)).json() == {"message": ""}
        assert secret.current_error["error"] == "bad_refresh_token"
        assert secret.value["refreshToken"] == "r"


@pytest.mark.parametrize("distribution", list(faults.Distribution))
async def test_a_latency_holds_requests_back(running: Any, distribution: Any) -> None:
    """Beside other faults, and before the request is processed."""
    rule = faults.Latency(seconds=60, distribution=distribution, most_seconds=0.05)
    async with running(faults=only(rule, faults.Error())) as (sandbox, call):
        began = time.monotonic()
        assert (await call.get("/secrets/")).status == 503
        assert time.monotonic() - began >= 0.05
        assert sandbox.stats().faults == {"latency": 1, "error": 1}
