"""What upstream no longer has is kept, marked or deleted: only when proven, and never too much of it."""

import asyncio
from collections import Counter

import msgspec
import pytest

from flowmate_async import DeltaPolicy, SyncOptions, open_store
from flowmate_async.events import UserStored
from flowmate_async.sandbox import ProviderFault

pytestmark = pytest.mark.anyio

MARK = SyncOptions(removed="mark")
DELETE = SyncOptions(removed="delete")


@pytest.fixture
async def store():
    async with open_store("memory:") as opened:
        yield opened


@pytest.fixture
async def gone(sandbox, fm, store):
    """A synced store, and one secret of it that upstream has no longer: (username, id)."""
    await fm.sync(store)
    truth = next(truth for truth in sandbox.world.truth() if truth.type == "SIMPLE")
    sandbox.world.remove_secret(truth.secret_id)
    return truth.username, truth.secret_id


async def stored(store):
    """(user, id) -> whether it is marked as removed."""
    return {(item.username, item.secret_id): item.removed_at is not None async for item in store.items()}


async def test_by_default_nothing_is_removed(fm, store, gone):
    report = await fm.sync(store)
    assert (report.missing, report.removed, report.removal_refused) == (0, 0, False)
    assert (await stored(store))[gone] is False


async def test_what_a_listing_lacks_is_deleted_and_nothing_else(fm, store, gone):
    before = await stored(store)
    report = await fm.sync(store, options=DELETE)
    assert (report.missing, report.removed, report.removal_refused) == (1, 1, False)
    assert await stored(store) == {place: False for place in before if place != gone}


async def test_what_a_listing_lacks_is_marked_once(fm, store, gone):
    """And stays marked, without being counted again."""
    first = await fm.sync(store, options=MARK)
    second = await fm.sync(store, options=MARK)
    assert (first.missing, first.removed, second.missing, second.removed) == (1, 1, 0, 0)
    assert [place for place, marked in (await stored(store)).items() if marked] == [gone]


async def test_a_user_that_is_gone_takes_everything_along(sandbox, fm, store):
    """Known from the list of the tenant's accounts, so only a sync of all users sees it."""
    await fm.sync(store)
    username = Counter(name for name, _ in await stored(store)).most_common()[-1][0]
    sandbox.world.delete_user(username)
    some = [name for name, _ in await stored(store) if name != username]
    assert (await fm.sync(store, set(some), options=DELETE)).removed == 0
    report = await fm.sync(store, options=DELETE)
    assert report.removed == report.missing > 0
    assert username not in {name for name, _ in await stored(store)}


async def test_a_user_that_is_only_left_out_keeps_everything(sandbox, fm, store):
    """Disabled is not deleted."""
    await fm.sync(store)
    before = await stored(store)
    username = next(iter(before))[0]
    sandbox.world.user(username).status = "DISABLED"
    report = await fm.sync(store, options=DELETE)
    assert username in {account.username for account in report.left_out}
    assert report.removed == 0
    assert await stored(store) == before


async def test_more_than_the_share_is_refused_and_said(sandbox, fm, store):
    """All or nothing: the run is complete, the report says how much is missing, nothing is removed."""
    await fm.sync(store)
    before = await stored(store)
    for _, secret_id in list(before)[: len(before) // 2]:
        sandbox.world.remove_secret(secret_id)
    report = await fm.sync(store, options=DELETE)
    assert (report.complete, report.removal_refused, report.removed) == (True, True, 0)
    assert report.missing == len(before) // 2
    assert await stored(store) == before
    allowed = await fm.sync(store, options=SyncOptions(removed="delete", max_removed_share=0.5))
    assert allowed.removed == len(before) // 2


async def test_the_share_is_of_the_users_of_the_run(sandbox, fm, store, gone):
    """A small selection that loses everything is not hidden by a large store."""
    for other in [secret.id for secret in sandbox.world.secrets_of(gone[0])]:
        sandbox.world.remove_secret(other)
    report = await fm.sync(store, [gone[0]], options=DELETE)
    assert report.removal_refused
    assert report.removed == 0


async def test_a_user_that_failed_loses_nothing(sandbox, fm, store):
    """What could not be read wholly proves nothing."""
    sandbox.configure(provider_fault=ProviderFault.ERROR_BODY)
    await fm.sync(store)
    failed = {one.username async for one in store.checkpoints(await store.last_run()) if one.error}
    place = next(place for place in await stored(store) if place[0] in failed)
    sandbox.world.remove_secret(place[1])
    everything = msgspec.structs.replace(DELETE, delta=DeltaPolicy(full=True))
    report = await fm.sync(store, options=everything)
    assert report.errors == {"refresh_failed": len(failed)}
    assert (report.missing, report.removed) == (0, 0)
    assert place in await stored(store)


async def test_an_interrupted_run_removes_nothing_until_it_is_complete(fm, store, gone):
    """What the first part noted is removed by the part that completes the run."""
    stop = asyncio.Event()

    def stop_after_the_first(event):
        if isinstance(event, UserStored) and event.username == gone[0]:
            stop.set()

    first = await fm.sync(store, options=DELETE, stop=stop, on_event=stop_after_the_first)
    assert (first.complete, first.removed) == (False, 0)
    assert gone in await stored(store)
    second = await fm.sync(store, options=DELETE)
    assert (second.resumed, second.complete, second.removed) == (True, True, 1)
    assert gone not in await stored(store)
