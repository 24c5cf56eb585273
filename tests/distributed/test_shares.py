"""What processes may send without Redis, in virtual time: a share of the rate each, together the rate."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import UpstreamUnavailableError
from flowmate_async.clock import SystemClock
from flowmate_async.distributed.agreement import Agreement, SharedSettings
from flowmate_async.distributed.budget import RedisBudget, emission_of
from flowmate_async.distributed.circuit import Circuit
from flowmate_async.distributed.connection import RedisUrl, connect
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.redis_clock import RedisClock
from flowmate_async.engine.leased_bucket import lease_terms
from flowmate_async.sandbox import burst_needed

from .conftest import KEY


def budget_without_redis(rate, burst, *, processes, on_outage="share"):
    """The budget of one process, whose Redis is away."""
    redis = connect(RedisUrl("redis://127.0.0.1:1/0"))
    circuit = Circuit(clock=SystemClock(), on_lost=str, on_back=float)
    circuit.away, circuit.problem = True, "it is away"
    names, terms = Keyspace(KEY, namespace="", base_url="https://flowmate.example"), lease_terms(rate, burst)
    agreement = Agreement(
        redis, names, SharedSettings(key="a", processes=processes), redis_clock=RedisClock(), on_change=tuple
    )
    agreement.limit(rate=rate, burst=burst, capacity=terms.capacity, emission=emission_of(terms))
    return RedisBudget(
        redis,
        circuit,
        names.of("rate"),
        terms,
        agreement=agreement,
        on_outage=on_outage,
        clock=SystemClock(),
    )


async def sent(budgets, *, seconds):
    """Return the moments at which these may send, if they send as soon as they may."""
    loop, moments = asyncio.get_running_loop(), []
    ends = loop.time() + seconds

    async def one(budget):
        while True:
            lease = await budget.lease(1)
            if loop.time() >= ends:
                return
            assert lease.valid_until > loop.time()
            moments.extend([loop.time()] * lease.tokens)

    await asyncio.gather(*map(one, budgets))
    return moments


@given(rate=st.integers(5, 500), burst=st.integers(1, 200), processes=st.integers(1, 6))
def test_together_they_keep_to_the_rate(virtually, rate, burst, processes):
    """Also when they were idle before: no share has saved up a burst on top of what Redis had lent."""

    async def main():
        budgets = [budget_without_redis(rate, burst, processes=processes) for _ in range(processes)]
        begins = asyncio.get_running_loop().time()
        moments = await sent(budgets, seconds=5)
        assert not [moment for moment in moments if moment < begins + 0.999 * processes / rate]
        assert burst_needed(moments, rate) <= max(burst, processes) + 0.01
        assert len(moments) >= 0.8 * (5 * rate - burst) - processes

    virtually(main)


def test_without_redis_nothing_is_sent_if_that_was_chosen(virtually):
    async def main():
        with pytest.raises(UpstreamUnavailableError, match="it is away"):
            await budget_without_redis(100, 10, processes=2, on_outage="error").lease(1)

    virtually(main)
