"""Whose turn it is to refresh a secret: a lock in Redis with an owner's token, which outlives upstream's own.

A holder that dies leaves it to expire, later than upstream's lock of the secret does; a live one renews it
for as long as upstream takes.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

from flowmate_async.distributed.connection import driver, redis_errors
from flowmate_async.failures import LOCK_SECONDS
from flowmate_async.stores.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from redis.asyncio import Redis

LIFE_SECONDS = LOCK_SECONDS + 5.0
_RENEWALS = 3


class Turn:
    """A lock that may be taken, used inside ``async with``.

    Args:
        redis: the connection.
        name: the lock's name.
    """

    def __init__(self, redis: "Redis", name: str) -> None:
        lock = driver("redis.asyncio.lock").Lock
        self._lock = lock(redis, name, timeout=LIFE_SECONDS, thread_local=False)
        self._token = os.urandom(16).hex().encode()
        self._kept = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._kept:
            # Also after a cancellation that came while Redis was answering: the lock may be ours.
            await uninterrupted(self._give_up())

    async def take(self) -> bool:
        """Take it, if nobody has it.

        Raises:
            RedisError: Redis is away.
        """
        return bool(await self._lock.acquire(blocking=False, token=self._token))

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Within, it lasts for as long as this process lives."""
        renewing = asyncio.get_running_loop().create_task(self._renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def keep(self) -> None:
        """Let nobody have it for its whole life from now on, instead of giving it up."""
        self._kept = True
        with suppress(*redis_errors()):
            await self._lock.reacquire()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LIFE_SECONDS / _RENEWALS)
            with suppress(*redis_errors()):
                await self._lock.reacquire()

    async def _give_up(self) -> None:
        with suppress(*redis_errors()):  # not ours any more, or Redis is away: it expires by itself
            await self._lock.do_release(self._token)
