"""One rate for all processes over Redis: never exceeded, nearly used up, also without Redis."""

import asyncio
import time

import pytest

from flowmate_async import ConfigurationError
from flowmate_async.distributed.circuit import RedisAwayError
from flowmate_async.distributed.connection import Trouble
from flowmate_async.sandbox import Sandbox, SandboxOptions

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

RATE, BURST = 200, 30


@pytest.fixture
async def sandbox():
    """A sandbox that notes when requests come."""
    async with Sandbox(SandboxOptions(users=200, seed=7, record_arrivals=True)) as running:
        yield running


def obeyed(sandbox, late, *, burst=BURST):
    """No window held more than a strict limit lets through."""
    return late.obeys(sandbox.arrivals, rate=RATE, burst=burst)


def names(number, *, of=3):
    return [f"user-{user:06d}@tenant.example" for user in range(200) if user % of == number]


async def sweep(client, usernames, *, until):
    """Read users, one after the other at most as long as that."""
    async for _ in client.sweep(usernames * 5):
        if time.monotonic() > until:
            break


def count_leases(client, monkeypatch):
    """Count how often a client asks for tokens; turns of secrets take calls of their own."""
    budget, leases = client._parts.traffic._pacer._bucket._budget, []
    lease = budget.lease
    monkeypatch.setattr(budget, "lease", lambda most: leases.append(most) or lease(most))
    return leases


async def test_three_processes_use_one_rate_and_never_exceed_it(sandbox, join, redis, late, monkeypatch):
    clients = [await join(redis, rate=RATE, burst=BURST, processes=3) for _ in range(3)]
    leases, began = [count_leases(client, monkeypatch) for client in clients], time.monotonic()
    await asyncio.gather(
        *(sweep(client, names(number), until=began + 2) for number, client in enumerate(clients))
    )
    seconds, stats = sandbox.arrivals[-1] - sandbox.arrivals[0], sandbox.stats()
    assert obeyed(
        sandbox, late, burst=BURST - 8
    )  # half of it is kept back, for requests that arrive together
    assert stats.total_requests() >= 0.7 * RATE * (seconds - late.total), (
        "one process alone would have a third"
    )
    asked = sum(map(len, leases))
    assert 0 < asked < 0.6 * stats.total_requests(), "tokens are leased a few at a time"


async def test_the_share_of_the_idle_is_used_by_the_busy(sandbox, join, redis, late):
    busy, _idle, _other = [await join(redis, rate=RATE, burst=BURST, processes=3) for _ in range(3)]
    await sweep(busy, names(0), until=time.monotonic() + 2)
    seconds = sandbox.arrivals[-1] - sandbox.arrivals[0]
    assert obeyed(sandbox, late)
    assert len(sandbox.arrivals) >= 0.7 * RATE * (seconds - late.total), "its own share is a third"


async def test_without_redis_each_keeps_to_its_share(sandbox, join, mortal_redis, late):
    """The limit holds while it is away, when it comes back with nothing of the rate in it, and afterwards."""
    clients = [await join(mortal_redis, rate=RATE, burst=BURST, processes=3) for _ in range(3)]
    began = time.monotonic()
    sweeps = asyncio.gather(
        *(sweep(client, names(number), until=began + 8) for number, client in enumerate(clients))
    )
    await asyncio.sleep(1)
    mortal_redis.kill()
    killed = len(sandbox.arrivals)
    await asyncio.sleep(1.5)
    without = len(sandbox.arrivals) - killed
    await asyncio.to_thread(mortal_redis.start)
    await sweeps
    seconds = sandbox.arrivals[-1] - sandbox.arrivals[0]
    assert obeyed(sandbox, late)
    assert without >= 0.5 * RATE * (1.5 - late.total)
    assert len(sandbox.arrivals) >= 0.8 * RATE * (seconds - late.total)
    assert all(client.stats().coordination.outages == 1 for client in clients)


async def until(holds):
    """Wait for something that happens by itself."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_connected(client):
    return client.stats().coordination.connected


async def test_a_share_is_kept_until_all_have_noticed(sandbox, join, mortal_redis, late, monkeypatch):
    """One process notices at once that Redis is back, and the others go on at their shares."""
    clients = [await join(mortal_redis, rate=RATE, burst=BURST, processes=3) for _ in range(3)]
    mortal_redis.kill()
    await until(lambda: not any(map(is_connected, clients)))
    for slow in clients[1:]:
        monkeypatch.setattr(slow._parts.coordination._circuit, "_answer", lambda *_: _away())
    await asyncio.to_thread(mortal_redis.start)
    await until(lambda: is_connected(clients[0]))
    before, began = len(sandbox.arrivals), time.monotonic()
    await asyncio.gather(
        *(sweep(client, names(number), until=began + 1.2) for number, client in enumerate(clients))
    )
    assert late.obeys(sandbox.arrivals[before:], rate=RATE, burst=BURST)


async def _away():
    raise RedisAwayError(Trouble("away", "it cannot be reached from here"))


async def test_a_pause_that_one_meets_holds_the_others(sandbox, join, redis):
    first, second = [await join(redis, rate=RATE, burst=BURST, processes=2) for _ in range(2)]
    await asyncio.gather(first.impersonate(names(0)[0]), second.impersonate(names(1)[0]))
    first._parts.traffic.engine._feedback._share_pause(0.7)
    async with asyncio.timeout(5):
        while second.stats().traffic.limiter.paused_seconds == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    newcomer = await join(redis, rate=RATE, burst=BURST, processes=2)
    began = time.monotonic()
    await newcomer.impersonate(names(2)[0])
    assert time.monotonic() - began > 0.4


async def test_a_redis_too_far_away_for_the_burst_is_an_error(sandbox, join, redis, monkeypatch):
    """Its tokens have expired when they arrive, but requests are still sent."""
    client = await join(redis, rate=10 * RATE, burst=BURST)
    lender = client._parts.traffic._pacer._bucket._budget
    check = lender._state.check

    async def from_far_away(*arguments):
        decision = await check(*arguments)
        await asyncio.sleep(0.01)
        return decision

    monkeypatch.setattr(lender._state, "check", from_far_away)
    with pytest.raises(ConfigurationError, match="Redis takes longer"):
        await client.impersonate(names(0)[0])
