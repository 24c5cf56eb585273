"""Limits on requests in flight and on the rate at which they are sent: concurrency, token bucket, pauses."""

from collections.abc import Callable, Sequence

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.engine.adaptive_concurrency import AdaptiveConcurrency
from flowmate_async.engine.adaptive_rate import AdaptiveRate
from flowmate_async.engine.bucket import TokenBucket
from flowmate_async.engine.coordination import RateBudget
from flowmate_async.engine.leased_bucket import LeasedBucket
from flowmate_async.events import ConcurrencyChanged, Emitter, RateChanged

_NOTICEABLE = 0.01
_LATELY_SECONDS = 1.0
_LOOK_SECONDS = 5.0
"""Interval at which a pause is compared with the wall clock."""


class FlowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which limits adapt to upstream. Neither ever exceeds the configured value.

    Attributes:
        adaptive_rate: after a 429, send no faster than upstream provably accepted, then recover.
        recovery_seconds: how long it stays below that rate before it probes above.
        adaptive_concurrency: reduce the requests in flight when latency climbs and throughput does not.
    """

    adaptive_rate: bool = True
    recovery_seconds: float = 15.0
    adaptive_concurrency: bool = True


class AdmissionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of admission.

    Attributes:
        rate: requests/s as configured; ``None`` for no limit.
        current_rate: current requests/s; below ``rate`` after upstream throttled.
        burst: current estimate of the requests that upstream accepts at once.
        concurrency: configured maximum of requests in flight.
        current_concurrency: current maximum of requests in flight.
        admitted: requests in flight.
        waiting: requests waiting to be sent.
        paused_seconds: for how long nothing may be sent.
    """

    rate: float | None
    current_rate: float | None
    burst: int
    concurrency: int
    current_concurrency: int
    admitted: int
    waiting: int
    paused_seconds: float


class Pacer:
    """Slots and tokens. One object decides for all calls, so that a pause applies to every one of them.

    Args:
        rate: requests/s; ``None`` for no limit.
        burst: requests that upstream accepts at once.
        concurrency: maximum number of requests in flight.
        clock: the clock for pauses and the rate.
        emitter: told when the rate or the concurrency adapts.
        policy: see :class:`FlowPolicy`.
        budget: lends the rate if other processes share it.

    Attributes:
        slots: current maximum of requests in flight.
        taken: requests in flight.
        ready: how many calls wait to be sent, as last set by the engine.
        passed: records the send times of requests that upstream did not throttle.
    """

    __slots__ = (
        "_adaptive_concurrency",
        "_adaptive_rate",
        "_adapts_concurrency",
        "_allotted",
        "_bucket",
        "_careful",
        "_clock",
        "_concurrency",
        "_emitter",
        "_policy",
        "_rate",
        "_resume_at",
        "_resume_at_wall",
        "_token_in_hand",
        "_waited_at",
        "_woken",
        "passed",
        "ready",
        "slots",
        "taken",
    )

    def __init__(
        self,
        *,
        rate: float | None,
        burst: int,
        concurrency: int,
        clock: Clock,
        emitter: Emitter | None = None,
        policy: FlowPolicy | None = None,
        budget: RateBudget | None = None,
    ) -> None:
        self._rate = rate
        self._concurrency = concurrency
        self._allotted = concurrency
        self._clock = clock
        self._emitter = emitter or Emitter()
        self._policy = policy or FlowPolicy()
        self._adaptive_rate = AdaptiveRate(
            configured=rate, burst=burst, recovery_seconds=self._policy.recovery_seconds
        )
        self._adapts_concurrency = self._policy.adaptive_concurrency
        self.passed: Callable[[Sequence[float]], None] = self._adaptive_rate.passed.note
        self._adaptive_concurrency = AdaptiveConcurrency(concurrency)
        self._bucket: TokenBucket | LeasedBucket | None = None
        if rate is not None and budget is not None:
            self._bucket = LeasedBucket(budget, rate=rate, burst=burst, demand=self._sendable, clock=clock)
        elif rate is not None:
            self._bucket = TokenBucket(rate, burst)
        self._resume_at = self._resume_at_wall = float("-inf")
        self._waited_at = float("-inf")
        self._woken = False
        self._careful = False
        self._token_in_hand = False
        self.slots: int = concurrency
        self.taken: int = 0
        self.ready: int = 0

    @property
    def has_slot(self) -> bool:
        """Whether another request may be in flight."""
        return self.taken < self.slots

    def take(self) -> bool:
        """Take a slot and a token if both are available. :meth:`leave` releases the slot."""
        if self.taken >= self.slots:
            return False
        if self._token_in_hand:
            self._token_in_hand = False
        elif self._careful or (self._bucket is not None and not self._bucket.take_at_once()):
            return False
        self.taken += 1
        return True

    def leave(self, slots: int = 1) -> None:
        """Release slots."""
        self.taken -= slots

    async def wait_for_token(self) -> None:
        """Wait for a token outside of pauses; :meth:`take` then finds it.

        A token is dropped if a pause began meanwhile: if saved, it would be used on top of the burst.
        """
        while True:
            await self.outlast_pause()
            if self._careful:
                await self._adapt_bucket()
                self._careful = self._woken or self._adaptive_rate.adapting
            if self._bucket is not None:
                await self._bucket.take()
            now = self._waited_at = self._clock.monotonic()
            if self._resume_at <= now:
                self._token_in_hand = True
                return

    def discard_token(self) -> None:
        """Drop an unused token."""
        self._token_in_hand = False

    def pause(self, seconds: float) -> None:
        """Send nothing for that many seconds. A longer pause in effect stays."""
        self._resume_at = max(self._resume_at, self._clock.monotonic() + seconds)
        self._resume_at_wall = max(self._resume_at_wall, self._clock.wall() + seconds)
        self._woken = self._careful = True
        self._token_in_hand = False
        self._adaptive_concurrency.restart()

    def throttled(self, *, sent_at: float) -> None:
        """Lower the rate because a request sent at that time got a 429. Call :meth:`pause` as well."""
        if self._policy.adaptive_rate:
            self._adaptive_rate.throttled(sent_at=sent_at, now=self._clock.monotonic())

    def answered(self, seconds: Sequence[float], now: float) -> None:
        """Record the durations of successful requests, while their slots are still taken."""
        if self._adapts_concurrency and self._adaptive_concurrency.answered(
            seconds, now, self.taken / self.slots
        ):
            self._resize()
            self._emitter.emit(ConcurrencyChanged(self._adaptive_concurrency.limit))

    @property
    def has_just_waited(self) -> bool:
        """Whether a request waited for the rate just now."""
        return self._clock.monotonic() - self._waited_at <= _LATELY_SECONDS

    def is_paused(self) -> bool:
        """Return whether a pause is in effect."""
        return self._careful and self._paused_for() > 0

    async def outlast_pause(self) -> None:
        """Wait until no pause is in effect."""
        while (seconds := self._paused_for()) > 0:
            await self._clock.sleep(min(seconds, _LOOK_SECONDS))

    def allot(self, concurrency: int) -> None:
        """Limit the requests in flight, while other processes use the rest.

        Args:
            concurrency: the limit, at least 1. Requests in flight may finish.
        """
        self._allotted = concurrency
        self._resize()

    def statistics(self, *, waiting: int) -> AdmissionStatistics:
        """Return statistics of rate and concurrency.

        Args:
            waiting: requests waiting to be sent.
        """
        now = self._clock.monotonic()
        return AdmissionStatistics(
            rate=self._rate,
            current_rate=self._adaptive_rate.rate(now),
            burst=self._adaptive_rate.burst,
            concurrency=self._concurrency,
            current_concurrency=self.slots,
            admitted=self.taken,
            waiting=waiting,
            paused_seconds=max(0.0, self._paused_for()),
        )

    def _resize(self) -> None:
        self.slots = min(self._adaptive_concurrency.limit, self._allotted)

    def _paused_for(self) -> float:
        """Return how long the pause still lasts, by the clock that ends it first: a machine may sleep."""
        now = self._clock.monotonic()
        seconds = min(self._resume_at - now, self._resume_at_wall - self._clock.wall())
        if seconds <= 0:
            self._resume_at = min(self._resume_at, now)
        return seconds

    async def _adapt_bucket(self) -> None:
        """Apply the current rate. Start with an empty bucket after a pause, to avoid a burst."""
        now, woken, self._woken = self._clock.monotonic(), self._woken, False
        if woken:
            self._adaptive_rate.resume(now)
        rate, burst = self._adaptive_rate.rate(now), self._adaptive_rate.burst
        if rate is None:
            return
        if rate == self._rate:
            self._adaptive_rate.recover()
        changed = self._bucket is None or self._is_another(self._bucket, rate, burst)
        if self._bucket is None:
            self._bucket = TokenBucket(rate, burst)
        if changed or woken:
            await self._bucket.drain(rate, burst)
        if changed:
            self._emitter.emit(RateChanged(rate))

    def _sendable(self) -> int:
        """Return how many requests could be sent if enough tokens were available."""
        return max(1, min(self.ready, self.slots - self.taken))

    def _is_another(self, bucket: TokenBucket | LeasedBucket, rate: float, burst: int) -> bool:
        """Return whether the bucket needs a change. The configured rate is reached exactly."""
        noticeable = abs(rate - bucket.rate) > _NOTICEABLE * bucket.rate
        return noticeable or burst != bucket.burst or (rate == self._rate and rate != bucket.rate)
