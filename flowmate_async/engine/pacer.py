"""How many requests may be in flight, and how fast they are sent: concurrency, the token bucket, pauses."""

from collections.abc import Callable

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
"""How often a pause is compared with the wall clock."""


class FlowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What adapts to how upstream fares. Neither ever exceeds what was configured.

    Attributes:
        adaptive_rate: after a 429 send no faster than upstream was proven to take, then recover.
        recovery_seconds: how long it stays below that, before it probes above.
        adaptive_concurrency: have fewer requests in flight when latency climbs and throughput does not.
    """

    adaptive_rate: bool = True
    recovery_seconds: float = 15.0
    adaptive_concurrency: bool = True


class AdmissionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Admission as it stands.

    Attributes:
        rate: requests/s as configured; ``None`` for no limit.
        current_rate: requests/s at this moment; below ``rate`` after upstream throttled.
        burst: requests upstream is taken to accept at once, at this moment.
        concurrency: most requests in flight as configured.
        current_concurrency: most requests in flight at this moment.
        admitted: requests in flight.
        waiting: requests that wait for their turn.
        paused_seconds: for how long nobody may pass.
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
    """Slots and tokens. One place decides for all calls, so that a pause holds every one of them.

    Args:
        rate: requests/s; ``None`` for no limit.
        burst: requests that upstream takes at once.
        concurrency: most requests in flight.
        clock: times pauses and the rate.
        emitter: told when the rate or the concurrency adapts.
        policy: see :class:`FlowPolicy`.
        budget: lends the rate, when other processes share it.

    Attributes:
        slots: most requests in flight at this moment.
        taken: requests in flight.
        ready: how many calls wait to be sent, as the engine last said.
        passed: notes when a request was sent that upstream has not throttled.
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
        self.passed: Callable[[float], None] = self._adaptive_rate.passed.note
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
        """Take a slot and a token, if both are there. :meth:`leave` gives the slot back."""
        if self.taken >= self.slots:
            return False
        if self._token_in_hand:
            self._token_in_hand = False
        elif self._careful or (self._bucket is not None and not self._bucket.take_at_once()):
            return False
        self.taken += 1
        return True

    def leave(self) -> None:
        """Give a slot back."""
        self.taken -= 1

    async def wait_for_token(self) -> None:
        """Wait for a token, outside every pause; :meth:`take` then finds it.

        A token for which a pause came meanwhile is dropped: saved up, it would be sent on top of the burst.
        """
        while True:
            while (seconds := self._paused_for()) > 0:
                await self._clock.sleep(min(seconds, _LOOK_SECONDS))
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
        """Drop a token that nothing was sent with."""
        self._token_in_hand = False

    def pause(self, seconds: float) -> None:
        """Send nothing for that many seconds; a longer pause already under way stays."""
        self._resume_at = max(self._resume_at, self._clock.monotonic() + seconds)
        self._resume_at_wall = max(self._resume_at_wall, self._clock.wall() + seconds)
        self._woken = self._careful = True
        self._token_in_hand = False
        self._adaptive_concurrency.restart()

    def throttled(self, *, sent_at: float) -> None:
        """Lower the rate, because a request sent at that moment met a 429; call :meth:`pause`, too."""
        if self._policy.adaptive_rate:
            self._adaptive_rate.throttled(sent_at=sent_at, now=self._clock.monotonic())

    def answered(self, seconds: float, now: float) -> None:
        """Note how long a request took that upstream answered well, while its slot is still taken."""
        if self._adapts_concurrency and self._adaptive_concurrency.answered(
            seconds, now, self.taken / self.slots
        ):
            self._resize()
            self._emitter.emit(ConcurrencyChanged(self._adaptive_concurrency.limit))

    @property
    def has_just_waited(self) -> bool:
        """Whether a request waited for the rate just now."""
        return self._clock.monotonic() - self._waited_at <= _LATELY_SECONDS

    @property
    def is_paused(self) -> bool:
        """Whether a pause is under way."""
        return self._paused_for() > 0

    def allot(self, concurrency: int) -> None:
        """Have no more than so many requests in flight, while other processes use the rest.

        Args:
            concurrency: at least 1; those in flight may finish.
        """
        self._allotted = concurrency
        self._resize()

    def statistics(self, *, waiting: int) -> AdmissionStatistics:
        """Return rate and concurrency as they stand.

        Args:
            waiting: requests that wait for their turn.
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
        """Return how long the pause still lasts, by the earlier of both clocks: a machine may sleep."""
        now = self._clock.monotonic()
        seconds = min(self._resume_at - now, self._resume_at_wall - self._clock.wall())
        if seconds <= 0:
            self._resume_at = min(self._resume_at, now)
        return seconds

    async def _adapt_bucket(self) -> None:
        """Have this moment's rate; after a pause with an empty bucket, so that nobody wakes in a burst."""
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
        """Return how many requests could be sent if there were tokens."""
        return max(1, min(self.ready, self.slots - self.taken))

    def _is_another(self, bucket: TokenBucket | LeasedBucket, rate: float, burst: int) -> bool:
        """Whether the bucket is worth changing; the configured rate is reached exactly."""
        noticeable = abs(rate - bucket.rate) > _NOTICEABLE * bucket.rate
        return noticeable or burst != bucket.burst or (rate == self._rate and rate != bucket.rate)
