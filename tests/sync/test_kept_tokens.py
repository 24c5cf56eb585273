"""Tokens kept between runs: the second sync sends no impersonation, and lost or revoked tokens do no harm."""

import time

import pytest

from flowmate_async import ConfigurationError, DeltaPolicy, FlowMate, StoreKey, SyncOptions, open_store
from flowmate_async.events import TokenMade
from flowmate_async.sandbox import ProviderFault, Sandbox, SandboxOptions
from flowmate_async.stores.base import Checkpoint, UserWrite
from flowmate_async.values.models import KeptToken, UserToken

pytestmark = pytest.mark.anyio

NAMES = [f"user-{number:06d}@tenant.example" for number in range(1, 20)]
KEEP = SyncOptions(delta=DeltaPolicy(keep_tokens=True))
KEY = StoreKey(b"0123456789abcdef0123456789abcdef")


@pytest.fixture(params=["sqlite", "memory"])
async def store(request, tmp_path):
    url = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'creds.db'}"
    async with open_store(url, key=KEY) as opened:
        yield opened


def client(twin, **options):
    return FlowMate(admin_token=twin.admin_token, base_url=twin.url, rate=None, **options)


async def kept(store, *names):
    return dict(await store.kept_tokens(names or NAMES))


async def put(store, username, token, *, used_at):
    """Have the store say that it has kept this token."""
    end = Checkpoint(username=username, status="failed", listing_proven=False)
    run = await store.last_run()
    await store.write(run, [UserWrite(checkpoint=end, token=KeptToken(token, used_at))])


def cost(twin):
    """Return the counts of impersonations, listings and GETs, and check that there was nothing else."""
    stats = twin.stats()
    posts = sum(stats.requests.get("POST /impersonate", {}).values())
    lists, gets = sum(stats.lists.values()), sum(stats.secret_gets.values())
    others = stats.total_requests() - posts - lists - gets
    assert others == sum(stats.requests.get("GET /users/", {}).values()), stats.requests
    return posts, lists, gets


async def test_an_unchanged_second_sync_costs_a_listing_a_user_and_the_due_ones(tmp_path):
    """By the sandbox's own count; another process, as far as anybody can tell."""
    url = f"sqlite:///{tmp_path / 'creds.db'}"
    async with Sandbox(SandboxOptions(users=100, seed=7)) as twin:
        async with open_store(url, key=KEY) as store, client(twin) as fm:
            first = await fm.sync(store, options=KEEP)
            assert cost(twin)[:2] == (100, 100)
        twin.reset_stats()
        async with open_store(url, key=KEY) as store, client(twin) as fm:
            plan = await fm.plan_sync(store, delta=KEEP.delta)
            assert cost(twin) == (0, 100, 0)
            due = sum(plan.fetch.values())
            twin.reset_stats()
            second = await fm.sync(store, options=KEEP)
        assert cost(twin) == (0, 100, due)
    assert (second.synced, second.failed, second.secrets) == (100, 0, first.secrets)
    assert second.requests == 100 + due
    assert 0 < due < first.secrets / 3


async def test_one_client_keeps_them_from_sync_to_sync(sandbox, fm, store):
    """And holds none of them in between: its memory does not grow with the users."""
    for impersonations in (len(NAMES), 0, 0):
        sandbox.reset_stats()
        await fm.sync(store, NAMES, options=KEEP)
        assert sandbox.stats().impersonations == impersonations
    sandbox.reset_stats()
    await fm.list_secrets(NAMES[0])
    assert sandbox.stats().impersonations == 1


async def test_without_being_asked_a_sync_keeps_none_and_removes_what_was_kept(sandbox, fm, store):
    await fm.sync(store, NAMES)
    assert await kept(store) == {}
    await fm.sync(store, NAMES, options=KEEP)
    assert set(await kept(store)) == set(NAMES)
    sandbox.reset_stats()
    await fm.sync(store, NAMES[:3])
    assert sandbox.stats().impersonations == 3
    assert await kept(store) == {}


async def test_a_kept_token_that_is_rejected_is_replaced_once(sandbox, fm, store):
    """Whatever revoked it, the new one is kept, and the run goes on as usual."""
    await fm.sync(store, NAMES, options=KEEP)
    before = await kept(store)
    assert sandbox.world.tokens.revoke() >= len(NAMES)
    sandbox.reset_stats()
    made = []
    listen = lambda event: made.append(event) if isinstance(event, TokenMade) else None  # noqa: E731
    second = await fm.sync(store, NAMES, options=KEEP, on_event=listen)
    assert (second.synced, second.failed) == (len(NAMES), 0)
    assert sandbox.stats().impersonations_by_username == dict.fromkeys(NAMES, 1)
    assert [event.replaced for event in made] == [True] * len(NAMES)
    after = await kept(store)
    assert all(after[name].token.token != before[name].token.token for name in NAMES)
    sandbox.reset_stats()
    await fm.sync(store, NAMES, options=KEEP)
    assert sandbox.stats().impersonations == 0


@pytest.mark.parametrize(
    ("used_at", "why"),
    [
        (lambda: time.time() - 2.76 * 3600, "it may be dead"),
        (lambda: time.time() + 600, "a clock was wrong"),
        (lambda: float("inf"), "no time at all"),
    ],
)
async def test_a_token_of_doubtful_age_is_never_sent(sandbox, fm, store, used_at, why):
    """It is good all the while, so nothing but its age speaks against it; and it is written over."""
    await fm.sync(store, NAMES, options=KEEP)
    good = (await kept(store))[NAMES[0]]
    await put(store, NAMES[0], good.token, used_at=used_at())
    sandbox.reset_stats()
    await fm.sync(store, NAMES, options=KEEP)
    assert sandbox.stats().impersonations_by_username == {NAMES[0]: 1}, why
    now = (await kept(store))[NAMES[0]]
    assert now.token != good.token
    assert abs(now.used_at - time.time()) < 600


async def test_one_that_idled_for_less_is_sent(sandbox, fm, store):
    await fm.sync(store, NAMES, options=KEEP)
    good = (await kept(store))[NAMES[0]]
    await put(store, NAMES[0], good.token, used_at=time.time() - 2.7 * 3600)
    sandbox.reset_stats()
    await fm.sync(store, NAMES, options=KEEP)
    assert sandbox.stats().impersonations == 0
    now = (await kept(store))[NAMES[0]]
    assert now.token == good.token
    assert abs(now.used_at - time.time()) < 600, "its use prolonged it"


async def test_dead_tokens_are_forgotten_also_of_who_is_not_synced_any_more(sandbox, fm, store):
    await fm.sync(store, NAMES, options=KEEP)
    token = UserToken("of somebody who left")
    await put(store, NAMES[0], token, used_at=time.time() - 4 * 3600)
    await fm.sync(store, NAMES[1:], options=KEEP)
    assert set(await kept(store)) == set(NAMES[1:])


async def test_a_user_that_failed_keeps_a_token_that_was_not_rejected(sandbox, fm, store):
    """Whatever went wrong; a user that upstream has no longer loses it."""
    await fm.sync(store, NAMES, options=KEEP)
    before = await kept(store)
    value = {"accessToken": "old", "refreshToken": "r", "expires": "2020-01-01T00:00:00Z"}
    dead = sandbox.world.add_secret(NAMES[0], type="OA2_AUTHORIZATION_CODE", value=value)
    dead.fault = ProviderFault.ERROR_BODY
    sandbox.world.delete_user(NAMES[1])
    report = await fm.sync(store, NAMES, options=KEEP)
    assert report.errors == {"refresh_failed": 1, "user_not_found": 1}
    after = await kept(store)
    assert after[NAMES[0]].token == before[NAMES[0]].token
    assert set(after) == set(NAMES) - {NAMES[1]}


async def test_a_name_that_a_store_has_to_write_otherwise_has_no_token_kept(sandbox, fm, store):
    """What the store calls it may be the name of somebody else, whose token it must neither get nor lose."""
    odd, shown = "non\xa0breaking", "'non\\xa0breaking'"
    sandbox.world.add_user(odd)
    await fm.sync(store, NAMES[:1], options=KEEP)
    await put(store, shown, (await kept(store))[NAMES[0]].token, used_at=time.time())
    sandbox.reset_stats()
    await fm.plan_sync(store, [odd], delta=KEEP.delta)
    for _ in range(2):
        report = await fm.sync(store, [odd], options=KEEP)
        assert (report.synced, report.failed) == (1, 0)
    assert sandbox.stats().impersonations_by_username == {odd: 3}
    assert await kept(store, odd, shown) == {}


async def test_a_full_sync_keeps_and_uses_them_as_well(sandbox, fm, store):
    full = SyncOptions(delta=DeltaPolicy(full=True, keep_tokens=True))
    await fm.sync(store, NAMES, options=full)
    sandbox.reset_stats()
    await fm.sync(store, NAMES, options=full)
    assert sandbox.stats().impersonations == 0


class NobodyToAsk:
    """An executor like those that give the work to other processes."""


async def test_a_store_that_cannot_keep_them_is_refused_before_anything_is_asked(sandbox, fm, tmp_path):
    pytest.importorskip("pyrage")
    key = StoreKey.generate()
    async with open_store(f"jsonl+age:///{tmp_path / 'store.age'}", key=key) as store:
        for ask in (
            lambda: fm.sync(store, NAMES, options=KEEP),
            lambda: fm.sync(store, NAMES, options=KEEP, executor=NobodyToAsk()),
            lambda: fm.plan_sync(store, delta=KEEP.delta),
        ):
            with pytest.raises(ConfigurationError, match=r"cannot keep.*sqlite.*postgresql.*--keep-tokens"):
                await ask()
        with pytest.raises(ConfigurationError, match="cannot keep"):
            fm.executor(store, delta=KEEP.delta)
        assert await store.last_run() is None
    assert sandbox.stats().total_requests() == 0


async def test_a_token_in_use_is_not_given_up_for_the_kept_one(sandbox, fm, store):
    """Nor is it forgotten afterwards, since somebody else works with it."""
    await fm.sync(store, NAMES[:1], options=KEEP)
    mine = await fm.impersonate(NAMES[0])
    await fm.sync(store, NAMES[:1], options=KEEP)
    assert (await kept(store))[NAMES[0]].token == mine
    assert await fm.impersonate(NAMES[0]) == mine
