"""A Redis, and clients that share over it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from flowmate_async import FlowMate, StoreKey
from flowmate_async.distributed.coordination import RedisCoordination, SharingPolicy
from flowmate_async.sandbox import Sandbox

from .redis_server import RedisServer, redis_server

KEY = StoreKey.parse("5a" * 32)


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
