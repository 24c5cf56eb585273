"""The admin API adds, changes and removes users and secrets; the next public request sees it."""

from typing import Any

import pytest

from flowmate_async.sandbox import RAW_READ

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
BOB = "user-000001@tenant.example"
TYPES = ("SIMPLE", "API_KEY", "OA2_AUTHORIZATION_CODE", "SESSION_AUTH", "MIXED", "OA1_THREE_LEGGED")
CREDENTIAL_OF = {
    "SIMPLE": "passphrase",
    "API_KEY": "key",
    "OA2_AUTHORIZATION_CODE": "accessToken",
    "SESSION_AUTH": "accessToken",
    "MIXED": "payload",
    "OA1_THREE_LEGGED": "accessTokenSecret",
}


async def change(call: Any, method: str, route: str, body: Any = None) -> Any:
    reply = await call.admin(method, route, json=body)
    assert reply.status == 200, reply
    return reply.json()


async def listed(call: Any, username: str) -> dict[str, str]:
    """Return id -> name of what a user's listing shows."""
    reply = await call.get("/secrets/?page[size]=100", await call.impersonate(username))
    return {item["_id"]: item["name"] for item in reply.json()["data"]}


async def fetched(call: Any, username: str, secret_id: str) -> Any:
    reply = await call.get(f"/secrets/{secret_id}", await call.impersonate(username))
    assert reply.status == 200, reply
    return reply.json()["data"]


async def impersonation(call: Any, sandbox: Any, username: str) -> int:
    body = {"username": username}
    status: int = (await call.send("POST", "/impersonate", sandbox.admin_token, json=body)).status
    return status


async def test_an_administrator_or_service_account_can_be_added(running: Any) -> None:
    """Outside of the tenant, with roles, and not one of its active users."""
    async with running(users=2) as (sandbox, call):
        body = {"username": "svc", "in_tenant": False, "roles": ["r"], "permissions": []}
        added = await change(call, "POST", "users", body | {"user_id": "AB" * 12, "status": "DISABLED"})
        assert "tenant" not in added
        assert (added["roles"], added["permissions"], added["status"]) == (["r"], [], "DISABLED")
        assert added["_id"] == "ab" * 12
        assert not sandbox.world.user("svc").active_tenant_user


async def test_changes_move_the_time_of_the_last_update(running: Any, clock: Any) -> None:
    """Of a user that is changed and of a secret that is rotated; the creation stays."""
    async with running(users=2, now=clock) as (_, call):
        secret = await change(call, "POST", "secrets", {"type": "API_KEY", "owners": [ALICE]})
        await change(call, "POST", "users", {"username": "new"})
        clock.advance(60)
        changed = await change(call, "PATCH", "users/new", {"raw_read": False})
        rotated = await change(call, "POST", f"secrets/{secret['id']}/rotate")
        times = [changed["createdAt"], changed["updatedAt"], rotated["created_at"], rotated["updated_at"]]
        assert times == ["2027-01-15T08:00:00.000Z", "2027-01-15T08:01:00.000Z"] * 2


async def test_a_user_is_added_changed_and_removed(running: Any) -> None:
    """The username is kept in lower case, and a path may name it in any case or encoded."""
    async with running(users=2) as (sandbox, call):
        added = await change(call, "POST", "users", {"username": "New/User", "confirmed": False})
        assert (added["username"], added["tenant"]) == ("new/user", sandbox.world.tenant_id)
        assert (added["permissions"], added["confirmed"]) == ([RAW_READ], False)
        assert await impersonation(call, sandbox, "new/user") == 200
        path = "users/NEW%2FUser"
        assert (await change(call, "GET", path))["_id"] == added["_id"]
        await change(call, "PATCH", path, {"status": "DISABLED", "roles": ["r"], "permissions": ["p"]})
        shown = (await call.get(f"/users/{added['_id']}", sandbox.admin_token)).json()
        assert (shown["status"], shown["roles"], shown["permissions"]) == ("DISABLED", ["r"], ["p"])
        assert await impersonation(call, sandbox, "new/user") == 404
        await change(call, "PATCH", path, {"status": "ACTIVE"})
        assert await impersonation(call, sandbox, "new/user") == 200
        await change(call, "DELETE", path)
        assert (await call.get(f"/users/{added['_id']}", sandbox.admin_token)).status == 404
        assert await impersonation(call, sandbox, "new/user") == 404


async def test_the_permission_of_one_user_is_taken_away_and_given_back(running: Any) -> None:
    """Other permissions and other users keep what they have, and a token need not be replaced."""
    async with running(users=2) as (_, call):
        secret = await change(call, "POST", "secrets", {"type": "API_KEY", "owners": [ALICE, BOB]})
        key, token = secret["value"]["key"], await call.impersonate(ALICE)
        await change(call, "PATCH", f"users/{ALICE}", {"permissions": ["other", RAW_READ]})
        for raw_read, permissions in ((False, ["other"]), (True, ["other", RAW_READ])):
            user = await change(call, "PATCH", f"users/{ALICE}", {"raw_read": raw_read})
            assert user["permissions"] == permissions
            await change(call, "PATCH", f"users/{ALICE}", {"raw_read": raw_read})
            data = (await call.get(f"/secrets/{secret['id']}", token)).json()["data"]
            assert (data["value"]["key"] == key) is raw_read
            assert (await fetched(call, BOB, secret["id"]))["value"]["key"] == key


async def test_tokens_are_revoked_for_one_user_or_for_all(running: Any) -> None:
    """The answer says how many there were."""
    async with running(users=2) as (_, call):
        alice, bob = await call.impersonate(ALICE), await call.impersonate(BOB)
        await call.impersonate(ALICE)
        assert await change(call, "POST", f"users/{ALICE.upper()}/revoke-tokens") == {"revoked": 2}
        assert [(await call.get("/secrets/", token)).status for token in (alice, bob)] == [401, 200]
        assert await change(call, "POST", "revoke-tokens") == {"revoked": 1}
        assert (await call.get("/secrets/", bob)).status == 401


@pytest.mark.parametrize("kind", TYPES)
async def test_a_secret_gets_a_generated_credential_and_a_new_one_when_rotated(
    running: Any, kind: str
) -> None:
    """Rotating changes the credential and nothing that identifies the secret, and is visible at once."""
    async with running(users=2) as (sandbox, call):
        added = await change(call, "POST", "secrets", {"type": kind, "owners": [ALICE], "name": "mine"})
        before = sandbox.world.secret(added["id"]).value
        assert added["id"] in await listed(call, ALICE)
        assert (await fetched(call, ALICE, added["id"]))["type"] == kind
        await change(call, "POST", f"secrets/{added['id']}/rotate")
        after = sandbox.world.secret(added["id"]).value
        assert before.keys() == after.keys()
        assert before[CREDENTIAL_OF[kind]] != after[CREDENTIAL_OF[kind]]
        assert {**before, **after} == after
        fixed = {"authClientId", "username", "headerName", "externalId", "inputFields"} & before.keys()
        assert all(before[name] == after[name] for name in fixed)
        assert (await listed(call, ALICE))[added["id"]] == "mine"
        shown = (await fetched(call, ALICE, added["id"]))["value"]
        assert kind == "SESSION_AUTH" or shown[CREDENTIAL_OF[kind]] == after[CREDENTIAL_OF[kind]]


async def test_a_secret_is_added_as_it_is_given(running: Any, clock: Any) -> None:
    """With id, value, name, domain and provider fault."""
    async with running(users=2, now=clock) as (_, call):
        given = {
            "type": "OA2_AUTHORIZATION_CODE",
            "owners": [ALICE],
            "secret_id": "ABCDEF" * 4,
            "value": {"accessToken": "a" * 20, "refreshToken": "r" * 20, "expires": "2020-01-01T00:00:00Z"},
            "domain": "crm",
            "fault": "no_expires_in",
        }
        added = await change(call, "POST", "secrets", given)
        assert added["id"] == "abcdef" * 4
        data = await fetched(call, ALICE, added["id"])
        assert (data["domain"], data["value"]["expires"]) == ("crm", "2027-01-15T08:00:00.000Z")


async def test_a_secret_is_changed_field_by_field(running: Any, clock: Any) -> None:
    """Other fields stay; `updatedAt` changes, and the old ciphertext is gone."""
    async with running(users=2, now=clock) as (sandbox, call):
        body = {"type": "API_KEY", "owners": [ALICE], "value": {"key": "k" * 20, "headerName": "x"}}
        added = await change(call, "POST", "secrets", body)
        sandbox.world.secret(added["id"]).sealed["refreshToken"] = "of before"
        clock.advance(60)
        path = f"secrets/{added['id'].upper()}"
        changed = await change(call, "PATCH", path, {"value": {"key": "n" * 20}, "without": ["headerName"]})
        assert (changed["value"], changed["sealed"], changed["name"]) == (
            {"key": "n" * 20},
            {},
            added["name"],
        )
        data = await fetched(call, ALICE, added["id"])
        assert data["updatedAt"] == "2027-01-15T08:01:00.000Z"
        await change(call, "PATCH", path, {"name": "renamed", "current_error": {"error": "x"}})
        assert (await fetched(call, ALICE, added["id"]))["currentError"] == {"error": "x"}
        assert (await listed(call, ALICE))[added["id"]] == "renamed"
        assert (await change(call, "PATCH", path, {"current_error": None}))["current_error"] is None


async def test_a_provider_fault_is_set_and_removed(running: Any) -> None:
    """`null` removes it."""
    async with running(users=2) as (_, call):
        added = await change(call, "POST", "secrets", {"type": "SESSION_AUTH", "owners": [ALICE]})
        for fault, has_token in (("no_token", False), (None, True)):
            await change(call, "PATCH", f"secrets/{added['id']}", {"fault": fault})
            value = (await fetched(call, ALICE, added["id"]))["value"]
            assert ("accessToken" in value) is has_token


async def test_owners_are_added_and_removed(running: Any) -> None:
    """Former owners neither list nor get it; those that stay list it in the same place."""
    async with running(users=3) as (_, call):
        carol = "user-000002@tenant.example"
        added = await change(call, "POST", "secrets", {"type": "API_KEY", "owners": [ALICE, BOB, ALICE]})
        path, secret_id = f"secrets/{added['id']}", added["id"]
        assert len(added["owners"]) == 2
        later = await change(call, "POST", "secrets", {"type": "API_KEY", "owners": [BOB]})
        order = list(await listed(call, BOB))
        assert order[-2:] == [secret_id, later["id"]]
        await change(call, "PATCH", path, {"owners": [BOB.upper(), carol]})
        assert list(await listed(call, BOB)) == order
        owning = {name: secret_id in await listed(call, name) for name in (ALICE, BOB, carol)}
        assert owning == {ALICE: False, BOB: True, carol: True}
        token = await call.impersonate(ALICE)
        assert (await call.get(f"/secrets/{secret_id}", token)).status == 403
        await change(call, "PATCH", path, {"tenant_owned": True})
        assert not any([secret_id in await listed(call, name) for name in (ALICE, BOB, carol)])
        assert (await call.get(f"/secrets/{secret_id}", token)).status == 200
        await change(call, "PATCH", path, {"owners": [ALICE]})
        assert secret_id in await listed(call, ALICE)
        assert (await call.get(f"/secrets/{secret_id}", await call.impersonate(BOB))).status == 403


@pytest.mark.parametrize("owners", [{"owners": [ALICE, BOB]}, {"tenant_owned": True}])
async def test_a_secret_is_removed_from_every_list(running: Any, owners: Any) -> None:
    """404 for everybody afterwards, also at the admin API."""
    async with running(users=2) as (sandbox, call):
        added = await change(call, "POST", "secrets", {"type": "SIMPLE", **owners})
        assert (await fetched(call, BOB, added["id"]))["_id"] == added["id"]
        await change(call, "DELETE", f"secrets/{added['id']}")
        assert added["id"] not in {**await listed(call, ALICE), **await listed(call, BOB)}
        for username in (ALICE, BOB):
            token = await call.impersonate(username)
            assert (await call.get(f"/secrets/{added['id']}", token)).status == 404
        assert (await call.admin("GET", f"secrets/{added['id']}")).status == 404
        assert added["id"] not in {secret.id for secret in sandbox.world.tenant_secrets()}


async def test_generated_users_and_secrets_can_be_changed_too(running: Any) -> None:
    """Those of a big tenant that nothing has touched before."""
    async with running(users=5000, idle_close_seconds=600) as (sandbox, call):
        last = "user-004999@tenant.example"
        secret_id = next(iter(await listed(call, last)))
        await change(call, "PATCH", f"users/{last}", {"raw_read": False})
        await change(call, "PATCH", f"secrets/{secret_id}", {"name": "renamed"})
        for index in range(4200):  # more than are kept in memory untouched
            sandbox.world.secrets_of(f"user-{index:06d}@tenant.example")
        assert (await listed(call, last))[secret_id] == "renamed"
        assert not sandbox.world.user(last).reads_raw


REFUSED = [
    ("POST", "users", {"username": ALICE.upper()}, 400, "already"),
    ("POST", "users", {"username": " "}, 400, "empty"),
    ("POST", "users", {}, 400, "username"),
    ("POST", "users", {"username": "x", "user_id": "short"}, 400, "24 hexadecimal"),
    ("POST", "users", {"username": "x", "user_id": "twelve-chars"}, 400, "24 hexadecimal"),
    ("POST", "users", {"username": "x", "unknown": 1}, 400, "unknown"),
    ("PATCH", "users/nobody", {"raw_read": True}, 404, "no user 'nobody'"),
    ("PATCH", f"users/{ALICE}", {"raw_read": "yes"}, 400, "raw_read"),
    ("DELETE", "users/nobody", None, 404, "no user 'nobody'"),
    ("POST", "users/nobody/revoke-tokens", None, 404, "no user"),
    ("POST", "secrets", {"type": "API_KEY"}, 400, "owned by users or by the tenant"),
    ("POST", "secrets", {"type": "API_KEY", "owners": [ALICE], "tenant_owned": True}, 400, "owned by"),
    ("POST", "secrets", {"type": "API_KEY", "owners": [ALICE, "nobody"]}, 400, "no user 'nobody'"),
    ("POST", "secrets", {"type": "ODD", "owners": [ALICE]}, 400, "API_KEY"),
    ("POST", "secrets", {"type": "API_KEY", "owners": [ALICE], "secret_id": "bad"}, 400, "24 hexadecimal"),
    ("PATCH", f"secrets/{'0' * 24}", {"name": "x"}, 404, "no secret"),
    ("POST", "secrets/bad/rotate", None, 404, "no secret 'bad'"),
    ("DELETE", "secrets/bad", None, 404, "no secret 'bad'"),
]


@pytest.mark.parametrize(("method", "route", "body", "status", "says"), REFUSED)
async def test_what_cannot_be_done_is_refused_with_a_reason(
    running: Any, method: str, route: str, body: Any, status: int, says: str
) -> None:
    """400 or 404, and the world stays as it was."""
    async with running(users=2) as (sandbox, call):
        before, count = list(sandbox.world.truth()), sandbox.world.user_count
        reply = await call.admin(method, route, json=body)
        assert (reply.status, says in reply.json()["message"]) == (status, True), reply
        assert (list(sandbox.world.truth()), sandbox.world.user_count) == (before, count)


async def test_ids_that_exist_are_refused(running: Any) -> None:
    """Of users and of secrets, generated ones included."""
    async with running(users=2) as (sandbox, call):
        taken_user, taken = sandbox.world.user(BOB).id, sandbox.world.secrets_of(BOB)[0].id
        for route, body in (
            ("users", {"username": "x", "user_id": taken_user.upper()}),
            ("secrets", {"type": "API_KEY", "owners": [ALICE], "secret_id": taken.upper()}),
        ):
            reply = await call.admin("POST", route, json=body)
            assert (reply.status, "with the id" in reply.json()["message"]) == (400, True)


async def test_an_unknown_type_takes_a_given_value_but_cannot_be_rotated(running: Any) -> None:
    """The message names the types that can."""
    async with running(users=2) as (_, call):
        body = {"type": "ODD", "owners": [ALICE], "value": {"x": 1}}
        added = await change(call, "POST", "secrets", body)
        reply = await call.admin("POST", f"secrets/{added['id']}/rotate")
        assert (reply.status, "SIMPLE" in reply.json()["message"]) == (400, True)
        assert (await fetched(call, ALICE, added["id"]))["value"] == {"x": 1}


@pytest.mark.parametrize("route", ["users", f"users/{ALICE}", "secrets", "secrets/x/rotate", "revoke-tokens"])
async def test_changes_need_the_admin_token(running: Any, route: str) -> None:
    """A user's token will not do, and changes are not counted as requests."""
    async with running(users=2) as (sandbox, call):
        token = await call.impersonate(ALICE)
        counted = sandbox.stats().total_requests()
        for method in ("POST", "PATCH", "DELETE"):
            assert (await call.send(method, f"/_sandbox/{route}", token, json={})).status == 401
        assert sandbox.stats().total_requests() == counted
