"""docs/contract/OBSERVED.md § Users of the tenant."""

from typing import Any

import pytest

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
BOB = "user-000001@tenant.example"
ITEM = {"_id", "username", "firstname", "lastname", "status", "confirmed", "roles", "permissions"} | {
    "createdAt",
    "updatedAt",
    "__v",
}


async def names(call: Any, sandbox: Any, query: str) -> list[str]:
    reply = await call.get(f"/users/{query}", sandbox.admin_token)
    assert reply.status == 200
    return [user["username"] for user in reply.json()]


@pytest.mark.observes("Users of the tenant", "Not paginated", "The answer holds administrators", "Item:")
async def test_everybody_comes_in_one_bare_array(running: Any) -> None:
    """Not paginated, and administrators, service accounts and disabled users are among them."""
    async with running(users=4321, disabled_users=3) as (sandbox, call):
        reply = await call.get("/users/", sandbox.admin_token)
        users = reply.json()
        assert 300 < len(reply.body) / len(users) < 500, "about 400 bytes a user"
        assert all(ITEM <= user.keys() <= ITEM | {"tenant", "safeguard"} for user in users)
        assert len(users) == sandbox.world.user_count == 4321 + 3 + 3
        active = [
            user for user in users if user["status"] == "ACTIVE" and "tenant" in user and not user["roles"]
        ]
        assert len(active) == 4321
        assert {user["username"] for user in users if "tenant" not in user} == {
            "admin@tenant.example",
            "svc-secrets@tenant.example",
        }
        assert sum(user["status"] == "DISABLED" for user in users) == 3
        assert any(not user["confirmed"] for user in active)
        assert len({user["_id"] for user in users}) == len(users)


@pytest.mark.parametrize("value", ["true", "false", "1", ""])
async def test_meta_wraps_the_array_whatever_its_value(running: Any, value: str) -> None:
    """Without `meta` the body is a bare array."""
    async with running() as (sandbox, call):
        wrapped = (await call.get(f"/users/?meta={value}", sandbox.admin_token)).json()
        assert wrapped["meta"] == {"total": sandbox.world.user_count}
        assert len(wrapped["data"]) == sandbox.world.user_count
        bare = (await call.get("/users/", sandbox.admin_token)).json()
        assert bare == wrapped["data"]


@pytest.mark.observes("Users of the tenant", "`username` and `userId` filter", "`username` match is exact")
async def test_filters_repeat_and_match_the_lower_cased_query_exactly(running: Any) -> None:
    """`username` and `userId` may each stand more than once."""
    async with running() as (sandbox, call):
        assert await names(call, sandbox, f"?username={ALICE.upper()}") == [ALICE]
        assert await names(call, sandbox, f"?username={ALICE}&username={BOB}") == [ALICE, BOB]
        assert await names(call, sandbox, "?username=user-00000") == []
        wrapped = await call.get(f"/users/?meta=true&username={ALICE}", sandbox.admin_token)
        assert wrapped.json()["meta"] == {"total": 1}
        ids = [sandbox.world.user(name).id for name in (ALICE, BOB)]
        assert await names(call, sandbox, f"?userId={ids[0]}&userId={ids[1]}") == [ALICE, BOB]


async def test_a_username_with_capitals_is_kept_in_lower_case(running: Any) -> None:
    """Whatever case it is written in, it is one account."""
    async with running() as (sandbox, call):
        added = sandbox.world.add_user("Customer-A")
        assert await names(call, sandbox, "?username=CUSTOMER-A") == ["customer-a"]
        assert sandbox.world.user("customer-A") is added
        with pytest.raises(ValueError, match="already"):
            sandbox.world.add_user("CUSTOMER-A")


@pytest.mark.observes("Users of the tenant", "An empty `username=`")
async def test_an_empty_username_returns_everyone(running: Any) -> None:
    """An observed trap: an empty filter matches everything."""
    async with running() as (sandbox, call):
        assert len(await names(call, sandbox, "?username=")) == sandbox.world.user_count


@pytest.mark.observes("Users of the tenant", "Unknown id", "Bad id")
async def test_one_user_by_id(running: Any) -> None:
    """Unknown id: 404 text/plain. Bad id: 500."""
    async with running() as (sandbox, call):
        alice = sandbox.world.user(ALICE)
        found = await call.get(f"/users/{alice.id}", sandbox.admin_token)
        assert (found.status, found.json()["username"]) == (200, ALICE)
        unknown = await call.get(f"/users/{'0' * 24}", sandbox.admin_token)
        assert unknown.status == 404
        assert unknown.headers["content-type"].startswith("text/plain")
        assert (await call.get("/users/bad", sandbox.admin_token)).status == 500
        assert (await call.get("/users/?userId=bad", sandbox.admin_token)).status == 500


@pytest.mark.observes("Users of the tenant", "Needs an admin token")
@pytest.mark.parametrize("path", ["/users/", "/users/000000000000000000000000"])
async def test_users_need_the_admin_token(running: Any, path: str) -> None:
    """No token 401, a user's token 403."""
    async with running() as (_, call):
        user = await call.impersonate(ALICE)
        assert [(await call.get(path, token)).status for token in (None, "x", user)] == [
            401,
            401,
            403,
        ]


async def test_a_change_to_a_user_is_seen_by_the_next_reader(running: Any) -> None:
    """The world may be changed while the sandbox runs."""
    async with running() as (sandbox, call):
        sandbox.world.user(BOB).status = "DISABLED"
        users = (await call.get(f"/users/?username={BOB}", sandbox.admin_token)).json()
        assert users[0]["status"] == "DISABLED"
