"""Tenants in which only some users are readable: the raw-read permission belongs to each user."""

import asyncio

import pytest

from flowmate_async import (
    DeltaPolicy,
    FlowMate,
    MaskedSecretError,
    SyncOptions,
    UserFailed,
    open_store,
)
from flowmate_async.sandbox import Faults, Sandbox, SandboxOptions, faults
from flowmate_async.sandbox.user import RAW_READ

pytestmark = pytest.mark.anyio

FULL = SyncOptions(delta=DeltaPolicy(full=True))
DELTA = SyncOptions()
DUE = "2020-01-01T00:00:00Z"


def simple(world, name):
    return world.add_secret(name, type="SIMPLE", value={"username": "u", "passphrase": f"secret of {name}"})


def due(world, name):
    value = {"accessToken": f"token of {name}", "refreshToken": "r", "expires": DUE, "authClientId": "c"}
    return world.add_secret(name, type="OA2_AUTHORIZATION_CODE", value=value)


def session(world, name):
    value = {"authClientId": "d", "accessToken": f"session of {name}", "inputFields": {"a": "b"}}
    return world.add_secret(name, type="SESSION_AUTH", value=value)


@pytest.fixture
async def sandbox():
    """Sixteen users: the first four are masked, and each has sessions and refreshes listed first."""
    async with Sandbox(SandboxOptions(users=0, disabled_users=0, empty_world=True)) as running:
        for number in range(16):
            name = f"user-{number:02}"
            running.world.add_user(name, permissions=() if number < 4 else (RAW_READ,))
            for make in (session, due, simple, simple):
                make(running.world, name)
        yield running


MASKED = [f"user-{number:02}" for number in range(4)]


@pytest.fixture
async def store():
    async with open_store("memory:") as opened:
        yield opened


def client_of(sandbox, concurrency=1):
    return FlowMate(admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, concurrency=concurrency)


def gets_of(sandbox, names):
    """Count the GETs and the refreshes and logins of these users' secrets."""
    stats, owned = sandbox.stats(), {one.secret_id for one in sandbox.world.truth() if one.username in names}
    gets = sum(count for secret_id, count in stats.secret_gets.items() if secret_id in owned)
    return gets, sum(count for secret_id, count in stats.refreshes.items() if secret_id in owned)


@pytest.mark.parametrize("concurrency", [1, 2, 64])
@pytest.mark.parametrize("nights", [[FULL, FULL, FULL], [DELTA, DELTA, DELTA], [DELTA, FULL, DELTA]])
async def test_masked_users_cost_one_get_a_night_and_starve_nobody(sandbox, store, nights, concurrency):
    for options in nights:
        sandbox.reset_stats()
        async with client_of(sandbox, concurrency) as fm:
            report = await fm.sync(store, options=options)
        assert (report.complete, report.synced, report.failed) == (True, 12, 4)
        assert report.errors == {"masked_secret": 4}
        assert gets_of(sandbox, MASKED) == (4, 0), "one masked GET each, and no refresh or login in vain"


@pytest.mark.parametrize(("failures", "gets"), [(1, 2), (2, 3)])
async def test_after_a_get_that_says_nothing_the_next_one_is_sent_alone_too(sandbox, failures, gets):
    """For example an answer that is not JSON, with any concurrency."""
    name = MASKED[0]
    rule = faults.Html(at_most=failures, routes=("GET /secrets/{id}",))
    sandbox.configure(faults=Faults(rules=(rule,)))
    for _ in range(6):
        simple(sandbox.world, name)
    async with client_of(sandbox, 64) as fm:
        outcomes = [outcome async for outcome in fm.sweep([name])]
    assert isinstance(outcomes[0], UserFailed)
    assert gets_of(sandbox, [name]) == (gets, 0)


@pytest.mark.parametrize("options", [FULL, DELTA], ids=["full", "delta"])
@pytest.mark.parametrize("count", [1, 2, 16])
async def test_a_tenant_in_which_nobody_is_readable_is_told_at_the_end(sandbox, store, options, count):
    """However few users there are; everybody was tried, and the run can be resumed."""
    sandbox.configure(raw_read=False)
    names = [f"user-{number:02}" for number in range(count)]
    async with client_of(sandbox) as fm:
        with pytest.raises(MaskedSecretError, match=r"every user.*readRaw"):
            await fm.sync(store, names, options=options)
        assert gets_of(sandbox, names) == (count, 0)
        assert (await store.totals(await store.last_run())).failed == count
        sandbox.configure(raw_read=True)
        for name in MASKED:
            sandbox.world.user(name).permissions = (RAW_READ,)
        report = await fm.sync(store, names, options=options)
    assert (report.resumed, report.complete, report.synced) == (True, True, count)


@pytest.mark.parametrize("options", [FULL, DELTA], ids=["full", "delta"])
async def test_stored_credentials_of_others_show_that_the_tenant_is_readable(sandbox, store, options):
    """Masked users alone, in a run of their own, are some users that failed."""
    async with client_of(sandbox) as fm:
        await fm.sync(store)
        report = await fm.sync(store, MASKED, options=options)
    assert (report.complete, report.synced, report.failed) == (True, 0, 4)


async def test_what_a_user_had_before_it_was_masked_shows_nothing(sandbox, store):
    """The permission was taken from everybody: that is said, although the store has their old credentials."""
    names = [f"user-{number:02}" for number in range(4, 16)]
    async with client_of(sandbox) as fm:
        await fm.sync(store, names)
        sandbox.configure(raw_read=False)
        with pytest.raises(MaskedSecretError, match="every user"):
            await fm.sync(store, names, options=FULL)
        assert await store.get("user-05", next(iter([i.secret_id async for i in store.items("user-05")])))


async def test_a_credential_that_is_never_masked_shows_nothing(sandbox, store):
    sandbox.configure(raw_read=False)
    sandbox.world.add_user("other")
    sandbox.world.add_secret("other", type="API_KEY", value={"key": "several\nlines\nx", "headerName": "h"})
    async with client_of(sandbox) as fm:
        with pytest.raises(MaskedSecretError, match="every user"):
            await fm.sync(store, [*MASKED, "other"])
    assert [item.username async for item in store.items()] == ["other"]


async def test_a_stopped_run_says_nothing_of_the_tenant(sandbox, store):
    """Not everybody was tried."""
    stop = asyncio.Event()
    async with client_of(sandbox) as fm:
        report = await fm.sync(store, stop=stop, on_event=lambda event: stop.set())
    assert not report.complete


async def test_a_user_masked_before_is_probed_with_a_plain_read(sandbox, store):
    """Though only a refresh is due: with the permission back, the probe is stored and the rest follows."""
    name = "user-08"
    login, refresh, first, _ = sandbox.world.secrets_of(name)

    async def night(fm, *, permissions):
        sandbox.world.user(name).permissions = permissions
        refresh.value = refresh.value | {"expires": DUE}
        sandbox.reset_stats()
        report = await fm.sync(store)
        return report.failed, gets_of(sandbox, [name])

    async with client_of(sandbox) as fm:
        assert await night(fm, permissions=(RAW_READ,)) == (4, (4, 2))
        assert await night(fm, permissions=()) == (5, (1, 1)), "nothing told of the mask beforehand"
        assert await night(fm, permissions=()) == (5, (1, 0))
        assert sandbox.stats().secret_gets[first.id] == 1
        first.value = first.value | {"passphrase": "changed"}
        assert await night(fm, permissions=(RAW_READ,)) == (4, (3, 2))
        assert {login.id, refresh.id, first.id} <= set(sandbox.stats().secret_gets)
        assert (await store.get(name, first.id)).value.passphrase == "changed"
