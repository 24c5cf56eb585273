"""Whose turn it is to refresh a secret: a lock in Redis with an owner's token, which outlives upstream's own.

A holder that dies leaves it to expire, later than upstream's lock of the secret does; a live one renews it
for as long as upstream takes. A Redis that hangs carries out later what it was sent, so taking a turn names a
deadline by Redis' own clock, and a turn that could not be given up is given up once Redis is back.
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
from flowmate_async.system.finishing import finish_despite_cancellation

if TYPE_CHECKING:
    from redis.asyncio import Redis

LIFE_SECONDS = LOCK_SECONDS + 5.0
_RENEWALS = 3

_TAKE = """
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
"""1: all taken, 0: one is held by another, below 0: too late, and Redis' time. Harmless when sent twice."""

_RENEW = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2]) end
end
return 0
"""

_GIVE_UP = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return 0
"""


class Turns:
    """Makes turns of one Redis.

    Args:
        redis: the connection.
        circuit: in front of it.
        clock: Redis' time.
    """

    def __init__(self, redis: "Redis", circuit: Circuit, clock: RedisClock) -> None:
        self._circuit = circuit
        self._clock = clock
        self._take: Any = redis.register_script(_TAKE)
        self._renew: Any = redis.register_script(_RENEW)
        self._give_up: Any = redis.register_script(_GIVE_UP)

    def turn(self, *names: str) -> "Turn":
        """Return a turn that is not taken yet.

        Args:
            names: of the locks that it takes, all or none.
        """
        return Turn(self, names)

    async def take(self, names: tuple[str, ...], token: str) -> bool:
        """Take a turn if no one else has a part of it. Return whether it is this owner's now.

        Raises:
            RedisAwayError: Redis is away.
        """
        life = int(LIFE_SECONDS * 1000)
        for _ in range(2):  # the second time with the time that Redis told
            answer: int = await self._circuit.call(
                lambda: self._take(keys=names, args=[token, life, self._clock.deadline()])
            )
            if answer >= 0:
                break
            self._clock.set(-answer)
        return answer == 1

    async def renew(self, names: tuple[str, ...], token: str) -> None:
        """Let it last for its whole life from now on, if it is still this owner's.

        Raises:
            RedisAwayError: Redis is away.
        """
        await self._circuit.call(lambda: self._renew(keys=names, args=[token, int(LIFE_SECONDS * 1000)]))

    async def give_up(self, names: tuple[str, ...], token: str) -> None:
        """Give it up, if it is this owner's; once Redis is back if it is away."""

        def command() -> Any:
            return self._give_up(keys=names, args=[token])

        try:
            await self._circuit.call(command)
        except RedisAwayError:
            self._circuit.later(command)


class Turn:
    """Locks that may be taken together, used inside ``async with``.

    Args:
        turns: talks to Redis.
        names: the locks' names.
    """

    def __init__(self, turns: Turns, names: tuple[str, ...]) -> None:
        self._turns = turns
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
                await finish_despite_cancellation(self._turns.give_up(self._names, self._token))

    async def take(self) -> bool:
        """Take it, if nobody has it.

        Raises:
            RedisAwayError: Redis is away.
        """
        self._tried = True
        return await self._turns.take(self._names, self._token)

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
        with suppress(RedisAwayError):
            await self._turns.renew(self._names, self._token)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LIFE_SECONDS / _RENEWALS)
            with suppress(RedisAwayError):
                await self._turns.renew(self._names, self._token)
