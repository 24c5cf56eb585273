"""Settings on which sharing processes must agree: key, rate, burst and number of processes.

Once a second every process writes its settings into one list in Redis and reads those of the others. Until
all agree, the lowest rate and burst apply to all of them: the script that lends the rate reads them.
Processes with different keys cannot share, so each uses only its share of the rate. So a rolling change
exceeds neither the old limit nor the new one. A process that vanished counts for ten seconds.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.redis_clock import RedisClock

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LIFE_SECONDS = 10.0

_BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local life = tonumber(ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', now) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], life)
local reply, emission, burst = {now}, 0, 0
local fields = redis.call('HGETALL', KEYS[1])
local mine = string.match(ARGV[2], '^%S+')
for i = 1, #fields, 2 do
    local at, settings = string.match(fields[i + 1], '^(%d+) (.*)$')
    if at and math.abs(now - tonumber(at)) <= life then
        reply[#reply + 1] = settings
        local key, e, b = string.match(settings, '^(%S+) (%d+) (%d+) ')
        if key == mine then
            emission = math.max(emission, tonumber(e))
            b = tonumber(b)
            if b > 0 and (burst == 0 or b < burst) then burst = b end
        end
    else
        redis.call('HDEL', KEYS[1], fields[i])
    end
end
if burst > 0 then
    redis.call('HSET', KEYS[2], 'emission', string.format('%.0f', emission), 'burst', burst)
    redis.call('PEXPIRE', KEYS[2], life)
end
return reply
"""
"""Write this process's settings and drop those of vanished processes; return the time and all settings."""

_NAMES = ("key", "rate", "burst", "processes")


class SharedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one process.

    Attributes:
        key: the id of its key, which reveals nothing about the key.
        emission: microseconds per request at its rate; 0 without a rate.
        capacity: tokens that are lent at once; 0 without a rate.
        rate: requests/s; 0 without a rate.
        burst: requests that upstream accepts at once; 0 without a rate.
        processes: how many processes share the rate, by its configuration.
    """

    key: str
    emission: int = 0
    capacity: int = 0
    rate: float = 0.0
    burst: int = 0
    processes: int = 1

    def encoded(self) -> str:
        """Return the settings as one line, as the script reads it."""
        return f"{self.key} {self.emission} {self.capacity} {self.rate!r} {self.burst} {self.processes}"

    @classmethod
    def decoded(cls, line: bytes) -> "SharedSettings | None":
        """Return the settings in such a line; ``None`` if it is not one."""
        try:
            key, emission, capacity, rate, burst, processes = line.decode().split(" ")
            found = cls(
                key=key,
                emission=int(emission),
                capacity=int(capacity),
                rate=float(rate),
                burst=int(burst),
                processes=int(processes),
            )
        except ValueError:
            return None
        return found if found.processes >= 1 and found.rate >= 0 and found.burst >= 0 else None


class Agreement:
    """The settings of all sharing processes, as known to this one.

    Args:
        redis: the connection.
        keyspace: names the list.
        mine: this process's settings; see :meth:`limit`.
        redis_clock: set by each answer.
        on_change: called with the names of the differing settings, whenever they change.

    Attributes:
        differing: the settings in which live processes differ, by name.
        members: how many live processes there are.
    """

    def __init__(
        self,
        redis: "Redis",
        keyspace: Keyspace,
        mine: SharedSettings,
        *,
        redis_clock: RedisClock,
        on_change: Callable[[tuple[str, ...]], object],
    ) -> None:
        self._redis = redis
        self._list = keyspace.processes
        self._terms = terms_of(keyspace.of("rate"))
        self._mine = mine
        self._redis_clock = redis_clock
        self._on_change = on_change
        self._process = os.urandom(8).hex()
        self._all = [mine]
        self._beat: Any = redis.register_script(_BEAT)
        self.differing: tuple[str, ...] = ()
        self.members: int = 1

    def limit(self, *, rate: float, burst: int, capacity: int, emission: int) -> None:
        """Set this process's configured rate; see :class:`SharedSettings`."""
        self._mine = structs.replace(self._mine, rate=rate, burst=burst, capacity=capacity, emission=emission)
        self._all = [self._mine]

    async def beat(self) -> None:
        """Write this process's settings and read all others.

        Raises:
            RedisError: Redis is unavailable, or does not permit this.
        """
        args = [self._process, self._mine.encoded(), int(_LIFE_SECONDS * 1000)]
        now, *lines = await self._beat(keys=[self._list, self._terms], args=args)
        self._redis_clock.set(now)
        self._all = [known for line in lines if (known := SharedSettings.decoded(line)) is not None] or [
            self._mine
        ]
        self.members = len(self._all)
        differing = tuple(name for name in _NAMES if self._differ(name))
        if differing != self.differing:
            self.differing = differing
            self._on_change(differing)

    async def leave(self) -> None:
        """Remove this process from the list.

        Raises:
            RedisError: Redis is unavailable; the entry then expires after ten seconds.
        """
        await self._redis.hdel(self._list, self._process)

    @property
    def is_shared(self) -> bool:
        """Whether all processes have the same key, and so the same rate in Redis."""
        return "key" not in self.differing

    @property
    def rate(self) -> float:
        """The strictest rate of the processes with this key, in requests/s."""
        return min(one.rate for one in self._limited())

    @property
    def burst(self) -> int:
        """The strictest burst of the processes with this key."""
        return min(one.burst for one in self._limited())

    @property
    def processes(self) -> int:
        """How many processes may share the rate: the maximum of the live and the configured numbers."""
        return max(len(self._all), *(one.processes for one in self._all), self._mine.processes)

    def _limited(self) -> list[SharedSettings]:
        return [one for one in self._all if one.key == self._mine.key and one.rate] or [self._mine]

    def _differ(self, name: str) -> bool:
        values = {getattr(one, name) for one in (*self._all, self._mine)}
        return len(values - {0}) > 1  # some have no rate


def terms_of(rate_name: str) -> str:
    """Return the name of the record of the strictest rate and burst."""
    return f"{rate_name}:terms"
