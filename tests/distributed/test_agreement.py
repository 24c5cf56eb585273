"""Processes with different settings: the limit holds, none starves, and all report the difference."""

import asyncio
import logging
import time

import pytest

from flowmate_async import StoreKey
from flowmate_async.events import CoordinationDiffers
from flowmate_async.sandbox import Sandbox, SandboxOptions

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

RATE, BURST = 200, 20
OTHER_KEY = StoreKey.parse("a5" * 32)


@pytest.fixture
async def sandbox():
    """One that notes when requests come."""
    async with Sandbox(SandboxOptions(users=90, seed=7, record_arrivals=True)) as running:
        yield running


async def until(holds):
    """Wait for something that happens by itself."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def differing(client):
    return client.stats().coordination.differing


def requests(client):
    return sum(client.stats().requests.values())


async def work(client, number, *, seconds):
    """List users, each client its own, for as long as that."""
    names = [f"user-{user:06d}@tenant.example" for user in range(number, 90, 3)]
    ends = time.monotonic() + seconds

    async def one(first):
        turn = first
        while time.monotonic() < ends:
            await client.list_secrets(names[turn % len(names)])
            turn += 1

    await asyncio.gather(*(one(first) for first in range(len(names))))


class TestRates:
    async def test_the_lowest_rate_holds_and_none_starves(self, sandbox, join, redis, late):
        low, high = (
            await join(redis, rate=RATE / 2, burst=BURST),
            await join(redis, rate=2 * RATE, burst=BURST),
        )
        await asyncio.gather(work(low, 0, seconds=3), work(high, 1, seconds=3))
        seconds = sandbox.arrivals[-1] - sandbox.arrivals[0]
        assert late.obeys(sandbox.arrivals, rate=RATE / 2, burst=BURST)
        assert len(sandbox.arrivals) >= 0.6 * RATE / 2 * (seconds - late.total)
        assert min(requests(low), requests(high)) >= 0.2 * len(sandbox.arrivals)

    async def test_a_newcomer_with_a_lower_rate_holds_the_others_at_once(self, sandbox, join, redis, late):
        high = await join(redis, rate=2 * RATE, burst=BURST)
        working = asyncio.create_task(work(high, 0, seconds=2.5))
        await asyncio.sleep(0.5)
        await join(redis, rate=RATE / 2, burst=BURST)
        joined = time.monotonic()
        await working
        afterwards = [moment for moment in sandbox.arrivals if moment > joined]
        assert late.obeys(afterwards, rate=RATE / 2, burst=BURST + 2)  # some were leased before

    async def test_the_lowest_burst_holds(self, sandbox, join, redis, late):
        """Also for tokens leased by a process with a larger one."""
        small, large = await join(redis, rate=RATE, burst=10), await join(redis, rate=RATE, burst=100)
        await until(lambda: "burst" in differing(small) and "burst" in differing(large))
        await asyncio.gather(work(small, 0, seconds=2), work(large, 1, seconds=2))
        assert late.obeys(sandbox.arrivals, rate=RATE, burst=10)

    async def test_a_rolling_change_ends_at_the_new_rate(self, sandbox, join, prepare, redis):
        """A raised rate is used once no process has the old one any more."""
        new = await join(redis, rate=2 * RATE, burst=2 * BURST)
        coordination = new._parts.coordination
        async with prepare(redis, rate=RATE / 4, burst=BURST) as old:
            await until(lambda: differing(new) and differing(old))
            assert coordination._agreement.rate == RATE / 4
        await until(lambda: not differing(new))
        assert coordination._agreement.rate == 2 * RATE
        before = len(sandbox.arrivals)
        await work(new, 0, seconds=2)
        assert len(sandbox.arrivals) - before > RATE / 4 * 2 + BURST


class TestKeys:
    async def test_with_different_keys_the_limit_holds(self, sandbox, join, redis, late):
        """Each keeps to its share: neither sees what the other uses."""
        first = await join(redis, rate=RATE, burst=BURST, processes=2)
        working = asyncio.create_task(work(first, 0, seconds=5))
        await asyncio.sleep(0.5)
        second = await join(redis, rate=RATE, burst=BURST, processes=2, key=OTHER_KEY)
        assert differing(first) == ("key",), "a newcomer waits until the others know"
        await asyncio.gather(working, work(second, 1, seconds=2))
        assert late.obeys(sandbox.arrivals, rate=RATE, burst=BURST)
        assert min(requests(first), requests(second)) >= 0.5 * RATE / 2 * (2 - late.total)
        assert differing(first) == differing(second) == ("key",)

    async def test_a_rolling_change_of_the_key_ends_in_sharing(self, sandbox, join, prepare, redis):
        new = await join(redis, rate=RATE, burst=BURST)
        async with prepare(redis, rate=RATE, burst=BURST, key=OTHER_KEY):
            await until(lambda: differing(new) == ("key",))
            assert not new._parts.coordination._agreement.is_shared
        await until(lambda: not differing(new))
        assert new._parts.coordination._agreement.is_shared

    async def test_another_namespace_is_another_application(self, sandbox, join, redis):
        first = await join(redis, rate=RATE, burst=BURST, namespace="one")
        second = await join(redis, rate=RATE, burst=BURST, namespace="two", key=OTHER_KEY)
        await asyncio.sleep(1.5)
        assert differing(first) == differing(second) == ()
        assert first.stats().coordination.processes == 1


class TestProcesses:
    async def test_more_processes_than_told_share_the_rate(self, sandbox, join, mortal_redis, late):
        """Three processes that each expect to be the only one obey the limit without Redis."""
        clients = [await join(mortal_redis, rate=RATE, burst=BURST) for _ in range(3)]
        await until(lambda: all(one.stats().coordination.processes == 3 for one in clients))
        mortal_redis.kill()
        await until(lambda: not any(one.stats().coordination.connected for one in clients))
        await asyncio.gather(*(work(one, number, seconds=2) for number, one in enumerate(clients)))
        assert late.obeys(sandbox.arrivals, rate=RATE, burst=BURST)

    async def test_a_share_is_of_the_largest_number_told(self, sandbox, join, redis):
        few = await join(redis, rate=RATE, burst=BURST, processes=2)
        await join(redis, rate=RATE, burst=BURST, processes=8)
        await until(lambda: differing(few) == ("processes",))
        assert few._parts.coordination._agreement.processes == 8

    async def test_one_that_vanished_counts_for_a_while_only(self, sandbox, join, redis):
        """Entries left by a killed process, and malformed entries, are removed."""
        client = await join(redis, rate=RATE, burst=BURST)
        listed = client._parts.coordination._keyspace.processes
        now = int(time.time() * 1000)
        mine = client._parts.coordination._agreement._mine
        gone = mine.encoded().replace(mine.key, "f" * 16)
        redis.ask("HSET", listed, "gone", f"{now - 11_000} {gone}", "garbage", "x", "odd", f"{now} x y z")
        redis.ask("HSET", listed, "negative", f"{now} {mine.key} 1 1 -5.0 -1 0")
        await asyncio.sleep(1.5)
        assert differing(client) == ()
        assert client.stats().coordination.processes == 1
        assert "gone" not in redis.ask("HKEYS", listed)
        assert await client.impersonate("user-000001@tenant.example")


async def test_a_difference_shows_in_events_log_and_stats(sandbox, join, prepare, redis, caplog):
    events = []
    first = await join(redis, rate=RATE, burst=BURST, on_event=events.append)
    with caplog.at_level(logging.WARNING, logger="flowmate_async"):
        async with prepare(redis, rate=2 * RATE, burst=BURST):
            await until(lambda: differing(first) == ("rate",))
        await until(lambda: differing(first) == ())
    told = [event.settings for event in events if isinstance(event, CoordinationDiffers)]
    assert told == [("rate",), ()]
    assert sum("were told different things: rate" in record.message for record in caplog.records) == 2
