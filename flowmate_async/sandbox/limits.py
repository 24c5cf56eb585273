"""Token bucket: `burst` requests at once, then `rate` per second.

The hosted gateway's limits were never observed; a strict bucket is the hardest possible limit.
"""

import math
import time
from collections.abc import Callable

__all__ = ["TokenBucket"]


class TokenBucket:
    """Strict token bucket, O(1) per request. It refuses and never waits.

    Over any window of `w` seconds it grants at most `burst + rate * w`, and it grants every request that it
    can. It counts from the last time at which it was full, so that rounding errors do not add up.
    """

    __slots__ = ("_burst", "_clock", "_full_at", "_rate", "_taken")

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._full_at = clock()
        self._taken = 0

    def take(self) -> int:
        """Take a token: return 0 if there was one, else the whole seconds until there is one."""
        now = self._clock()
        refilled = (now - self._full_at) * self._rate
        if refilled >= self._taken:
            self._full_at, self._taken, refilled = now, 0, 0.0
        missing = self._taken + 1 - self._burst - refilled
        if missing <= 0:
            self._taken += 1
            return 0
        return max(1, math.ceil(missing / self._rate))
