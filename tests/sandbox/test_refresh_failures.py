"""docs/contract/OBSERVED.md § Refresh failures."""

import asyncio
import time
from typing import Any

import pytest

from flowmate_async.sandbox import ProviderFault
from flowmate_async.sandbox.timestamps import instant_of

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
TOO_MANY_WAITS = "Max secret refresh retry iterations reached"


def expired(sandbox: Any) -> Any:
    return sandbox.world.add_secret(
        ALICE,
        type="OA2_AUTHORIZATION_CODE",
        value={
            "authClientId": "0" * 24,
            "accessToken": "stored-access-token",
            "refreshToken": "stored-refresh-token",
            "expires": "2020-01-01T00:00:00.000Z",
        },
    )


async def outcome(call: Any, token: str, secret: Any) -> tuple[int, str]:
    reply = await call.get(f"/secrets/{secret.id}", token)
    return reply.status, reply.json().get("message", "")


@pytest.mark.observes("Listing", "`currentError` appears")
@pytest.mark.observes("Refresh failures", "Provider answers 200 with an error body")
async def test_an_error_body_is_kept_for_ever_and_the_lock_is_released(running: Any) -> None:
    """200 with an error body: a silent 500, every later GET tries again, `currentError` stays."""
    async with running() as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        secret.fault = ProviderFault.ERROR_BODY
        assert [await outcome(call, token, secret) for _ in range(3)] == [(500, "")] * 3
        assert sandbox.stats().refreshes == {secret.id: 3}
        secret.fault = None
        reply = await call.get(f"/secrets/{secret.id}", token)
        assert reply.status == 200
        listing = (await call.get("/secrets/?page[size]=100", token)).json()["data"]
        listed = next(item for item in listing if item["_id"] == secret.id)
        assert listed["currentError"]["error"] == "bad_refresh_token"
        assert reply.json()["data"]["currentError"] == listed["currentError"]
        assert sum("currentError" in item for item in listing) == 1


NO_TOKEN = [ProviderFault.ERROR_BODY, ProviderFault.NO_TOKEN]


def session(sandbox: Any, expires: dict[str, Any]) -> Any:
    value = {
        "authClientId": "1" * 24,
        "inputFields": {"username": "u", "password": "p"},
        "accessToken": "stored-session-token",
        **expires,
    }
    return sandbox.world.add_secret(ALICE, type="SESSION_AUTH", value=value)


@pytest.mark.observes("Second look: refreshes", "SESSION_AUTH whose provider", "Every further GET")
@pytest.mark.parametrize("fault", NO_TOKEN)
@pytest.mark.parametrize("expires", [{}, {"expires": None}, {"expires": "2020-01-01T00:00:00.000Z"}])
async def test_a_session_answered_without_a_token_has_no_access_token(
    running: Any, fault: ProviderFault, expires: Any
) -> None:
    """200 and a value without `accessToken`; every further GET logs in again, until the provider is well."""
    async with running() as (sandbox, call):
        secret, token = session(sandbox, expires), await call.impersonate(ALICE)
        secret.fault = fault
        for version in range(3):
            reply = await call.get(f"/secrets/{secret.id}", token)
            data = reply.json()["data"]
            assert (reply.status, data["__v"], data["encryptedFields"]) == (200, version, [])
            assert data["value"] == {
                "authClientId": "1" * 24,
                "inputFields": {"username": "u", "password": "p"},
                "expires": expires.get("expires"),
            }
            assert "currentError" not in data
        assert sandbox.stats().refreshes == {secret.id: 3}
        secret.fault = None
        value = (await call.get(f"/secrets/{secret.id}", token)).json()["data"]["value"]
        assert list(value) == ["authClientId", "inputFields", "expires", "accessToken"]


@pytest.mark.observes("Second look: refreshes", "For OAuth the same provider answer")
@pytest.mark.parametrize("fault", NO_TOKEN)
async def test_an_oauth_secret_answered_without_a_token_is_a_silent_500(
    running: Any, fault: ProviderFault
) -> None:
    """The stored token stays, and every further GET asks the provider again."""
    async with running() as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        secret.fault = fault
        assert [await outcome(call, token, secret) for _ in range(2)] == [(500, "")] * 2
        assert secret.value["accessToken"] == "stored-access-token"
        assert secret.current_error is not None
        assert sandbox.stats().refreshes == {secret.id: 2}


@pytest.mark.observes("Refresh failures", "Provider answers 4xx/5xx", "The upstream lock is not released")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (ProviderFault.HTTP_ERROR, "HTTP Error Response: 400 Bad Request"),
        (ProviderFault.GARBAGE, "https://provider.example/oauth/token"),
    ],
)
async def test_a_failing_provider_leaves_the_lock_behind(
    running: Any, clock: Any, fault: ProviderFault, message: str
) -> None:
    """For 10 s every GET waits five times and fails; then the lock is too old and one may try."""
    waits = {"lock_wait_seconds": (0.0, 0.001)}
    async with running(now=clock, **waits) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        secret.fault = fault
        status, said = await outcome(call, token, secret)
        assert status == 500
        assert message in said
        secret.fault = None
        clock.advance(9.9)
        assert await outcome(call, token, secret) == (500, TOO_MANY_WAITS)
        assert sandbox.stats().refreshes == {secret.id: 1}
        clock.advance(0.1)
        assert (await outcome(call, token, secret))[0] == 200
        assert sandbox.stats().refreshes == {secret.id: 2}
        assert secret.current_error is None


async def test_a_fresh_secret_with_a_left_lock_is_waited_for_too(running: Any, clock: Any) -> None:
    """The lock is looked at before the expiry."""
    async with running(now=clock, lock_wait_seconds=(0.0, 0.0)) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        secret.value["expires"] = "2050-01-01T00:00:00.000Z"
        secret.locked_at, secret.was_locked = clock.instant, True
        assert await outcome(call, token, secret) == (500, TOO_MANY_WAITS)
        clock.advance(10)
        assert (await outcome(call, token, secret))[0] == 200
        assert sandbox.stats().refreshes == {}


@pytest.mark.observes("Refresh failures", "Provider hangs")
async def test_a_hanging_provider_hangs_the_get(running: Any, until: Any) -> None:
    """No timeout upstream; other requests go on, and the sandbox still stops at once."""
    async with running() as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        sandbox.configure(provider_fault=ProviderFault.HANG)
        hanging = asyncio.create_task(call.get(f"/secrets/{secret.id}", token))
        await until(lambda: sandbox.stats().refreshes)
        assert (await call.get("/secrets/", token)).status == 200
        assert not hanging.done()
        hanging.cancel()


async def test_a_hanging_refresh_ends_with_the_sandbox(running: Any, until: Any) -> None:
    """Nothing of the sandbox is left when it has stopped."""
    before = asyncio.all_tasks()
    async with running(provider_fault=ProviderFault.HANG) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        hanging = asyncio.create_task(call.get(f"/secrets/{secret.id}", token))
        await until(lambda: sandbox.stats().refreshes)
        hanging.cancel()
        await until(hanging.done)
        await asyncio.sleep(0.01)  # the sandbox's end of the connection learns of it
    assert asyncio.all_tasks() <= before


@pytest.mark.observes("Refresh failures", "No `expires_in`")
async def test_no_expires_in_makes_every_get_refresh(running: Any, clock: Any) -> None:
    """`expires` = now."""
    async with running(now=clock, provider_fault=ProviderFault.NO_EXPIRES_IN) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        for _ in range(3):
            assert (await outcome(call, token, secret))[0] == 200
            assert secret.value["expires"] == "2027-01-15T08:00:00.000Z"
        assert sandbox.stats().refreshes == {secret.id: 3}


@pytest.mark.observes("Second look: refreshes", "OAuth whose provider sends no", "The token is fresh")
async def test_without_expires_in_the_token_expires_when_it_was_made(running: Any) -> None:
    """`expires`, `updatedAt` and `lockedAt` are the moment of the refresh, to a tenth of a second."""
    async with running(provider_fault=ProviderFault.NO_EXPIRES_IN) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        data = (await call.get(f"/secrets/{secret.id}", token)).json()["data"]
        moments = [
            instant_of(text) for text in (data["value"]["expires"], data["updatedAt"], data["lockedAt"])
        ]
        assert max(moments) - min(moments) <= 0.1
        assert abs(moments[0] - time.time()) < 60


@pytest.mark.observes("Second look: refreshes", "A hanging provider blocks", "After 10 s the next GET")
async def test_a_hanging_provider_is_called_again_once_the_lock_is_stale(
    running: Any, clock: Any, until: Any
) -> None:
    """The GET hangs on; for 10 s others fail at its lock, and the next one calls the provider again."""
    async with running(now=clock, lock_wait_seconds=(0.0, 0.001)) as (sandbox, call):
        secret, token = expired(sandbox), await call.impersonate(ALICE)
        secret.fault = ProviderFault.HANG
        hanging = asyncio.create_task(call.get(f"/secrets/{secret.id}", token))
        await until(lambda: sandbox.stats().refreshes)
        secret.fault = None
        clock.advance(9.9)
        assert await outcome(call, token, secret) == (500, TOO_MANY_WAITS)
        clock.advance(0.1)
        assert (await outcome(call, token, secret))[0] == 200
        assert sandbox.stats().refreshes == {secret.id: 2}
        assert not hanging.done()
        hanging.cancel()


async def test_a_share_of_providers_may_send_no_expires_in(running: Any) -> None:
    """Only OAuth secrets, and always the same ones."""
    async with running(users=30, no_expires_in_share=0.5) as (sandbox, _):
        without = {}
        for user in (user for user in sandbox.world.users() if user.active_tenant_user):
            for secret in sandbox.world.secrets_of(user.username):
                without.setdefault(secret.type, []).append(secret.fault is ProviderFault.NO_EXPIRES_IN)
        oauth = without.pop("OA2_AUTHORIZATION_CODE")
        assert 0.3 < sum(oauth) / len(oauth) < 0.7
        assert not any(sum(others, start=False) for others in without.values())


async def test_one_secrets_fault_spares_the_others(running: Any) -> None:
    """A fault is one secret's or everybody's; the secret's own comes first."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        bad, good = expired(sandbox), expired(sandbox)
        bad.fault = ProviderFault.ERROR_BODY
        assert await outcome(call, token, bad) == (500, "")
        assert (await outcome(call, token, good))[0] == 200
        await call.admin("POST", "settings", json={"provider_fault": "http_error"})
        assert await outcome(call, token, bad) == (500, "")
        assert (await outcome(call, token, expired(sandbox)))[0] == 500
