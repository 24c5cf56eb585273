"""docs/contract/OBSERVED.md § Errors."""

from typing import Any

import pytest

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
BOB = "user-000001@tenant.example"
NOT_FOUND_IN_IAM = "Token invalid. Error: Error. Details: Token not found in IAM"


@pytest.mark.observes("Errors", "unknown id", "malformed id")
@pytest.mark.parametrize(
    ("secret_id", "status"),
    [
        ("0123456789abcdef01234567", 404),
        ("not-an-id", 401),
        ("0123456789abcdef0123456", 401),
        ("0123456789abcdef0123456%67", 401),
    ],
)
async def test_an_id_is_unknown_or_malformed(running: Any, secret_id: str, status: int) -> None:
    """Unknown: 404. Malformed: 401, of all things. Both say nothing."""
    async with running() as (_, call):
        reply = await call.get(f"/secrets/{secret_id}", await call.impersonate(ALICE))
        assert (reply.status, reply.body) == (status, b'{"message":""}')


@pytest.mark.observes("Errors", "secret of another user")
async def test_anothers_secret_is_forbidden_even_if_nobody_read_it_before(running: Any) -> None:
    """403 with an empty message; for the administrator too, and never a refresh."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        for secret in sandbox.world.secrets_of(BOB):
            for reader in (token, sandbox.admin_token):
                reply = await call.get(f"/secrets/{secret.id}", reader)
                assert (reply.status, reply.body) == (403, b'{"message":""}')
        assert sandbox.stats().refreshes == sandbox.stats().secret_gets == {}


@pytest.mark.observes("Errors", "no Authorization")
@pytest.mark.parametrize("path", ["/secrets/", "/secrets/0123456789abcdef01234567"])
async def test_secrets_need_a_token_that_is_known(running: Any, path: str) -> None:
    """Two different 401s: without the header, and with an unknown token."""
    async with running() as (_, call):
        without = await call.get(path)
        assert (without.status, without.json()["message"]) == (401, "Missing authorization header.")
        unknown = await call.get(path, "stranger")
        assert (unknown.status, unknown.json()["message"]) == (401, NOT_FOUND_IN_IAM)


@pytest.mark.observes("Errors", "unknown route")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nothing"),
        ("GET", "/secrets/a/b"),
        ("POST", "/secrets/"),
        ("PUT", "/secrets/0123456789abcdef01234567"),
        ("DELETE", "/secrets/"),
        ("GET", "/impersonate"),
    ],
)
async def test_an_unknown_route_is_a_page_of_html(running: Any, method: str, path: str) -> None:
    """404 text/html with the framework's words."""
    async with running() as (_, call):
        reply = await call.send(method, f"{path}?q=1", "any")
        assert (reply.status, reply.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert f"<pre>Cannot {method} /api/v1{path}</pre>" in reply.body.decode()


async def test_an_unknown_route_cannot_put_markup_into_the_page(running: Any) -> None:
    """What was asked for is quoted."""
    async with running() as (_, call):
        assert b"&lt;b&gt;" in (await call.get("/<b>")).body


@pytest.mark.parametrize("path", ["/secrets", "/users", "/impersonate/"])
async def test_a_slash_at_the_end_makes_no_difference(running: Any, path: str) -> None:
    """`/secrets` and `/secrets/` are one route."""
    async with running() as (_, call):
        method = "POST" if "impersonate" in path else "GET"
        assert (await call.send(method, path)).status == 401


@pytest.mark.observes("Errors", "JSON errors are")
async def test_most_errors_are_json_with_one_field_and_some_are_not(running: Any) -> None:
    """`message`, which may be empty; a page for an unknown route, plain text for an unknown user."""
    async with running() as (sandbox, call):
        kinds = []
        for path, token in (
            ("/secrets/", None),
            ("/secrets/not-an-id", await call.impersonate(ALICE)),
            ("/nothing", None),
            (f"/users/{'0' * 24}", sandbox.admin_token),
        ):
            reply = await call.get(path, token)
            kind = reply.headers["content-type"].partition(";")[0]
            kinds.append(kind)
            assert kind != "application/json" or set(reply.json()) == {"message"}
        assert kinds == ["application/json", "application/json", "text/html", "text/plain"]
