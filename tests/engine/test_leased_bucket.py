"""Leased tokens end in time: none is used later, also not after the machine was suspended."""

import pytest

from flowmate_async.engine.coordination import TokenLease
from flowmate_async.engine.leased_bucket import LeasedBucket

pytestmark = pytest.mark.anyio


class SetClock:
    """Both clocks as they are set; the monotonic one stands still while a machine is suspended."""

    def __init__(self):
        self.now = self.suspended = 0.0

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_790_000_000.0 + self.now + self.suspended


class Lender:
    """Lends as many tokens as are wanted, each time for a quarter of a second."""

    def __init__(self, clock):
        self.clock, self.leases = clock, []

    async def lease(self, most):
        self.leases.append(most)
        return TokenLease(most, self.clock.monotonic() + 0.25)


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
async def bucket(clock):
    """A bucket that holds two leased tokens."""
    made = LeasedBucket(Lender(clock), rate=100, burst=40, demand=lambda: 3, clock=clock)
    await made.take()
    return made


async def test_tokens_are_leased_together_and_taken_one_by_one(bucket):
    assert [bucket.take_at_once() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(("seconds", "valid"), [(0.125, True), (0.25, False)])
async def test_a_token_is_not_used_after_its_life(bucket, clock, seconds, valid):
    clock.now += seconds
    assert bucket.take_at_once() is valid


async def test_a_token_does_not_outlive_a_suspended_machine(bucket, clock):
    clock.suspended = 3600.0
    assert not bucket.take_at_once()
    await bucket.take()
    assert bucket.take_at_once(), "a new lease"
