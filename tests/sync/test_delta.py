"""Delta sync against the sandbox: the second sync costs listings and what is due, and misses no change."""

import pytest
from msgspec.structs import replace

from flowmate_async import DeltaPolicy, SyncOptions, open_store
from flowmate_async.sandbox import ProviderFault

pytestmark = pytest.mark.anyio

NAMES = [f"user-{number:06d}@tenant.example" for number in range(1, 20)]


@pytest.fixture
async def store():
    async with open_store("memory:") as made:
        yield made


async def contents(store):
    return {(username, secret.id): secret async for username, secret in store.secrets()}


def of_type(sandbox, *kinds):
    return next(sandbox.world.secret(one.secret_id) for one in sandbox.world.truth() if one.type in kinds)


async def test_an_unchanged_second_sync_costs_a_listing_a_user_and_what_is_due(sandbox, fm, store):
    first = await fm.sync(store, NAMES)
    before = await contents(store)
    sandbox.reset_stats()
    second = await fm.sync(store, NAMES)
    due = sum(sandbox.stats().secret_gets.values())
    assert second.requests == 2 * len(NAMES) + due  # an impersonation and a listing each
    assert due + second.left["unchanged"] == second.secrets == first.secrets
    assert second.left["unchanged"] > due, "sessions only, which log in with every GET"
    assert {
        type(secret).__name__ for key, secret in (await contents(store)).items() if before[key] != secret
    } <= {"SessionSecret"}


async def test_nothing_that_was_left_counts_as_missing(sandbox, fm, store):
    options = SyncOptions(removed="delete", max_removed_share=1.0)
    await fm.sync(store, NAMES, options=options)
    second = await fm.sync(store, NAMES, options=options)
    assert (second.missing, second.removed) == (0, 0)
    assert len(await contents(store)) == second.secrets


async def test_a_new_secret_and_a_moved_expiry_are_fetched(sandbox, fm, store):
    await fm.sync(store, NAMES)
    added = sandbox.world.add_secret(NAMES[0], type="SIMPLE", value={"username": "u", "passphrase": "p"})
    moved = of_type(sandbox, "OA2_AUTHORIZATION_CODE")
    moved.value = moved.value | {"accessToken": "newer", "expires": "2099-01-01T00:00:00Z"}
    await fm.sync(store, NAMES)
    stored = {secret_id: secret for (_, secret_id), secret in (await contents(store)).items()}
    assert stored[added.id].value.passphrase == "p"
    assert moved.id not in stored or stored[moved.id].value.access_token == "newer"


async def test_a_new_name_is_stored_without_a_get(sandbox, fm, store):
    """The listing shows the name, which is not a credential."""
    await fm.sync(store, NAMES)
    before = await contents(store)
    simple = next(one for one in sandbox.world.truth() if one.type == "SIMPLE" and one.username in NAMES)
    sandbox.world.secret(simple.secret_id).name = "a new name"
    for expected in (1, 0):
        sandbox.reset_stats()
        report = await fm.sync(store, NAMES)
        assert simple.secret_id not in sandbox.stats().secret_gets
        assert report.left.get("renamed", 0) == expected
        assert report.secrets == len(before)
    key = (simple.username, simple.secret_id)
    assert (await contents(store))[key] == replace(before[key], name="a new name")


async def test_a_changed_password_is_seen_when_what_is_stored_is_old_enough(sandbox, fm, store):
    """No listing shows it; this is what the greatest staleness is for."""
    simple = next(one for one in sandbox.world.truth() if one.type == "SIMPLE" and one.username in NAMES)
    await fm.sync(store, NAMES)
    secret = sandbox.world.secret(simple.secret_id)
    secret.value = secret.value | {"passphrase": "a new one"}
    key = (simple.username, simple.secret_id)
    await fm.sync(store, NAMES)
    assert (await contents(store))[key].value.passphrase != "a new one"
    await fm.sync(store, NAMES, options=SyncOptions(delta=DeltaPolicy(staleness_by_type={"SIMPLE": 0.0})))
    assert (await contents(store))[key].value.passphrase == "a new one"


async def test_a_dead_grant_is_not_asked_for_again_and_again(sandbox, fm, store):
    """Its user fails while that is news; then it is left, and said to be, until something changes."""
    value = {"accessToken": "old", "refreshToken": "r", "expires": "2020-01-01T00:00:00Z"}
    dead = sandbox.world.add_secret(NAMES[0], type="OA2_AUTHORIZATION_CODE", value=value)
    dead.fault = ProviderFault.ERROR_BODY
    first = await fm.sync(store, NAMES[:1])
    assert (first.failed, first.errors) == (1, {"refresh_failed": 1})
    await fm.sync(store, NAMES[:1])
    sandbox.reset_stats()
    third = await fm.sync(store, NAMES[:1])
    assert dead.id not in sandbox.stats().secret_gets
    assert (third.failed, third.left["failed_before"]) == (0, 1)
    assert third.secrets == len(await contents(store)), "what is not stored is not vouched for"
    dead.fault = None
    dead.value = dead.value | {"expires": "2020-02-02T00:00:00Z"}
    await fm.sync(store, NAMES[:1])
    assert (NAMES[0], dead.id) in await contents(store)


async def test_a_run_that_tries_its_failed_users_again_tries_what_failed(sandbox, fm, store):
    value = {"accessToken": "old", "refreshToken": "r", "expires": "2020-01-01T00:00:00Z"}
    dead = sandbox.world.add_secret(NAMES[0], type="OA2_AUTHORIZATION_CODE", value=value)
    dead.fault = ProviderFault.ERROR_BODY
    for _ in range(2):  # from the second time on, what the listing shows is the same
        await fm.sync(store, NAMES[:1], options=SyncOptions(retry_failed=True))
    dead.fault = None
    again = await fm.sync(store, NAMES[:1], options=SyncOptions(retry_failed=True))
    assert (again.failed, again.left.get("failed_before", 0)) == (0, 0)
    assert (NAMES[0], dead.id) in await contents(store)


async def test_volatile_ones_are_left_to_the_workers(sandbox, fm, store):
    sandbox.reset_stats()
    report = await fm.sync(store, NAMES, options=SyncOptions(delta=DeltaPolicy(skip_volatile=True)))
    assert not sandbox.stats().refreshes
    sessions = [one for one in (await contents(store)).values() if type(one).__name__ == "SessionSecret"]
    assert all(session.expires_at is not None for session in sessions)
    assert report.left["volatile"] > 0


async def test_a_dry_run_lists_and_changes_nothing(sandbox, fm, store):
    plan = await fm.plan_sync(store, NAMES)
    assert not sandbox.stats().secret_gets
    assert await contents(store) == {}
    report = await fm.sync(store, NAMES)
    assert (plan.users, sum(plan.fetch.values())) == (len(NAMES), report.secrets)
    sandbox.reset_stats()
    plan = await fm.plan_sync(store, [*NAMES, "nobody"])
    assert plan.failed == {"user_not_found": 1}
    assert plan.left["unchanged"] + plan.fetch["due"] == report.secrets
    assert not sandbox.stats().secret_gets


async def test_a_full_sync_leaves_volatile_ones_to_the_workers_as_well(sandbox, fm, store):
    policy = DeltaPolicy(full=True, skip_volatile=True)
    report = await fm.sync(store, NAMES, options=SyncOptions(delta=policy))
    assert not sandbox.stats().refreshes
    assert report.left["volatile"] > 0
