"""Locks in Redis that decide which process may refresh a secret. Each holds its owner's token.

The lock of a dead process expires, later than upstream's own lock of the secret. A live process renews it for
as long as upstream takes. A Redis that hangs executes commands late. So a command that takes a lock has a
deadline by Redis' own clock, and a lock that could not be released is released once Redis is back.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from flowmate_async.contract.failures import LOCK_SECONDS
from flowmate_async.distributed.circuit import Circuit, RedisAwayError
from flowmate_async.distributed.redis_clock import RedisClock
from flowmate_async.errors import ConfigurationError
from flowmate_async.system.finishing import cancel_and_wait, finish_despite_cancellation

if TYPE_CHECKING:
    from redis.asyncio import Redis

LIFE_SECONDS = LOCK_SECONDS + 5.0
_RENEWALS = 3

_ACQUIRE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > tonumber(ARGV[3]) then return -now end
for _, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if holder and holder ~= ARGV[1] then return 0 end
end
for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1], 'PX', ARGV[2]) end
return 1
"""
"""1: all taken, 0: one is held by another, below 0: too late, and Redis' time. Idempotent."""

_RENEW = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 0
"""

_RELEASE = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return 0
"""


class RefreshLocks:
    """The locks of one Redis."""

    def __init__(self, redis: "Redis", circuit: Circuit, clock: RedisClock) -> None:
        self._circuit = circuit
        self._clock = clock
        self._acquire_script: Any = redis.register_script(_ACQUIRE)
        self._renew_script: Any = redis.register_script(_RENEW)
        self._release_script: Any = redis.register_script(_RELEASE)

    def lock(self, *names: str) -> "RefreshLock":
        """Return a lock that has not been taken yet.

        Args:
            names: names in Redis; all or none of them are taken.
        """
        return RefreshLock(self, names)

    async def acquire(self, names: tuple[str, ...], token: str) -> bool:
        """Take a lock unless another owner holds one of its names. Return whether it was taken.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        life = int(LIFE_SECONDS * 1000)
        for _ in range(2):  # the second time with the time that Redis returned
            answer: int = await self._circuit.call(
                lambda: self._acquire_script(keys=names, args=[token, life, self._clock.deadline()])
            )
            if answer >= 0:
                break
            self._clock.set(-answer)
        return answer == 1

    async def renew(self, names: tuple[str, ...], token: str) -> None:
        """Restart its lifetime, if this owner still holds it.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        await self._circuit.call(
            lambda: self._renew_script(keys=names, args=[token, int(LIFE_SECONDS * 1000)])
        )

    async def release(self, names: tuple[str, ...], token: str) -> None:
        """Release it, if this owner holds it. Do so later if Redis is unavailable."""

        def command() -> Any:
            return self._release_script(keys=names, args=[token])

        try:
            await self._circuit.call(command)
        except RedisAwayError:
            self._circuit.call_later(command)


class RefreshLock:
    """A lock of one or more names, used inside ``async with``."""

    def __init__(self, locks: RefreshLocks, names: tuple[str, ...]) -> None:
        self._locks = locks
        self._names = names
        self._token = os.urandom(16).hex()
        self._tried = False
        self._kept = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._tried and not self._kept:
            # Also after a cancellation or an error while Redis was answering: the lock may be ours.
            with suppress(ConfigurationError):
                await finish_despite_cancellation(self._locks.release(self._names, self._token))

    async def acquire(self) -> bool:
        """Take it if no other owner holds it. Return whether it was taken.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        self._tried = True
        return await self._locks.acquire(self._names, self._token)

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Renew it until the block ends."""
        renewing = asyncio.get_running_loop().create_task(self._renew())
        try:
            yield
        finally:
            await cancel_and_wait(renewing)

    async def keep(self) -> None:
        """Do not release it: it expires after its whole lifetime."""
        self._kept = True
        with suppress(RedisAwayError):
            await self._locks.renew(self._names, self._token)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LIFE_SECONDS / _RENEWALS)
            with suppress(RedisAwayError):
                await self._locks.renew(self._names, self._token)
