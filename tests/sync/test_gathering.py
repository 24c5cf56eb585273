"""How outcomes are gathered into transactions: many share one where they come fast, none waits for long."""

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FlowMate
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

APART_SECONDS = 0.05
WRITE_SECONDS = 0.001


class Watched(MemoryStore):
    """Takes its time, and notes when it began to write whom."""

    def __init__(self):
        super().__init__()
        self.writes = []

    async def write(self, run, batch):
        now = asyncio.get_running_loop().time()
        self.writes.append((now, [user.checkpoint.username for user in batch]))
        await asyncio.sleep(WRITE_SECONDS)
        return await super().write(run, batch)


async def synced(seconds, *, concurrency, every=0.0):
    """The writes of a sync, when each user was read, and when there were no more."""
    loop, read_at, no_more_at = asyncio.get_running_loop(), {}, []

    async def upstream(method, path, headers, body):
        if method == "POST":
            name = json.loads(body)["username"]
            await asyncio.sleep(seconds[int(name)])
            read_at[name] = loop.time()
            return json_response(b'{"token":"t"}')
        return json_response(b'{"data":[],"meta":{"total":0}}')

    async def users():
        for number in range(len(seconds)):
            await asyncio.sleep(every)
            yield str(number)
        no_more_at.append(loop.time())

    client = FlowMate(
        admin_token="a",
        base_url="http://localhost",
        transport=MemoryTransport(upstream),
        rate=None,
        concurrency=concurrency,
    )
    async with Watched() as store, client as fm:
        report = await fm.sync(store, users=users())
    assert report.synced == len(seconds)
    return store.writes, read_at, *no_more_at


def test_who_comes_alone_is_written_at_once(virtually):
    writes, read_at, _ = virtually(lambda: synced([0.1] * 10, concurrency=4, every=1.0))
    assert [names for _, names in writes] == [[str(number)] for number in range(10)]
    assert all(at == pytest.approx(read_at[name]) for at, (name,) in writes)


def test_who_come_fast_share_a_transaction(virtually):
    """A thousand users a second, and never half a queue of them: twenty transactions, not a thousand."""
    writes, *_ = virtually(lambda: synced([0.1] * 1000, concurrency=200, every=0.001))
    assert len(writes) <= 1.1 / APART_SECONDS + 2


def test_nobody_waits_for_room(virtually):
    """Eight at a time, 5 ms each: the queue is full before a batch would be due."""
    _, read_at, _ = virtually(lambda: synced([0.005] * 800, concurrency=8))
    assert max(read_at.values()) == pytest.approx(0.5, rel=0.05)


def test_after_a_rush_they_are_gathered_again(virtually):
    seconds = [0.001] * 90 + [0.1 + 0.003 * number for number in range(10)]
    writes, *_ = virtually(lambda: synced(seconds, concurrency=20))
    assert len([names for at, names in writes if at > 0.05]) <= 3


@given(
    seconds=st.lists(st.integers(1, 60).map(lambda ms: ms / 1000), min_size=1, max_size=80),
    concurrency=st.integers(1, 30),
    every=st.sampled_from([0.0, 0.001, 0.01]),
)
def test_a_transaction_waits_for_company_but_not_for_long(virtually, seconds, concurrency, every):
    writes, read_at, no_more_at = virtually(lambda: synced(seconds, concurrency=concurrency, every=every))
    assert sorted(name for _, names in writes for name in names) == sorted(read_at)
    for (before, _), (at, names) in pairwise(writes):
        soon = at - before < APART_SECONDS - 1e-9
        assert not soon or 2 * len(names) >= concurrency or at >= no_more_at
    for at, names in writes:
        waited = at - min(read_at[name] for name in names)
        assert waited <= APART_SECONDS + WRITE_SECONDS + 1e-6
    assert writes[-1][0] <= max(read_at.values()) + WRITE_SECONDS + 1e-6
