"""The token bucket of one of many processes: it leases tokens from a rate that all processes share.

The lender splits the burst in two. One half may be leased at once; the other half allows for tokens that are
used late. The tokens leased within a window plus one token lifetime before it are at most
``burst + rate * window``. So unused tokens expire soon, and a process leases only as many tokens as it has
requests that can be sent immediately.
"""

from collections.abc import Callable

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.engine.bucket import TokenBucket, capacity_of
from flowmate_async.engine.coordination import RateBudget, TokenLease

_LIFE_SECONDS = (0.005, 0.25)
_NONE = TokenLease(0, 0.0)


class LeaseTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms on which a rate is lent.

    Attributes:
        rate: requests/s.
        capacity: tokens that can be leased at once after a while without requests.
        batch: maximum tokens of one lease. Half of the capacity, so that the lender's bucket does not
            overflow while a lease is in flight.
        life_seconds: how long the tokens of a lease are valid.
    """

    rate: float
    capacity: int
    batch: int
    life_seconds: float


def lease_terms(rate: float, burst: int) -> LeaseTerms:
    """Return terms that never exceed a rate and a burst.

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
    """Leased tokens. As with :class:`TokenBucket`, only one caller may wait at a time.

    After upstream has throttled this process, it also keeps to a rate of its own.

    Args:
        budget: lends the tokens.
        rate: requests/s of all processes together.
        burst: requests that upstream takes at once.
        demand: returns how many requests could be sent immediately.
        clock: tells when a lease has expired.
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
        """Take a token if one is available. Return whether it was taken."""
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
        """Switch to another rate with an empty bucket. At the lent rate, the lender enforces it."""
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
