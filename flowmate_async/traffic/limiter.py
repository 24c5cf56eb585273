"""The token bucket that keeps the library below FlowMate's rate, behind one FIFO gate."""

import asyncio

import msgspec
from aiolimiter import AsyncLimiter

from flowmate_async.clock import Clock


class LimiterStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A limiter as it stands: who waits, and for how long nobody may pass."""

    rate: float | None
    burst: int
    waiting: int
    paused_seconds: float


class RateLimiter:
    """A token bucket: ``burst`` requests at once, ``rate`` a second in the long run.

    The bucket is aiolimiter's (``AsyncLimiter(burst, burst / rate)``: its own first argument is the burst).
    One FIFO gate stands in front of it, because newcomers may overtake those who wait for the bucket, and
    because a pause must hold everybody. Its timers have a grain of 1 ms: a burst below ``rate * 0.005`` costs
    throughput.

    Args:
        rate: requests/s; ``None`` for no limit.
        burst: requests that may be sent at once.
        clock: the time it keeps.
    """

    def __init__(self, *, rate: float | None, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._bucket = AsyncLimiter(burst, burst / rate) if rate is not None else None
        self._gate = asyncio.Lock()
        self._waiting = 0
        self._resume_at = float("-inf")

    async def acquire(self) -> None:
        """Wait for this caller's turn; the request must be sent at once after it."""
        if self._bucket is None and not self._gate.locked() and self._resume_at <= self._clock.monotonic():
            return
        self._waiting += 1
        try:
            async with self._gate:
                await self._turn()
        finally:
            self._waiting -= 1

    def pause(self, seconds: float) -> None:
        """Let nobody pass for that many seconds; a longer pause already under way stays."""
        self._resume_at = max(self._resume_at, self._clock.monotonic() + seconds)

    def statistics(self) -> LimiterStatistics:
        """The limiter as it stands."""
        paused = max(0.0, self._resume_at - self._clock.monotonic())
        return LimiterStatistics(
            rate=self._rate, burst=self._burst, waiting=self._waiting, paused_seconds=paused
        )

    async def _turn(self) -> None:
        while True:
            while (seconds := self._resume_at - self._clock.monotonic()) > 0:
                await self._clock.sleep(seconds)
            if self._bucket is None:
                return
            await self._bucket.acquire()
            # A pause that came meanwhile holds this caller too; what it took from the bucket is forfeited,
            # because kept it would come on top of the burst.
            if self._resume_at <= self._clock.monotonic():
                return
