"""Adaptive rate: off until upstream throttles; then what was proven to pass, recovered along a cubic. Pure.

The configured rate may be wrong, or others may share upstream's limit. A 429 tells only that its bucket was
empty at that moment; the moments at which requests did pass tell how fast it fills.
"""

from collections import deque
from collections.abc import Iterator
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
    """When requests that passed were sent, in bounded memory: the latest each, those before one in many.

    Attributes:
        count: how many have been noted.
    """

    __slots__ = ("_latest", "_past", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._latest: deque[float] = deque(maxlen=_KEPT)
        self._past: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def note(self, sent_at: float) -> None:
        """Note one request that has passed."""
        if self.count % _STRIDE == 0:
            self._past.append((sent_at, self.count))
        self.count += 1
        self._latest.append(sent_at)

    def windows_until(self, end: float, *, noted_since: int = 0) -> Iterator[tuple[int, float]]:
        """Every window that ends then: how many that were sent within it passed, and its seconds.

        Args:
            end: the moment at which they end.
            noted_since: leave out what was noted before :attr:`count` was that much.
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
    """A ceiling that steps back when upstream throttles and feels its way up again (multiplicative decrease,
    cubic recovery).

    What a token bucket of rate R and burst B let pass in any window of w seconds was at most ``B + R * w``;
    so R was at least ``(passed - B) / w``, and at the moment it ran dry exactly that for the window that
    began when it was last full. That is where recovery levels off: it starts a tenth below, stays close to it
    for a while, then probes above, faster and faster, up to the configured rate.

    What passed over a second or more counts for half a minute, earlier throttles included: where a few
    requests are throttled however slowly they come, slowing down further would bring nothing. Whatever was
    measured, one throttle never takes more than half of the rate. Where not even the burst passed, it is
    halved, too.

    Args:
        configured: requests/s that are never exceeded; ``None`` for no limit.
        burst: the size of upstream's bucket, as far as it is known.
        recovery_seconds: how long recovery stays below what was proven.

    Attributes:
        burst: the size that upstream's bucket is taken to have at this moment.
        passed: to be told of every request that upstream has not throttled.
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
        """Whether upstream has throttled and the configured rate is not reached again."""
        return self._anchor is not None

    def rate(self, now: float) -> float | None:
        """Requests/s at this moment; ``None`` for no limit."""
        if self._anchor is None:
            return self._configured
        rate = self._anchor * (1.0 + _HOLD_BACK * self._phase(now) ** 3)
        return rate if self._configured is None else min(rate, self._configured)

    def recover(self) -> None:
        """Take the configured rate and burst for good again."""
        self._anchor = None
        self.burst = self._burst

    def throttled(self, *, sent_at: float, now: float) -> None:
        """Note a 429; nobody may send until :meth:`resume`.

        Args:
            sent_at: when the throttled request was sent. What was in flight when the rate was lowered last
                belongs to that reaction, and is no reason for another.
            now: this moment.
        """
        if self._dry_at is not None:
            self._dry_at = min(self._dry_at, sent_at)
        elif sent_at > self._reacted_at:
            self._dry_at = sent_at
        self._reacted_at = now

    def resume(self, now: float) -> None:
        """Lower the rate, if there was a 429: by now it is known what passed before it."""
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
        """From -1 when recovery begins, over 0 when it is back where it levels off, upwards."""
        return max(0.0, now - self._anchored_at) / self._recovery_seconds - 1.0

    def _proven(self, dry_at: float, *, limit: float | None) -> tuple[float, int]:
        """The most requests/s that upstream's bucket is proven to be filled with, until it ran dry.

        And how many passed lately: in twice the time in which the rate alone would let a burst pass.
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
            # Many at once, perhaps, or hardly any: take what passed for a usual bucket's burst.
            proven = max(proven, passed / max(seconds, _USUAL_BURST_SECONDS), self.burst)
        return proven, passed_lately
