"""One rate for all processes: pyrate-limiter's GCRA in Redis, leased a few tokens at a time.

The moment is Redis' own, since the clocks of many machines differ. While Redis is away each process keeps to
its share of the rate, or sends nothing, as was chosen; when it is back each keeps to its share for a while
longer, until all the others have certainly noticed as well.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

from flowmate_async.clock import Clock
from flowmate_async.coordination import TokenLease
from flowmate_async.distributed.connection import driver, redis_errors, unreachable
from flowmate_async.errors import ConfigurationError
from flowmate_async.traffic.bucket import TokenBucket
from flowmate_async.traffic.leased_bucket import LeaseTerms

if TYPE_CHECKING:
    from redis.asyncio import Redis

OnOutage = Literal["share", "error"]
"""What a process does without Redis: ``share``, keep to its share of the rate; ``error``, send nothing."""

_PROBE_SECONDS = 1.0
_AFTERWARDS_SECONDS = 5.0
"""Twice as long as a process takes at most to notice that Redis is back: a probe and its deadline."""

_MOST_VOID = 100

_NOW_AND_PAUSE = """
local time = redis.call('TIME')
ARGV[1] = time[1] * 1000 + math.floor(time[2] / 1000)
local paused = redis.call('PTTL', KEYS[1] .. ':pause')
if paused > 0 then
    -- As if a whole burst had passed when the pause ends, so that nobody wakes in one.
    local full = (ARGV[1] + paused) * 1000 + tonumber(ARGV[5]) * tonumber(ARGV[6])
    redis.call('HSET', KEYS[1], 'tat1', string.format('%.0f', full))
    redis.call('PEXPIRE', KEYS[1], paused + tonumber(ARGV[3]))
    return {0, paused}
end
"""
"""Goes before the script of GCRA, whose arguments are: now, weight, life of the state, 1, interval, burst."""


class RedisBudget:
    """A :class:`~flowmate_async.coordination.RateBudget` in Redis.

    Args:
        redis: the connection.
        name: the name of its state; ``:pause`` is appended for pauses.
        terms: the rate, and how it is lent.
        processes: how many share the rate while Redis is away.
        on_outage: see :data:`OnOutage`.
        clock: the time it keeps.
    """

    def __init__(
        self,
        redis: "Redis",
        name: str,
        terms: LeaseTerms,
        *,
        processes: int,
        on_outage: OnOutage,
        clock: Clock,
    ) -> None:
        self._terms = terms
        self._clock = clock
        self._on_outage = on_outage
        self._share = terms.rate / processes
        self._state = driver("pyrate_limiter.buckets.redis_state").RedisStateStore(redis, name)
        self._algorithm, self._rates = _gcra(terms)
        self._errors = redis_errors()
        self._alone: TokenBucket | None = None
        self._away = False
        self._again_at = float("-inf")
        self._until = float("-inf")
        self._void = 0

    async def lease(self, most: int) -> TokenLease:
        """See :meth:`RateBudget.lease`.

        Raises:
            UpstreamUnavailableError: Redis is away, and nothing may be sent without it.
            ConfigurationError: Redis is too far away for this burst.
        """
        tokens = min(most, self._terms.batch)
        if self._alone is not None:
            tokens = 1
            await self._alone.take()
            if self._clock.monotonic() < self._again_at:
                return self._valid_from_now(tokens)
        return await self._borrowed(tokens)

    async def _borrowed(self, tokens: int) -> TokenLease:
        """Tokens of Redis, as soon as there are; of this process's own share, when Redis is away."""
        while True:
            asked_at = self._clock.monotonic()
            try:
                decision: Any = await self._state.check(self._algorithm, self._rates, 0, tokens)
            except self._errors as error:
                return await self._without_redis(error)
            self._note_back()
            if decision.allowed:
                return self._lent(tokens, asked_at)
            await self._clock.sleep((decision.retry_after_ms or 1) / 1000)

    def _lent(self, tokens: int, asked_at: float) -> TokenLease:
        """A lease that is over when it would be if Redis had lent it at once: nobody knows when it did."""
        until = asked_at + self._terms.life_seconds
        self._void = self._void + 1 if until <= self._clock.monotonic() else 0
        if self._void >= _MOST_VOID:
            raise ConfigurationError(
                f"Redis takes longer to answer than the {self._terms.life_seconds * 1000:.0f} ms that tokens "
                "are valid",
                advice="Use a Redis that is closer, or raise burst, if upstream takes more at once",
            )
        return TokenLease(tokens, until)

    async def _without_redis(self, error: Exception) -> TokenLease:
        if self._on_outage == "error":
            raise unreachable(error)
        if self._alone is None:
            burst = max(1, round(self._terms.capacity * self._share / self._terms.rate))
            self._alone = TokenBucket(self._share, burst)
            await self._alone.drain(self._share, burst)
        self._away, self._again_at = True, self._clock.monotonic() + _PROBE_SECONDS
        await self._alone.take()
        return self._valid_from_now(1)

    def _note_back(self) -> None:
        """Redis answers: keep to the share for a while longer, then do without."""
        if self._alone is None:
            return
        now = self._clock.monotonic()
        if self._away:
            self._away, self._again_at = False, now
            self._until = now + _AFTERWARDS_SECONDS
        elif now >= self._until:
            self._alone = None

    def _valid_from_now(self, tokens: int) -> TokenLease:
        return TokenLease(tokens, self._clock.monotonic() + self._terms.life_seconds)


def _gcra(terms: LeaseTerms) -> tuple[Any, list[Any]]:
    """pyrate-limiter's algorithm by the time of Redis, and its rate in units that lose nothing."""
    algorithm, limiter = driver("pyrate_limiter.abstracts.algorithm"), driver("pyrate_limiter")

    class ServerTimeGCRA(algorithm.GCRA):  # type: ignore[name-defined,misc]
        def redis_script(self) -> str:
            return _NOW_AND_PAUSE + str(super().redis_script())

    # A thousand seconds' worth, since it counts in whole requests, and rates may be fractions.
    return ServerTimeGCRA(), [limiter.Rate(math.floor(terms.rate * 1000), 1_000_000, burst=terms.capacity)]
