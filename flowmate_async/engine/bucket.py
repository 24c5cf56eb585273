"""The token bucket: aiolimiter's, adapted to a limit that the server enforces strictly.

aiolimiter implements a leaky bucket: ``AsyncLimiter(burst, burst / rate)``, since its first argument is the
burst. Its timers have 1 ms resolution, so a capacity below ``rate * 0.005`` costs throughput.
"""

import math
from collections.abc import Coroutine
from typing import Any

from aiolimiter import AsyncLimiter

_SLACK_SECONDS = 0.05


def capacity_of(rate: float, burst: int) -> int:
    """Return how much of upstream's burst is sent at once; the rest is slack, at most half of it.

    Requests that are sent apart may arrive together (a busy machine, a lost packet), and a bucket without
    slack has no token left for that. With the slack they may arrive up to 50 ms closer together than they
    were sent.

    Args:
        rate: requests/s.
        burst: requests that upstream takes at once.
    """
    return burst - min(burst // 2, math.ceil(rate * _SLACK_SECONDS))


class TokenBucket:
    """Tokens at one rate, which may change. Only one caller may wait at a time; the pacer decides which.

    Args:
        rate: requests/s.
        burst: requests that upstream takes at once; see :func:`capacity_of`.
    """

    __slots__ = ("_limiter", "burst", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate: float = rate
        self.burst: int = burst
        self._limiter = _limiter(rate, burst)

    def take_at_once(self) -> bool:
        """Take a token if one is available. Return whether it was taken."""
        return self._limiter.has_capacity() and _ended_at_once(self._limiter.acquire())

    async def take(self) -> None:
        """Wait for a token."""
        await self._limiter.acquire()

    async def drain(self, rate: float, burst: int) -> None:
        """Switch to another rate, with an empty bucket: a change never allows a second burst."""
        # aiolimiter cannot change its rate, so a new one takes its place.
        self.rate, self.burst, self._limiter = rate, burst, _limiter(rate, burst)
        await self._limiter.acquire(self._limiter.max_rate)


def _limiter(rate: float, burst: int) -> AsyncLimiter:
    capacity = capacity_of(rate, burst)
    return AsyncLimiter(capacity, capacity / rate)


def _ended_at_once(acquiring: Coroutine[Any, Any, None]) -> bool:
    """Run a coroutine that does not block, as aiolimiter's does not while it has capacity."""
    try:
        acquiring.send(None)
    except StopIteration:
        return True
    acquiring.close()
    return False
