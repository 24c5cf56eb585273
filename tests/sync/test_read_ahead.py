"""A store's records of users are read ahead in batches, and no user waits for others."""

import asyncio
import json

import pytest

from flowmate_async import FlowMate, StoreError
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio

NAMES = [f"u{number:04d}" for number in range(1000)]
LOOK_SECONDS = 1


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class SlowStore(MemoryStore):
    """A store that is a network away; ``looks`` holds how many users each read was for."""

    def __init__(self):
        super().__init__()
        self.looks = []
        self.broken_at = None

    async def seen(self, usernames):
        if len(self.looks) == self.broken_at:
            raise StoreError("the store is gone")
        self.looks.append(len(usernames))
        await asyncio.sleep(LOOK_SECONDS)
        return await super().seen(usernames)


@pytest.fixture
def store():
    return SlowStore()


@pytest.fixture
async def fm():
    async def upstream(method, path, headers, body):
        if method == "POST":
            begun[json.loads(body)["username"]] = asyncio.get_running_loop().time()
            return json_response(b'{"token":"t"}')
        return json_response(b'{"data":[],"meta":{"total":0}}')

    begun = {}
    async with FlowMate(
        admin_token="a", base_url="http://localhost", transport=MemoryTransport(upstream), rate=None
    ) as client:
        client.begun = begun
        yield client


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_many_users_share_a_read_and_each_is_in_one(fm, store, kind):
    async def one_by_one():
        for name in NAMES:
            yield name

    report = await fm.sync(store, NAMES if kind == "plain" else one_by_one())
    assert report.synced == sum(store.looks) == len(NAMES)
    assert len(store.looks) <= 20


async def test_a_user_that_comes_alone_does_not_wait_for_others(fm, store):
    async def now_and_then():
        for name in NAMES[:10]:
            came[name] = asyncio.get_running_loop().time()
            yield name
            await asyncio.sleep(100)

    came = {}
    await fm.sync(store, now_and_then())
    assert all(fm.begun[name] - came[name] < 2 * LOOK_SECONDS for name in came)


async def test_who_was_read_ahead_is_not_begun_once_a_sync_is_stopped(fm, store):
    stop = asyncio.Event()

    async def stopping():
        for name in NAMES[:100]:
            yield name
        await asyncio.sleep(LOOK_SECONDS / 2)  # the first read is under way
        stop.set()

    report = await fm.sync(store, stopping(), stop=stop)
    assert (report.complete, report.synced, len(fm.begun)) == (False, 0, 0)
    assert (await fm.sync(store, iter(NAMES[:100]))).synced == 100


@pytest.mark.parametrize("error", [LookupError("the caller's own"), asyncio.CancelledError()])
async def test_an_iterable_that_breaks_ends_the_sync_after_those_before(fm, store, error):
    async def breaking():
        for name in NAMES[:10]:
            yield name
        raise error

    before = asyncio.all_tasks()
    with pytest.raises((LookupError, RuntimeError), match=r"the caller's own|was cancelled"):
        await fm.sync(store, breaking())
    await asyncio.sleep(10)  # what was on the wire ends
    assert asyncio.all_tasks() == before


async def test_a_plain_iterable_that_breaks_ends_the_sync_after_those_before(fm, store):
    """It must not look like the end of the usernames: the run is not complete."""

    def breaking():
        yield from NAMES[:100]
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        await fm.sync(store, breaking())
    assert len(fm.begun) >= 36, "the last of 100 is started when all but 64 have ended"
    assert (await store.last_run()).finished_at is None


async def test_a_store_that_breaks_in_mid_sync_is_an_error_and_leaves_no_task(fm, store):
    store.broken_at = 1
    before = asyncio.all_tasks()
    with pytest.raises(StoreError, match="the store is gone"):
        await fm.sync(store, NAMES)
    await asyncio.sleep(10)  # what was on the wire ends
    assert asyncio.all_tasks() == before
    store.broken_at = None
    assert (await fm.sync(store, NAMES)).complete


async def test_a_sync_that_is_cancelled_leaves_no_task(fm, store):
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5 * LOOK_SECONDS):
            await fm.sync(store, NAMES)
    await asyncio.sleep(10)
    assert asyncio.all_tasks() == before
