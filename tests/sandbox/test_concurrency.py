"""docs/contract/OBSERVED.md § Concurrent GETs of one secret that needs a refresh.

The table is played ten times faster: 1 s there is 0.1 s here, all durations alike.
"""

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
SECOND = 0.1
TOO_MANY_WAITS = {"message": "Max secret refresh retry iterations reached"}


def expired_oauth(sandbox: Any) -> Any:
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


def endless_session(sandbox: Any) -> Any:
    return sandbox.world.add_secret(
        ALICE,
        type="SESSION_AUTH",
        value={
            "authClientId": "1" * 24,
            "accessToken": "t",
            "inputFields": {"a": "b"},
            "expires": None,
        },
    )


async def at_once(call: Any, secret: Any, readers: int) -> list[Any]:
    token = await call.impersonate(ALICE)
    return await asyncio.gather(*(call.get(f"/secrets/{secret.id}", token) for _ in range(readers)))


def access_tokens(replies: list[Any]) -> list[str]:
    return [r.json()["data"]["value"]["accessToken"] for r in replies if r.status == 200]


@pytest.mark.observes("Concurrent GETs", "OAuth, 10 GETs, provider answers in 0")
@pytest.mark.parametrize("provider_seconds", [0, 0.3 * SECOND, 4 * SECOND])
async def test_ten_readers_of_an_oauth_secret_share_one_refresh(
    running: Any, quick: Any, provider_seconds: float
) -> None:
    """Provider answers in time: one refresh, ten 200s with the same token."""
    async with running(provider_seconds=provider_seconds, **quick) as (sandbox, call):
        secret = expired_oauth(sandbox)
        replies = await at_once(call, secret, 10)
        assert [reply.status for reply in replies] == [200] * 10
        assert set(access_tokens(replies)) == {secret.value["accessToken"]}
        assert sandbox.stats().refreshes == {secret.id: 1}
        clear = [r for r in replies if r.json()["data"]["encryptedFields"] == []]
        assert len(clear) == 1, "only the refreshing reader sees the refresh token in clear"


@pytest.mark.observes("Concurrent GETs", "OAuth, 10 GETs, provider answers in 8")
async def test_a_slow_provider_turns_nine_of_ten_readers_away(running: Any, quick: Any) -> None:
    """8 s: one refresh, one 200, nine 500s after five waits each."""
    async with running(provider_seconds=8 * SECOND, **quick) as (sandbox, call):
        secret = expired_oauth(sandbox)
        replies = await at_once(call, secret, 10)
        assert sorted(reply.status for reply in replies) == [200] + [500] * 9
        assert all(r.json() == TOO_MANY_WAITS for r in replies if r.status == 500)
        assert sandbox.stats().refreshes == {secret.id: 1}
        assert sandbox.stats().lock_waits == {secret.id: 9}


@pytest.mark.observes("Concurrent GETs", "OAuth, 2nd GET")
async def test_a_lock_that_is_too_old_is_taken_over_and_one_rotation_is_lost(
    running: Any, quick: Any
) -> None:
    """2nd GET 10.5 s into a 14 s refresh: two refreshes, the second ends in a 500."""
    async with running(provider_seconds=14 * SECOND, **quick) as (sandbox, call):
        secret = expired_oauth(sandbox)
        token = await call.impersonate(ALICE)
        first = asyncio.create_task(call.get(f"/secrets/{secret.id}", token))
        await asyncio.sleep(10.5 * SECOND)
        late = await call.get(f"/secrets/{secret.id}", token)
        early = await first
        assert (early.status, late.status) == (200, 500)
        assert sandbox.stats().refreshes == {secret.id: 2}
        assert access_tokens([early]) == [secret.value["accessToken"]]
        again = await call.get(f"/secrets/{secret.id}", token)
        assert access_tokens([again]) == access_tokens([early])


@pytest.mark.observes("Concurrent GETs", "SESSION_AUTH, null expiry, 10 GETs")
async def test_ten_readers_of_an_endless_session_log_in_again_and_again(running: Any, quick: Any) -> None:
    """0.3 s: about 8 logins with as many distinct tokens; none is shared."""
    async with running(provider_seconds=0.3 * SECOND, **quick) as (sandbox, call):
        secret = endless_session(sandbox)
        replies = await at_once(call, secret, 10)
        tokens = access_tokens(replies)
        assert 5 <= len(tokens) <= 10
        assert len(set(tokens)) == len(tokens) == sandbox.stats().refreshes[secret.id]


@pytest.mark.observes("Concurrent GETs", "same, 20 GETs")
async def test_twenty_readers_of_a_slow_session_mostly_fail(running: Any, quick: Any) -> None:
    """1 s: 6 logins, six 200s, fourteen 500s; logins never overlap under the lock."""
    async with running(provider_seconds=1 * SECOND, **quick) as (sandbox, call):
        secret = endless_session(sandbox)
        replies = await at_once(call, secret, 20)
        tokens = access_tokens(replies)
        assert 3 <= len(tokens) <= 9
        assert len(set(tokens)) == len(tokens) == sandbox.stats().refreshes[secret.id]
        assert all(r.json() == TOO_MANY_WAITS for r in replies if r.status == 500)
        assert sandbox.stats().max_refreshes_in_flight == 1


@pytest.mark.observes("Concurrent GETs", "And the provider behind")
async def test_different_secrets_do_not_wait_for_each_other(running: Any, quick: Any) -> None:
    """The lock is one secret's; the provider sees them all at once."""
    async with running(provider_seconds=2 * SECOND, **quick) as (sandbox, call):
        secrets = [expired_oauth(sandbox) for _ in range(5)]
        replies = await asyncio.gather(*(at_once(call, secret, 1) for secret in secrets))
        assert all(reply.status == 200 for (reply,) in replies)
        stats = sandbox.stats()
        assert stats.max_refreshes_in_flight == 5
        assert stats.refreshes_by_auth_client == {"0" * 24: 5}


@pytest.mark.observes("Connections", "A request that met a closed connection")
async def test_a_reader_that_gives_up_does_not_stop_the_refresh(running: Any, quick: Any) -> None:
    """A GET that timed out after it was sent may still be refreshing upstream (§ Connections)."""
    async with running(provider_seconds=2 * SECOND, **quick) as (sandbox, call):
        secret = expired_oauth(sandbox)
        token = await call.impersonate(ALICE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1 * SECOND):
                await call.get(f"/secrets/{secret.id}", token)
        reply = await call.get(f"/secrets/{secret.id}", token)
        assert access_tokens([reply]) == [secret.value["accessToken"]]
        assert secret.value["accessToken"] != "stored-access-token"
        assert sandbox.stats().refreshes == {secret.id: 1}
