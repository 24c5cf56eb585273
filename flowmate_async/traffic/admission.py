"""Who may send next, and when: a concurrency limit and a token bucket behind one fair gate."""

import asyncio
from types import TracebackType

import msgspec
from aiolimiter import AsyncLimiter

from flowmate_async.clock import Clock
from flowmate_async.traffic.gate import PriorityGate
from flowmate_async.traffic.priority import current_priority


class AdmissionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Admission as it stands: its limits, who waits, and for how long nobody may pass."""

    rate: float | None
    burst: int
    concurrency: int
    admitted: int
    waiting: int
    paused_seconds: float


class Admission:
    """A semaphore and a token bucket: entered (``async with``) for exactly as long as a request is sent.

    ``burst`` requests at once, ``rate`` a second in the long run, ``concurrency`` in flight. The bucket is
    aiolimiter's: ``AsyncLimiter(burst, burst / rate)``, since its own first argument is the burst. One gate
    stands in front of both, because newcomers may overtake those who wait for the bucket, because a pause
    must hold everybody, and because interactive requests go before background ones. The bucket's timers have
    a grain of 1 ms: a burst below ``rate * 0.005`` costs throughput.

    Args:
        rate: requests/s; ``None`` for no limit.
        burst: requests that may be sent at once.
        concurrency: most requests in flight.
        clock: the time it keeps.
    """

    def __init__(self, *, rate: float | None, burst: int, concurrency: int, clock: Clock) -> None:
        self._rate = rate
        self._burst = burst
        self._concurrency = concurrency
        self._clock = clock
        self._bucket = AsyncLimiter(burst, burst / rate) if rate is not None else None
        self._slots = asyncio.Semaphore(concurrency)
        self._gate = PriorityGate()
        self._admitted = 0
        self._resume_at = float("-inf")

    async def __aenter__(self) -> None:
        """Wait for the turn, a slot and a token, in this order; the request must be sent at once."""
        await self._gate.enter(current_priority())
        try:
            await self._slots.acquire()
            try:
                await self._take_token()
            except BaseException:
                self._slots.release()
                raise
        finally:
            self._gate.leave()
        self._admitted += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admitted -= 1
        self._slots.release()

    def pause(self, seconds: float) -> None:
        """Admit nobody for that many seconds; a longer pause already under way stays."""
        self._resume_at = max(self._resume_at, self._clock.monotonic() + seconds)

    def statistics(self) -> AdmissionStatistics:
        """Admission as it stands."""
        return AdmissionStatistics(
            rate=self._rate,
            burst=self._burst,
            concurrency=self._concurrency,
            admitted=self._admitted,
            waiting=self._gate.waiting + self._gate.locked,
            paused_seconds=max(0.0, self._resume_at - self._clock.monotonic()),
        )

    async def _take_token(self) -> None:
        """Take a token outside every pause; one for which a pause came meanwhile is let go, not saved up."""
        while True:
            while (seconds := self._resume_at - self._clock.monotonic()) > 0:
                await self._clock.sleep(seconds)
            if self._bucket is None:
                return
            await self._bucket.acquire()
            if self._resume_at <= self._clock.monotonic():
                return
