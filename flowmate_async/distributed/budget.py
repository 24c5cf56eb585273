"""One rate for all processes: pyrate-limiter's GCRA in Redis, leased a few tokens at a time.

The time is Redis' own, since the machines' clocks differ. While Redis is unavailable, each process uses its
share of the rate or sends nothing, as configured. Once Redis is back, each keeps to its share a little
longer, until all the others have certainly noticed as well.
"""

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from flowmate_async.clock import Clock
from flowmate_async.distributed.agreement import Agreement
from flowmate_async.distributed.circuit import BEAT_SECONDS, NOTICED_SECONDS, Circuit, RedisAwayError
from flowmate_async.distributed.connection import Trouble, driver, unreachable
from flowmate_async.engine.bucket import TokenBucket
from flowmate_async.engine.coordination import TokenLease
from flowmate_async.engine.leased_bucket import LeaseTerms, lease_terms
from flowmate_async.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis

OnOutage = Literal["share", "error"]
"""What a process does without Redis: ``share``, use its share of the rate; ``error``, send nothing."""

_AFTERWARDS_SECONDS = NOTICED_SECONDS + BEAT_SECONDS
"""Time until every process has noticed that Redis is back and has read all others' settings."""

_MAX_VOID = 100

_NOW_TERMS_AND_PAUSE = """
local time = redis.call('TIME')
ARGV[1] = time[1] * 1000 + math.floor(time[2] / 1000)
-- Until all processes agree, the strictest rate and burst hold for all of them.
local terms = redis.call('HMGET', KEYS[1] .. ':terms', 'emission', 'burst')
ARGV[5] = math.max(tonumber(ARGV[5]), tonumber(terms[1] or 0))
ARGV[6] = math.min(tonumber(ARGV[6]), tonumber(terms[2] or ARGV[6]))
ARGV[3] = math.max(tonumber(ARGV[3]), math.ceil(2 * ARGV[5] * ARGV[6] / 1000))
local paused = redis.call('PTTL', KEYS[1] .. ':pause')
if paused > 0 then
    -- As if a whole burst had passed when the pause ends, to avoid a burst.
    local full = (ARGV[1] + paused) * 1000 + ARGV[5] * ARGV[6]
    redis.call('HSET', KEYS[1], 'tat1', string.format('%.0f', full))
    redis.call('PEXPIRE', KEYS[1], paused + ARGV[3])
    return {0, paused}
end
"""
"""Prefix of the GCRA script, whose arguments are: now, weight, lifetime of the state, 1, interval, burst."""


class RedisBudget:
    """A :class:`~flowmate_async.engine.coordination.RateBudget` in Redis.

    Args:
        redis: the connection.
        circuit: in front of it.
        name: the name of its state; ``:pause`` and ``:terms`` are appended.
        terms: the rate, and how it is lent.
        agreement: the rate and the number of all processes.
        on_outage: see :data:`OnOutage`.
        clock: tells the time.
    """

    def __init__(
        self,
        redis: "Redis",
        circuit: Circuit,
        name: str,
        terms: LeaseTerms,
        *,
        agreement: Agreement,
        on_outage: OnOutage,
        clock: Clock,
    ) -> None:
        self._circuit = circuit
        self._agreement = agreement
        self._clock = clock
        self._on_outage = on_outage
        self._state = driver("pyrate_limiter.buckets.redis_state").RedisStateStore(redis, name)
        self._algorithm, self._rates = _gcra(terms)
        self._share: TokenBucket | None = None
        self._void = 0

    async def lease(self, most: int) -> TokenLease:
        """See :meth:`RateBudget.lease`.

        Raises:
            UpstreamUnavailableError: Redis is unavailable, and nothing may be sent without it.
            ConfigurationError: Redis is too slow to reach for this burst, or refuses this process.
        """
        if self._circuit.away and self._on_outage == "error":
            raise unreachable(Trouble("away", self._circuit.problem))
        terms = self._strictest()
        if not self._keeps_to_share():
            self._share = None
            lease = await self._borrowed(min(most, terms.batch), terms)
            if lease is not None:
                return lease
        await self._take_of_share(terms)
        # Once Redis is back, both limits apply for a while: the others may not have noticed yet.
        lease = None if self._circuit.away else await self._borrowed(1, terms)
        return lease or TokenLease(1, self._clock.monotonic() + terms.life_seconds)

    async def _borrowed(self, tokens: int, terms: LeaseTerms) -> TokenLease | None:
        """Return tokens from Redis once there are any; ``None`` if Redis becomes unavailable."""
        while True:
            asked_at = self._clock.monotonic()
            check = partial(self._state.check, self._algorithm, self._rates, 0, tokens)
            try:
                decision: Any = await self._circuit.call(check)
            except RedisAwayError as error:
                trouble = error.trouble
                break
            if decision.allowed:
                return self._lent(tokens, asked_at, terms.life_seconds)
            if decision.retry_after_ms is None:
                tokens = 1  # more than the strictest burst
            await self._clock.sleep((decision.retry_after_ms or 1) / 1000)
        if self._on_outage == "error":
            raise unreachable(trouble)
        return None

    def _lent(self, tokens: int, asked_at: float, life_seconds: float) -> TokenLease:
        """Return a lease that ends as if Redis had granted it at once, since only Redis knows when it did."""
        until = asked_at + life_seconds
        self._void = self._void + 1 if until <= self._clock.monotonic() else 0
        if self._void >= _MAX_VOID:
            raise ConfigurationError(
                f"Redis takes longer to answer than the {life_seconds * 1000:.0f} ms that tokens are valid",
                advice="Use a Redis that is closer, or raise burst, if upstream takes more at once",
            )
        return TokenLease(tokens, until)

    def _keeps_to_share(self) -> bool:
        """Return whether others may use the rate without this process's knowledge."""
        return (
            self._circuit.away
            or not self._agreement.is_shared
            or self._clock.monotonic() < self._circuit.back_at + _AFTERWARDS_SECONDS
        )

    async def _take_of_share(self, terms: LeaseTerms) -> None:
        processes = self._agreement.processes
        rate, burst = terms.rate / processes, max(1, self._agreement.burst // processes)
        if self._share is None or self._share.rate != rate:
            self._share = share = TokenBucket(rate, burst)
            # Its tokens would be in addition to those that Redis has lent.
            await share.drain(rate, burst)
        await self._share.take()

    def _strictest(self) -> LeaseTerms:
        """Return the current terms: its own, unless another process has a lower rate or burst."""
        return lease_terms(self._agreement.rate, self._agreement.burst)


def _gcra(terms: LeaseTerms) -> tuple[Any, list[Any]]:
    """Return pyrate-limiter's algorithm on Redis' time, with its rate in lossless units."""
    algorithm, limiter = driver("pyrate_limiter.abstracts.algorithm"), driver("pyrate_limiter")

    class ServerTimeGCRA(algorithm.GCRA):  # type: ignore[name-defined,misc]
        def redis_script(self) -> str:
            return _NOW_TERMS_AND_PAUSE + str(super().redis_script())

    # A thousand seconds' worth, since it counts in whole requests, and rates may be fractions.
    return ServerTimeGCRA(), [limiter.Rate(math.floor(terms.rate * 1000), 1_000_000, burst=terms.capacity)]


def emission_of(terms: LeaseTerms) -> int:
    """Return the microseconds that GCRA counts for one request."""
    algorithm, (rate,) = _gcra(terms)
    return int(algorithm.redis_args([rate])[0])
