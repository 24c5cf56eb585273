"""A Redis, clients that share over it, and how late this process notes what it sees."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from flowmate_async import FlowMate, StoreKey
from flowmate_async.distributed.coordination import RedisCoordination, SharingPolicy
from flowmate_async.sandbox import Sandbox, burst_needed

from .redis_server import RedisServer, redis_server

KEY = StoreKey.parse("5a" * 32)


_TICK_SECONDS, _NORMAL_SECONDS = 0.005, 0.005


class Lateness:
    """How late the loop was, on a machine that does other things as well.

    What is noted up to W seconds late seems to need a larger burst, by at most ``rate * W``.

    Attributes:
        worst: the longest delay, in seconds.
        total: all delays together, in which nothing could be sent.
    """

    def __init__(self) -> None:
        self.worst = self.total = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            late = loop.time() - due
            if late > _NORMAL_SECONDS:
                self.worst = max(self.worst, late)
                self.total += late

    def obeys(self, moments: list[float], *, rate: float, burst: float) -> bool:
        """Return whether no window holds more requests than a strict limit lets through."""
        return burst_needed(moments, rate) <= burst + rate * self.worst


@pytest.fixture
async def late() -> AsyncIterator[Lateness]:
    """Measure how late the loop is during the test."""
    measured = Lateness()
    watching = asyncio.create_task(measured.watch())
    yield measured
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


@pytest.fixture(scope="session")
def redis_program(program: Callable[..., Path]) -> Path:
    return program("redis-server", package="redis-server")


@pytest.fixture(scope="module")
def one_redis(redis_program: Path) -> Iterator[RedisServer]:
    with redis_server(redis_program) as server:
        yield server


@pytest.fixture
def redis(one_redis: RedisServer) -> RedisServer:
    """An empty Redis, which no test may kill."""
    one_redis.ask("FLUSHALL")
    return one_redis


@pytest.fixture
def mortal_redis(redis_program: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with redis_server(redis_program) as server:
        yield server


@pytest.fixture
def prepare(sandbox: Sandbox) -> Callable[..., FlowMate]:
    """Return a client of the sandbox that shares over a Redis, as another process would; not yet entered."""

    def client(redis: RedisServer, **options: Any) -> FlowMate:
        names = ("processes", "on_outage", "namespace", "freshness")
        policy = {name: options.pop(name) for name in names if name in options}
        url, key = options.pop("url", redis.url), options.pop("key", KEY)
        coordination = RedisCoordination(url, key=key, policy=SharingPolicy(**policy))
        return FlowMate(
            admin_token=sandbox.admin_token,
            base_url=sandbox.url,
            coordination=coordination,
            **({"rate": None} | options),
        )

    return client


@pytest.fixture
async def join(prepare: Callable[..., FlowMate]) -> AsyncIterator[Callable[..., Any]]:
    """One more client, entered until the test ends."""
    async with AsyncExitStack() as entered:

        async def another(redis: RedisServer, **options: Any) -> FlowMate:
            return await entered.enter_async_context(prepare(redis, **options))

        yield another
