"""The token bucket of one process among many: its tokens are leased from a rate that all share.

Whoever lends splits the burst in two. One half is what the lender lets through at once, the other is how
late tokens may be used: whatever was leased within a window and the life of a token before it, is at most
``burst + rate * window``. So tokens that are not used soon are void, and only as many are asked for as there
are requests that could be sent at once.
"""

from collections.abc import Callable

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.engine.bucket import TokenBucket, capacity_of
from flowmate_async.engine.coordination import RateBudget, TokenLease

_LIFE_SECONDS = (0.005, 0.25)
_NONE = TokenLease(0, 0.0)


class LeaseTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How a rate is lent.

    Attributes:
        rate: requests/s.
        capacity: tokens that are lent at once after a while without requests.
        batch: most tokens of one lease. Half of the capacity, so that tokens do not run over while a lease
            is on its way.
        life_seconds: how long the tokens of a lease are valid.
    """

    rate: float
    capacity: int
    batch: int
    life_seconds: float


def lease_terms(rate: float, burst: int) -> LeaseTerms:
    """The terms on which a rate and a burst are never exceeded.

    Args:
        rate: requests/s of all processes together.
        burst: requests that upstream takes at once.
    """
    whole = capacity_of(rate, burst)
    capacity = max(1, whole // 2)
    least, most = _LIFE_SECONDS
    life = min(most, max(least, (whole - capacity) / rate))
    return LeaseTerms(rate=rate, capacity=capacity, batch=max(1, capacity // 2), life_seconds=life)


class LeasedBucket:
    """Tokens out of leases; like :class:`TokenBucket`, and one at a time may wait.

    After upstream throttled this process, it also keeps to a rate of its own.

    Args:
        budget: lends.
        rate: requests/s of all processes together.
        burst: requests that upstream takes at once.
        demand: how many requests could be sent at once.
        clock: tells when a lease is over.
    """

    __slots__ = (
        "_budget",
        "_clock",
        "_demand",
        "_lease",
        "_lent_rate",
        "_own",
        "_wall_until",
        "burst",
        "rate",
    )

    def __init__(
        self, budget: RateBudget, *, rate: float, burst: int, demand: Callable[[], int], clock: Clock
    ) -> None:
        self.rate: float = rate
        self._lent_rate = rate
        self.burst: int = burst
        self._budget = budget
        self._demand = demand
        self._clock = clock
        self._lease = _NONE
        self._wall_until = float("inf")
        self._own: TokenBucket | None = None

    def take_at_once(self) -> bool:
        """Take a token, if there is one."""
        if not self._holds_token() or (self._own is not None and not self._own.take_at_once()):
            return False
        self._lease = TokenLease(self._lease.tokens - 1, self._lease.valid_until)
        return True

    async def take(self) -> None:
        """Wait for a token."""
        if self._own is not None:
            await self._own.take()
        while not self._holds_token():
            self._lease = await self._budget.lease(max(1, self._demand()))
            seconds = self._lease.valid_until - self._clock.monotonic()
            self._wall_until = (
                self._clock.wall() + seconds
            )  # the monotonic clock stops while a machine sleeps
        self._lease = TokenLease(self._lease.tokens - 1, self._lease.valid_until)

    async def drain(self, rate: float, burst: int) -> None:
        """Go on at another rate, with no token saved up; at the lent one it is the lender who keeps to it."""
        self.rate, self.burst, self._lease = rate, burst, _NONE
        self._own = None if rate == self._lent_rate else TokenBucket(rate, burst)
        if self._own is not None:
            await self._own.drain(rate, burst)

    def _holds_token(self) -> bool:
        return (
            self._lease.tokens > 0
            and self._clock.monotonic() < self._lease.valid_until
            and self._clock.wall() < self._wall_until
        )
