"""The client against the running sandbox: single flight to the last request, isolation, errors, its end."""

import asyncio
from collections import Counter

import pytest

from flowmate_async import (
    AuthenticationError,
    ConfigurationError,
    FlowMate,
    InvalidIdError,
    MaskedSecretError,
    PermissionDeniedError,
    RefreshFailedError,
    SecretNotFoundError,
    UserNotFoundError,
)

pytestmark = pytest.mark.anyio

USER, OTHER = "user-000001@tenant.example", "user-000002@tenant.example"


@pytest.fixture
def expired(sandbox):
    """An expired OAuth secret whose refresh takes a while."""
    sandbox.configure(provider_seconds=0.3)
    value = {"accessToken": "old", "refreshToken": "r", "expires": "2020-01-01T00:00:00Z"}
    return sandbox.world.add_secret(USER, type="OA2_AUTHORIZATION_CODE", value=value)


async def refreshing(sandbox):
    """Wait until a request is on the wire, and upstream refreshing because of it."""
    async with asyncio.timeout(10):
        while not sandbox.stats().refreshes:  # noqa: ASYNC110 - the twin counts, it does not tell
            await asyncio.sleep(0.01)


class TestTenThousandCallers:
    async def test_one_request_answers_them_all(self, sandbox, fm, expired):
        secrets = await asyncio.gather(*(fm.get_secret(USER, expired.id) for _ in range(10_000)))
        assert len(secrets) == 10_000
        assert all(secret == secrets[0] for secret in secrets)
        assert secrets[0].value.access_token == expired.value["accessToken"] != "old"
        stats = sandbox.stats()
        assert (stats.secret_gets[expired.id], stats.refreshes[expired.id], stats.impersonations) == (1, 1, 1)
        assert fm.stats().joined["secret"] == 9_999

    async def test_a_third_that_gives_up_harms_nobody(self, sandbox, fm, expired):
        tasks = [asyncio.create_task(fm.get_secret(USER, expired.id)) for _ in range(10_000)]
        await refreshing(sandbox)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert Counter(type(outcome).__name__ for outcome in outcomes) == {
            "CancelledError": 3334,
            "OAuth2Secret": 6666,
        }
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::3])
        assert (sandbox.stats().secret_gets[expired.id], sandbox.stats().refreshes[expired.id]) == (1, 1)

    async def test_when_all_give_up_the_rotated_token_is_not_lost(self, sandbox, fm, expired):
        """The request on the wire is let finish, so that upstream's rotation has its reader."""
        tasks = [asyncio.create_task(fm.get_secret(USER, expired.id)) for _ in range(100)]
        await refreshing(sandbox)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        late = await fm.get_secret(USER, expired.id)
        assert late.value.access_token == expired.value["accessToken"]
        assert (sandbox.stats().secret_gets[expired.id], sandbox.stats().refreshes[expired.id]) == (1, 1)

    async def test_the_tables_are_empty_afterwards(self, fm, expired):
        await asyncio.gather(*(fm.get_secret(USER, expired.id) for _ in range(100)))
        for flights in fm.stats().flights.values():
            assert (flights.under_way, flights.waiting) == (0, 0)


class TestAnswers:
    async def test_every_secret_of_the_twin_arrives_as_it_is(self, sandbox, fm):
        for truth in list(sandbox.world.truth()):
            if truth.username != USER:
                continue
            secret = await fm.get_secret(truth.username, truth.secret_id)
            assert (secret.id, secret.kind) == (truth.secret_id, truth.type)

    async def test_users_are_all_accounts(self, sandbox, fm):
        found = [user async for user in fm.users()]
        assert {user.username for user in found} == {user.username for user in sandbox.world.users()}
        chosen = {user.username for user in found if user.is_active_tenant_user}
        assert chosen == {user.username for user in sandbox.world.users() if user.active_tenant_user}

    async def test_refresh_fields_are_kept_only_when_asked_for(self, sandbox, expired):
        for keep in (False, True):
            async with FlowMate(
                admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, keep_refresh_fields=keep
            ) as fm:
                assert ((await fm.get_secret(USER, expired.id)).value.refresh_token is not None) == keep


class TestErrors:
    async def test_each_says_which_user_and_secret_at_which_endpoint(self, sandbox, fm):
        mine = sandbox.world.secrets_of(USER)[0].id
        cases = [
            (UserNotFoundError, fm.impersonate("nobody"), ["'nobody'", "POST /impersonate"]),
            (UserNotFoundError, fm.impersonate("disabled-000000@tenant.example"), ["'disabled-000000"]),
            (
                SecretNotFoundError,
                fm.get_secret(USER, "0" * 24),
                [f"'{USER}'", "0" * 24, "GET /secrets/{id}"],
            ),
            (PermissionDeniedError, fm.get_secret(OTHER, mine), [f"'{OTHER}'", mine, "GET /secrets/{id}"]),
            (InvalidIdError, fm.get_secret(USER, "../users"), ["../users"]),
            (InvalidIdError, fm.impersonate(" "), ["empty"]),
        ]
        for error, call, said in cases:
            with pytest.raises(error) as raised:
                await call
            assert all(part in str(raised.value) for part in said), str(raised.value)

    async def test_an_id_that_may_be_mistyped_is_said_to_be(self, sandbox, fm):
        await fm.impersonate(USER)
        with pytest.raises(InvalidIdError, match=r"malformed.*24 hexadecimal digits") as refused:
            await fm.get_secret(USER, "xyz")
        assert (refused.value.username, refused.value.secret_id, refused.value.status) == (USER, "xyz", 401)
        assert sandbox.stats().impersonations == 1

    async def test_masked_values_never_arrive(self, sandbox, fm):
        sandbox.configure(raw_read=False)
        secret = sandbox.world.add_secret(USER, type="API_KEY", value={"key": "k" * 20, "headerName": "X"})
        with pytest.raises(MaskedSecretError, match=r"masked key.*readRaw") as masked:
            await fm.get_secret(USER, secret.id)
        assert (masked.value.username, masked.value.secret_id) == (USER, secret.id)

    async def test_a_refresh_that_failed_is_told_and_not_asked_again(self, sandbox, fm, expired):
        sandbox.configure(provider_seconds=0, provider_fault="error_body")
        with pytest.raises(RefreshFailedError):
            await fm.get_secret(USER, expired.id)
        assert sandbox.stats().secret_gets[expired.id] == 1

    async def test_revoked_tokens_are_replaced_unnoticed(self, sandbox, fm, expired):
        await fm.get_secret(USER, expired.id)
        sandbox.world.revoke_tokens()
        await asyncio.gather(*(fm.list_secrets(USER) for _ in range(20)))
        assert sandbox.stats().impersonations == 2

    async def test_a_wrong_admin_token_is_told_at_once(self, sandbox):
        async with FlowMate(admin_token="wrong", base_url=sandbox.url, rate=None) as fm:
            with pytest.raises(AuthenticationError, match="admin token"):
                await fm.impersonate(USER)
            with pytest.raises((AuthenticationError, PermissionDeniedError)):
                [user async for user in fm.users()]


class TestEnd:
    async def test_closing_leaves_no_task_behind(self, sandbox, expired):
        before = asyncio.all_tasks()
        async with FlowMate(admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None) as fm:
            asked = [asyncio.create_task(fm.get_secret(USER, expired.id)) for _ in range(10)]
            await refreshing(sandbox)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert all(not isinstance(outcome, BaseException) for outcome in outcomes), (
            "what was on the wire is let finish"
        )
        left = {
            task
            for task in asyncio.all_tasks() - before
            if "flowmate_async/sandbox" not in str(task.get_coro().cr_code)
        }
        assert not {task for task in left if "aiohttp/web" not in str(task.get_coro().cr_code)}

    async def test_a_closed_client_says_so(self, sandbox):
        async with FlowMate(admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None) as fm:
            pass
        for call in (fm.get_secret(USER, "a" * 24), fm.impersonate(USER), fm.list_secrets(USER)):
            with pytest.raises(ConfigurationError, match="closed"):
                await call


def test_statistics_need_no_running_loop():
    """A metrics exporter asks from its own thread, perhaps before the client is entered."""
    assert FlowMate(admin_token="a").stats().requests == {}
