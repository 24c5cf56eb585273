"""Who may send next, and when: a concurrency limit and a token bucket behind one fair gate."""

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.events import ConcurrencyChanged, Emitter, RateChanged
from flowmate_async.traffic.adaptive_concurrency import AdaptiveConcurrency
from flowmate_async.traffic.adaptive_rate import AdaptiveRate
from flowmate_async.traffic.bucket import TokenBucket
from flowmate_async.traffic.coordination import RateBudget
from flowmate_async.traffic.gate import PriorityGate
from flowmate_async.traffic.leased_bucket import LeasedBucket
from flowmate_async.traffic.priority import current_priority

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


class Admission:
    """A semaphore and a token bucket: entered for exactly as long as a request is under way.

    One gate stands in front of both, because
    newcomers may overtake those who wait for the bucket, because a pause must hold everybody, and because
    interactive requests go before background ones.

    Args:
        rate: requests/s; ``None`` for no limit.
        burst: requests that upstream takes at once.
        concurrency: most requests in flight.
        clock: the time it keeps.
        emitter: told when the rate or the concurrency adapts.
        policy: see :class:`FlowPolicy`.
        budget: lends the rate, when other processes share it.
    """

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
        self._turn = PriorityGate()
        self._slots = PriorityGate(concurrency)
        self._admitted = 0
        self._adaptive_rate = AdaptiveRate(
            configured=rate, burst=burst, recovery_seconds=self._policy.recovery_seconds
        )
        self._adaptive_concurrency = AdaptiveConcurrency(concurrency)
        self._bucket: TokenBucket | LeasedBucket | None = None
        if rate is not None and budget is not None:
            self._bucket = LeasedBucket(budget, rate=rate, burst=burst, demand=self._sendable, clock=clock)
        elif rate is not None:
            self._bucket = TokenBucket(rate, burst)
        self._resume_at = self._resume_at_wall = float("-inf")
        self._waited_at = float("-inf")
        self._woken = False

    def enter_at_once(self) -> float | None:
        """Enter without waiting, if nothing stands in the way; then :meth:`leave` must follow.

        Returns:
            The moment at which the request counts as sent; ``None`` when :meth:`enter` must be awaited.
        """
        if self._woken or self._turn.inside or self._adaptive_rate.adapting or not self._take_at_once():
            return None
        self._admitted += 1
        return self._clock.monotonic()

    async def enter(self) -> float:
        """Wait for the turn, a slot and a token, in this order; the request must be sent at once.

        Returns:
            The moment at which it counts as sent; :meth:`leave` must follow.
        """
        while True:
            admitted_at = await self._turn.enter(current_priority(), on_lost=self._slots.leave)
            if admitted_at is None or self._resume_at <= admitted_at:
                break
            self._slots.leave()  # a pause began between being waved through and waking up
        if admitted_at is None:
            try:
                admitted_at = await self._enter_in_turn()
                self._wave_through_others(admitted_at)
            finally:
                self._turn.leave()
        self._admitted += 1
        return admitted_at

    async def _enter_in_turn(self) -> float:
        await self._slots.enter(current_priority())
        try:
            return await self._take_token()
        except BaseException:
            self._slots.leave()
            raise

    def _wave_through_others(self, now: float) -> None:
        """Let those behind pass for whom there are a slot and a token already.

        Handing the turn on costs a step of the loop each; at thousands of requests/s that would be the limit.
        """
        while self._turn.waiting_any and self._take_at_once():
            if not self._turn.wave_through(now):
                self._slots.leave()
                return

    def _take_at_once(self) -> bool:
        """Take a slot and a token, if there are both."""
        if not self._slots.enter_at_once():
            return False
        if self._bucket is None or self._bucket.take_at_once():
            return True
        self._slots.leave()
        return False

    def leave(self) -> None:
        """The request has ended."""
        self._admitted -= 1
        self._slots.leave()

    def pause(self, seconds: float) -> None:
        """Admit nobody for that many seconds; a longer pause already under way stays."""
        self._resume_at = max(self._resume_at, self._clock.monotonic() + seconds)
        self._resume_at_wall = max(self._resume_at_wall, self._clock.wall() + seconds)
        self._woken = True
        self._adaptive_concurrency.restart()

    def throttled(self, *, sent_at: float) -> None:
        """Lower the rate, because a request sent at that moment met a 429; call :meth:`pause`, too."""
        if self._policy.adaptive_rate:
            self._adaptive_rate.throttled(sent_at=sent_at, now=self._clock.monotonic())

    def passed(self, sent_at: float) -> None:
        """Note a request that upstream has not throttled."""
        self._adaptive_rate.passed.note(sent_at)

    def answered(self, seconds: float) -> None:
        """Note how long a request took that upstream answered well, while it is still admitted."""
        adaptive = self._adaptive_concurrency
        occupancy = self._admitted / self._slots.places
        if self._policy.adaptive_concurrency and adaptive.answered(
            seconds, now=self._clock.monotonic(), occupancy=occupancy
        ):
            self._resize()
            self._emitter.emit(ConcurrencyChanged(adaptive.limit))

    @property
    def is_saturated(self) -> bool:
        """Whether requests wait for the rate or the concurrency, or did just now, and not for a pause."""
        waiting = self._turn.waiting_any or self._turn.inside > 0
        lately = self._clock.monotonic() - self._waited_at <= _LATELY_SECONDS
        return (waiting or lately) and self._paused_for() <= 0

    def allot(self, concurrency: int) -> None:
        """Have no more than so many requests in flight, while other processes use the rest.

        Args:
            concurrency: at least 1; those in flight may finish.
        """
        self._allotted = concurrency
        self._resize()

    def _resize(self) -> None:
        self._slots.resize(min(self._adaptive_concurrency.limit, self._allotted))

    def statistics(self) -> AdmissionStatistics:
        """Admission as it stands."""
        now = self._clock.monotonic()
        return AdmissionStatistics(
            rate=self._rate,
            current_rate=self._adaptive_rate.rate(now),
            burst=self._adaptive_rate.burst,
            concurrency=self._concurrency,
            current_concurrency=self._slots.places,
            admitted=self._admitted,
            waiting=self._turn.waiting + self._turn.inside,
            paused_seconds=max(0.0, self._paused_for()),
        )

    async def _take_token(self) -> float:
        """Take a token outside every pause; one for which a pause came meanwhile is let go, not saved up."""
        while True:
            while (seconds := self._paused_for()) > 0:
                await self._clock.sleep(min(seconds, _LOOK_SECONDS))
            if self._woken or self._adaptive_rate.adapting:
                await self._adapt_bucket()
            if self._bucket is not None:
                await self._bucket.take()
            now = self._waited_at = self._clock.monotonic()
            if self._resume_at <= now:
                return now

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
        """How many requests could be sent if there were tokens: the one in turn, and those behind it."""
        return 1 + min(self._turn.waiting, self._slots.places - self._slots.inside)

    def _is_another(self, bucket: TokenBucket | LeasedBucket, rate: float, burst: int) -> bool:
        """Whether the bucket is worth changing; the configured rate is reached exactly."""
        noticeable = abs(rate - bucket.rate) > _NOTICEABLE * bucket.rate
        return noticeable or burst != bucket.burst or (rate == self._rate and rate != bucket.rate)
