"""docs/contract/OBSERVED.md § Impersonation."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
BOB = "user-000001@tenant.example"


async def try_token(call: Any, token: str) -> int:
    status: int = (await call.get("/secrets/", token)).status
    return status


async def ask(call: Any, sandbox: Any, body: Any) -> Any:
    return await call.send("POST", "/impersonate", sandbox.admin_token, **body)


@pytest.mark.observes("Impersonation", "Tokens are opaque", "Impersonating the same user twice")
async def test_a_token_is_opaque_and_new_each_time(running: Any) -> None:
    """171 url-safe characters; impersonating again gives another one, and both are good."""
    async with running() as (_, call):
        tokens = [await call.impersonate(ALICE) for _ in range(3)]
        assert all(re.fullmatch(r"[\w-]{171}", token) for token in tokens)
        assert len(set(tokens)) == 3
        assert [await try_token(call, token) for token in tokens] == [200, 200, 200]


@pytest.mark.observes("Impersonation", "Response `", "No expiry is returned")
async def test_the_id_in_the_answer_is_the_tokens_not_the_users(running: Any) -> None:
    """As recorded: the id differs from the user's `_id` and changes with every token."""
    async with running() as (sandbox, call):
        replies = [await ask(call, sandbox, {"json": {"username": ALICE}}) for _ in range(2)]
        assert [set(reply.json()) for reply in replies] == [{"token", "id"}] * 2, "no expiry is told"
        ids = [reply.json()["id"] for reply in replies]
        assert len({*ids, sandbox.world.user(ALICE).id}) == 3
        assert all(re.fullmatch(r"[0-9a-f]{24}", one) for one in ids)


@pytest.mark.parametrize("username", ["", " ", "nobody@tenant.example"])
async def test_an_unknown_user_is_not_found(running: Any, username: str) -> None:
    """Unknown account: 404 FORBIDDEN."""
    async with running() as (sandbox, call):
        reply = await ask(call, sandbox, {"json": {"username": username}})
        assert (reply.status, reply.json()) == (404, {"message": "FORBIDDEN"})


@pytest.mark.observes("Impersonation", "Unknown/disabled account")
async def test_a_disabled_user_is_not_found_either(running: Any) -> None:
    """Disabled account: 404 FORBIDDEN like an unknown one, generated so or disabled later."""
    async with running() as (sandbox, call):
        sandbox.world.user(ALICE).status = "DISABLED"
        for username in (ALICE, "disabled-000000@tenant.example", "nobody@tenant.example"):
            reply = await ask(call, sandbox, {"json": {"username": username}})
            assert (reply.status, reply.json()) == (404, {"message": "FORBIDDEN"})


@pytest.mark.observes("Impersonation", "FlowMate's embedding guide")
async def test_users_are_created_on_first_use_when_asked_for(running: Any) -> None:
    """FlowMate creates the user on first use; a whitespace-only name creates no user."""
    async with running(create_users_on_impersonate=True) as (sandbox, call):
        token = await call.impersonate("new@customer.example")
        assert (await call.get("/secrets/", token)).json()["meta"]["total"] == 0
        assert sandbox.world.user("new@customer.example").active_tenant_user
        reply = await ask(call, sandbox, {"json": {"username": "  "}})
        assert reply.status == 404


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b'{"username":1}', 400), (b"{}", 404)])
async def test_a_body_that_names_nobody_is_refused(running: Any, body: bytes, status: int) -> None:
    """A malformed request never makes a token."""
    async with running() as (sandbox, call):
        assert (await ask(call, sandbox, {"data": body})).status == status
        assert sandbox.stats().impersonations == 0


@pytest.mark.observes("Impersonation", "Request `", "Missing permission")
async def test_only_the_admin_token_impersonates(running: Any) -> None:
    """Without a token 401 without a word, with an unknown one VALIDATION_ERROR, with a user's 403."""
    async with running() as (_, call):
        user = await call.impersonate(ALICE)
        for token, status, message in (
            (None, 401, ""),
            ("stranger", 401, "VALIDATION_ERROR"),
            (user, 403, "FORBIDDEN"),
        ):
            reply = await call.send("POST", "/impersonate", token, json={"username": BOB})
            assert (reply.status, reply.json()) == (status, {"message": message})


@pytest.mark.observes("Impersonation", "Default life 3 h")
async def test_every_use_of_a_token_prolongs_it(running: Any, clock: Any) -> None:
    """The life of three hours is sliding; an unused token dies."""
    async with running(now=clock) as (_, call):
        used, unused = await call.impersonate(ALICE), await call.impersonate(ALICE)
        for _ in range(3):
            clock.advance(2 * 3600)
            assert await try_token(call, used) == 200
        assert await try_token(call, unused) == 401
        clock.advance(3 * 3600)
        assert await try_token(call, used) == 401


@pytest.mark.observes("Errors", "user token expired")
async def test_a_revoked_token_is_unknown(running: Any) -> None:
    """Revoking one user's tokens leaves the others'; a new impersonation works again."""
    async with running() as (sandbox, call):
        alice, bob = await call.impersonate(ALICE), await call.impersonate(BOB)
        assert sandbox.world.revoke_tokens(ALICE) == 1
        reply = await call.get("/secrets/", alice)
        assert reply.json() == {"message": "Token invalid. Error: Error. Details: Token not found in IAM"}
        assert [reply.status, await try_token(call, bob)] == [401, 200]
        assert await try_token(call, await call.impersonate(ALICE)) == 200
        assert sandbox.world.revoke_tokens() == 2
        assert await try_token(call, bob) == 401
