"""The token bucket: aiolimiter's, made fit for a limit that is strict at the other end.

aiolimiter counts a leaky bucket: ``AsyncLimiter(burst, burst / rate)``, since its own first argument is the
burst. Its timers have a grain of 1 ms, so a capacity below ``rate * 0.005`` costs throughput.
"""

import math

from aiolimiter import AsyncLimiter

_SLACK_SECONDS = 0.05


def capacity_of(rate: float, burst: int) -> int:
    """How much of upstream's burst is sent at once; the rest is slack, at most half of it.

    Requests that were sent apart may arrive together (a busy machine, a lost packet), and a bucket that is
    used to the full has no token left for that. The slack lets them arrive by up to 50 ms closer than they
    were sent.

    Args:
        rate: requests/s.
        burst: requests that upstream takes at once.
    """
    return burst - min(burst // 2, math.ceil(rate * _SLACK_SECONDS))


class TokenBucket:
    """Tokens at one rate, which may change. One at a time may wait; who, is decided by the gate in front.

    Args:
        rate: requests/s.
        burst: requests that upstream takes at once; see :func:`capacity_of`.
    """

    __slots__ = ("_limiter", "burst", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._limiter = _limiter(rate, burst)

    @property
    def has_token(self) -> bool:
        """Whether :meth:`take` would return at once."""
        return self._limiter.has_capacity()

    async def take(self) -> None:
        """Wait for a token."""
        await self._limiter.acquire()

    async def drain(self, rate: float, burst: int) -> None:
        """Go on at another rate, with no token saved up: no change gives a second burst."""
        # aiolimiter cannot change its rate, so a new one takes its place.
        self.rate, self.burst, self._limiter = rate, burst, _limiter(rate, burst)
        await self._limiter.acquire(self._limiter.max_rate)


def _limiter(rate: float, burst: int) -> AsyncLimiter:
    capacity = capacity_of(rate, burst)
    return AsyncLimiter(capacity, capacity / rate)
