"""Adaptive rate: unused until upstream throttles, then the rate proven to pass, with cubic recovery. Pure.

The configured rate may be wrong, or other clients may share upstream's limit. A 429 only shows that
upstream's bucket was empty at that time. The times at which requests passed show how fast it fills.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

_KEPT = 2048
_STRIDE = 64
_LEAST_WINDOW_SECONDS = 0.005
_USUAL_BURST_SECONDS = 0.1
_MEMORY_SECONDS = (1.0, 30.0)
_LEAST_SHARE = 0.5
_HOLD_BACK = 0.1
_LEAST_RATE = 0.01


class PassTimes:
    """Send times of requests that passed, in bounded memory: recent ones in full, older ones thinned out.

    Attributes:
        count: how many have been noted.
    """

    __slots__ = ("_latest", "_past", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._latest: deque[float] = deque(maxlen=_KEPT)
        self._past: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def note(self, sent: Sequence[float]) -> None:
        """Record when requests that passed were sent."""
        for at in range(-self.count % _STRIDE, len(sent), _STRIDE):
            self._past.append((sent[at], self.count + at))
        self.count += len(sent)
        self._latest.extend(sent)

    def windows_until(self, end: float, *, noted_since: int = 0) -> Iterator[tuple[int, float]]:
        """Yield every window that ends at ``end``: how many requests sent within it passed, and its seconds.

        Args:
            end: when the windows end.
            noted_since: ignore requests recorded before :attr:`count` reached this number.
        """
        passed = 0
        latest = sorted(islice(reversed(self._latest), self.count - noted_since), reverse=True)
        for began in latest:
            if began <= end:
                passed += 1
                yield passed, max(end - began, _LEAST_WINDOW_SECONDS)
        later, forgotten = len(latest) - passed, self.count - len(latest)
        for began, number in reversed(self._past):
            if noted_since <= number < forgotten and began <= end:
                yield self.count - number - later, max(end - began, _LEAST_WINDOW_SECONDS)


class AdaptiveRate:
    """A rate limit that drops when upstream throttles and recovers gradually (multiplicative decrease, cubic
    recovery).

    A token bucket of rate R and burst B lets at most ``B + R * w`` requests pass in any window of w seconds.
    So R is at least ``(passed - B) / w``. When the bucket runs empty, R is exactly that for the window that
    began when it was last full. Recovery levels off there: it starts a tenth below, stays close to it for a
    while, then probes above at a growing pace, up to the configured rate.

    Windows of a second or more count for half a minute, across earlier throttles: if a few requests are
    throttled at any rate, slowing down further does not help. One throttle never takes more than half of the
    rate, whatever was measured. If not even the burst passed, the burst is halved, too.

    Args:
        configured: requests/s that are never exceeded; ``None`` for no limit.
        burst: the size of upstream's bucket, as far as known.
        recovery_seconds: how long recovery stays below the proven rate.

    Attributes:
        burst: the current estimate of the size of upstream's bucket.
        passed: records every request that upstream did not throttle.
    """

    __slots__ = (
        "_anchor",
        "_anchored_at",
        "_burst",
        "_configured",
        "_dry_at",
        "_passed_before_reaction",
        "_reacted_at",
        "_recovery_seconds",
        "burst",
        "passed",
    )

    def __init__(self, *, configured: float | None, burst: int, recovery_seconds: float) -> None:
        self._configured = configured
        self._burst = burst
        self._recovery_seconds = recovery_seconds
        self._anchor: float | None = None
        self._anchored_at = 0.0
        self._reacted_at = float("-inf")
        self._dry_at: float | None = None
        self.passed: PassTimes = PassTimes()
        self._passed_before_reaction = 0
        self.burst: int = burst

    @property
    def adapting(self) -> bool:
        """Whether upstream has throttled and the rate has not recovered yet."""
        return self._anchor is not None

    def rate(self, now: float) -> float | None:
        """Return the current rate in requests/s; ``None`` for no limit."""
        if self._anchor is None:
            return self._configured
        rate = self._anchor * (1.0 + _HOLD_BACK * self._phase(now) ** 3)
        return rate if self._configured is None else min(rate, self._configured)

    def recover(self) -> None:
        """Return to the configured rate and burst."""
        self._anchor = None
        self.burst = self._burst

    def throttled(self, *, sent_at: float, now: float) -> None:
        """Record a 429. Nothing may be sent until :meth:`resume`.

        Args:
            sent_at: when the throttled request was sent. A request that was already in flight when the rate
                was last lowered does not lower it again.
            now: the current time, in seconds of the monotonic clock.
        """
        if self._dry_at is not None:
            self._dry_at = min(self._dry_at, sent_at)
        elif sent_at > self._reacted_at:
            self._dry_at = sent_at
        self._reacted_at = now

    def resume(self, now: float) -> None:
        """Lower the rate if there was a 429: by now it is known which requests passed before it."""
        if self._dry_at is not None:
            before = self.rate(now)
            proven, passed_lately = self._proven(self._dry_at, limit=before)
            if passed_lately < self.burst:
                self.burst = max(1, self.burst // 2)
            rate = proven if before is None else min(before, max(proven, before * _LEAST_SHARE))
            self._anchor = max(rate, _LEAST_RATE)
            self._passed_before_reaction = self.passed.count
            self._dry_at = None
        self._anchored_at = now

    def _phase(self, now: float) -> float:
        """Return the phase of recovery: -1 at its start, 0 where it levels off, positive above that."""
        return max(0.0, now - self._anchored_at) / self._recovery_seconds - 1.0

    def _proven(self, dry_at: float, *, limit: float | None) -> tuple[float, int]:
        """Return the highest requests/s at which upstream's bucket provably filled before it ran empty.

        Also return how many requests passed recently: in twice the time the rate takes to let one burst pass.
        """
        proven, passed, seconds, passed_lately = 0.0, 0, 0.0, 0
        lately = float("inf") if limit is None else 2 * self.burst / limit
        for passed, seconds in self.passed.windows_until(dry_at, noted_since=self._passed_before_reaction):
            proven = max(proven, (passed - self.burst) / seconds)
            passed_lately = passed if seconds <= lately else passed_lately
        for in_all, span in self.passed.windows_until(dry_at):
            if _MEMORY_SECONDS[0] <= span <= _MEMORY_SECONDS[1]:
                proven = max(proven, (in_all - self.burst) / span)
        if limit is None:
            # Possibly many at once, or hardly any: assume that an ordinary bucket's burst passed.
            proven = max(proven, passed / max(seconds, _USUAL_BURST_SECONDS), self.burst)
        return proven, passed_lately
