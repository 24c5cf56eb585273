"""docs/contract/OBSERVED.md § Second look, "Refreshes and logins": several owners, mixed permissions.

The lock times are played ten times faster: 1 s there is 0.1 s here.
"""

import asyncio
from typing import Any

import pytest

from flowmate_async.sandbox import Owner, SandboxOptions, World

pytestmark = pytest.mark.anyio

SECOND = 0.1
TOO_MANY_WAITS = "Max secret refresh retry iterations reached"


def names(count: int) -> list[str]:
    return [f"user-{index:06d}@tenant.example" for index in range(count)]


def shared(sandbox: Any, kind: str, expires: Any, *, tenant: bool = False) -> Any:
    """Add a secret that all ten users own: by name, or through their tenant."""
    users = [sandbox.world.user(name) for name in names(10)]
    owners = (Owner(sandbox.world.tenant_id, "TENANT"),) if tenant else tuple(Owner(u.id) for u in users)
    credential = (
        {"refreshToken": "r" * 20} if kind == "OA2_AUTHORIZATION_CODE" else {"inputFields": {"u": "p"}}
    )
    value = {"authClientId": "0" * 24, "accessToken": "a" * 20, "expires": expires, **credential}
    return sandbox.world.add_secret(names(1)[0], type=kind, value=value, owners=owners)


async def all_owners_get(call: Any, secret: Any) -> list[Any]:
    tokens = [await call.impersonate(name) for name in names(10)]
    return await asyncio.gather(*(call.get(f"/secrets/{secret.id}", token) for token in tokens))


@pytest.mark.observes(
    "Second look: refreshes", "The server-side lock", "A secret can have several", "Ten owners"
)
@pytest.mark.parametrize("tenant", [False, True])
async def test_ten_owners_of_a_session_log_in_several_times(
    running: Any, quick: Any, *, tenant: bool
) -> None:
    """Each winner logs in again, each loser gets a 500 after 5 to 7 s of waiting."""
    async with running(provider_seconds=SECOND, **quick) as (sandbox, call):
        secret = shared(sandbox, "SESSION_AUTH", None, tenant=tenant)
        replies = await all_owners_get(call, secret)
        won = [reply for reply in replies if reply.status == 200]
        assert 2 <= len(won) <= 9, "5 of 10 won when it was recorded"
        assert [reply.json()["message"] for reply in replies if reply.status != 200] == [TOO_MANY_WAITS] * (
            10 - len(won)
        )
        assert sandbox.stats().refreshes == {secret.id: len(won)}
        assert sandbox.stats().lock_waits == {secret.id: 9}


@pytest.mark.observes("Second look: refreshes", "With one expired OAuth secret")
@pytest.mark.parametrize("tenant", [False, True])
async def test_one_of_ten_owners_of_an_oauth_secret_refreshes(
    running: Any, quick: Any, *, tenant: bool
) -> None:
    """With an 8 s provider one request reaches it; the other nine owners get 500."""
    async with running(provider_seconds=8 * SECOND, **quick) as (sandbox, call):
        secret = shared(sandbox, "OA2_AUTHORIZATION_CODE", "2020-01-01T00:00:00Z", tenant=tenant)
        statuses = sorted(reply.status for reply in await all_owners_get(call, secret))
        assert statuses == [200] + [500] * 9
        assert sandbox.stats().refreshes == {secret.id: 1}
        again = await all_owners_get(call, secret)
        assert {reply.json()["data"]["value"]["accessToken"] for reply in again} == {
            secret.value["accessToken"]
        }
        assert sandbox.stats().refreshes == {secret.id: 1}


async def test_shared_secrets_can_be_generated(running: Any) -> None:
    """Each owner lists the secret and gets the same one; a user who does not own it gets 403."""
    async with running(users=7, shared_secrets=4, owners_per_shared_secret=3) as (sandbox, call):
        by_id = {
            secret.id: secret
            for name in names(7)
            for secret in sandbox.world.secrets_of(name)
            if len(secret.owners) > 1
        }
        assert [len(secret.owners) for secret in by_id.values()] == [3] * 4
        needs = [
            secret for secret in by_id.values() if secret.type in ("SESSION_AUTH", "OA2_AUTHORIZATION_CODE")
        ]
        assert len(needs) == 3, "most shared secrets are the ones that need a login or a refresh"
        secret = next(secret for secret in by_id.values() if secret.type == "API_KEY")
        owning = {owner.id for owner in secret.owners}
        for name in names(7):
            user, token = sandbox.world.user(name), await call.impersonate(name)
            listed = {
                item["_id"] for item in (await call.get("/secrets/?page[size]=100", token)).json()["data"]
            }
            reply = await call.get(f"/secrets/{secret.id}", token)
            assert (secret.id in listed, reply.status) == ((True, 200) if user.id in owning else (False, 403))


def test_shared_secrets_have_at_most_all_users_as_owners() -> None:
    """A small tenant has fewer owners, an empty one no shared secrets."""
    world = World(SandboxOptions(users=2, shared_secrets=1))
    assert [len(secret.owners) for secret in world.secrets_of(names(1)[0])].count(2) == 1
    assert list(World(SandboxOptions(users=0, shared_secrets=1)).truth()) == []


@pytest.mark.observes("Second look: refreshes", "The raw-read permission", "In one tenant")
async def test_the_raw_read_permission_belongs_to_each_user(running: Any) -> None:
    """In one tenant some users are masked and others are not, even for a secret that they share."""
    async with running(users=25, masked_share=0.16) as (sandbox, call):
        everybody = [sandbox.world.user(name) for name in names(25)]
        masked = [user for user in everybody if not user.reads_raw]
        assert len(masked) == 4
        readable = next(user for user in everybody if user.reads_raw)
        key = "a-key-of-some-length"
        secret = sandbox.world.add_secret(
            readable.username,
            type="API_KEY",
            value={"key": key},
            owners=(Owner(readable.id), Owner(masked[0].id)),
        )
        seen = {}
        for user in (readable, masked[0]):
            reply = await call.get(f"/secrets/{secret.id}", await call.impersonate(user.username))
            seen[user.reads_raw] = reply.json()["data"]["value"]["key"]
        assert seen == {True: key, False: "*" * 16 + "ngth"}


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.29, 29), (1 / 3, 33), (1, 100)])
def test_the_share_of_masked_users_is_exact(clock: Any, share: float, count: int) -> None:
    """The masked users are spread evenly, and the world is otherwise the same."""
    world = World(SandboxOptions(users=100, now=clock, masked_share=share))
    users = [user for user in world.users() if user.active_tenant_user]
    assert sum(not user.reads_raw for user in users) == count
    assert list(world.truth()) == list(World(SandboxOptions(users=100, now=clock)).truth())


@pytest.mark.parametrize(
    "wrong",
    [
        {"masked_share": 1.1},
        {"masked_share": -0.1},
        {"no_expires_in_share": 2},
        {"looks_masked_share": 1.5},
        {"shared_secrets": -1},
        {"owners_per_shared_secret": 0},
    ],
)
def test_options_that_no_world_can_have_are_refused(wrong: dict[str, Any]) -> None:
    """Before anything starts."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SandboxOptions(**wrong)
