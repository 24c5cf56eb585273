"""Adaptive concurrency: fewer requests at once when more only make them wait longer upstream. Pure.

Additive increase, multiplicative decrease, by latency. Below an upstream's capacity, latency is constant and
throughput grows with concurrency. Above it, throughput is constant and latency grows (Little's law), and
other clients of the upstream wait behind the queue. So the limit shrinks when latency has climbed without a
gain in throughput.
"""

from collections.abc import Sequence

_WINDOW_SECONDS = 1.0
_LEAST_SAMPLES = 64
_USED = 0.4
_CLIMBED = 2.0
_TOLERANCE_SECONDS = 60.0
_TOLERANCE = 1.2
_SAME_THROUGHPUT = 1.1
_DECREASE = 0.9
_COSTLY = 0.95
_INCREASE_SHARE = 0.02
_LEAST_LIMIT = 4


class AdaptiveConcurrency:
    """A limit of requests in flight between a few and the configured number.

    Latencies are judged in windows of at least a second and twice as many answers as may be in flight. The
    reference is the lowest latency ever seen. When latency has doubled in a window that used the limit and
    had no more throughput than the one before, the limit is cut by a tenth. This repeats as long as it costs
    no throughput. A cut that does is reverted: upstream is then slower, or takes longer for some requests,
    but does not queue. That latency is tolerated for a minute.

    Args:
        most: the configured maximum.

    Attributes:
        limit: the current maximum of requests in flight.
    """

    __slots__ = (
        "_before_cuts",
        "_least",
        "_lowest",
        "_most",
        "_throughput",
        "_tolerated",
        "_tolerated_until",
        "_uncut",
        "_window",
        "limit",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(most, _LEAST_LIMIT)
        self._lowest = float("inf")
        self._window = _Window()
        self._throughput = 0.0
        self._before_cuts: float | None = None
        self._uncut = most
        self._tolerated = _CLIMBED
        self._tolerated_until = float("-inf")
        self.limit: int = most

    def answered(self, seconds: Sequence[float], now: float, occupancy: float) -> bool:
        """Record answers that came at the same time. Return whether the limit changed.

        Args:
            seconds: of each, from sending to the last byte; at least one.
            now: the current time, in seconds of the monotonic clock.
            occupancy: the share of the limit that was in flight.
        """
        self._lowest = min(self._lowest, max(min(seconds), 1e-6))
        window = self._window
        if not window.samples:
            window.began = now
        window.samples += len(seconds)
        window.occupancy += occupancy * len(seconds)
        window.seconds += sum(seconds)
        window.fullest = max(window.fullest, occupancy)
        if now - window.began < _WINDOW_SECONDS or window.samples < max(_LEAST_SAMPLES, 2 * self.limit):
            return False
        before = self.limit
        self._judge(window, now)
        self.restart()
        return self.limit != before

    def restart(self) -> None:
        """Start a new window, for example after a pause, which is neither latency nor throughput."""
        self._window = _Window()

    def _judge(self, window: "_Window", now: float) -> None:
        throughput = (window.samples - 1) / (now - window.began)
        climb = window.mean_seconds / self._lowest
        grown = throughput > self._throughput * _SAME_THROUGHPUT
        self._throughput = throughput
        if not window.used:
            self._before_cuts = None
        elif self._before_cuts is not None and throughput < self._before_cuts * _COSTLY:
            self._take_back(climb, now)
        elif climb <= self._tolerance(now):
            self._before_cuts = None
            self.limit = min(self._most, self.limit + max(1, round(self._most * _INCREASE_SHARE)))
        elif not grown and self.limit > self._least:
            self._before_cuts = self._before_cuts or throughput
            self._uncut = self.limit
            self.limit = max(self._least, int(self.limit * _DECREASE))

    def _take_back(self, climb: float, now: float) -> None:
        self.limit = self._uncut
        self._before_cuts = None
        self._tolerated = climb * _TOLERANCE
        self._tolerated_until = now + _TOLERANCE_SECONDS

    def _tolerance(self, now: float) -> float:
        return max(self._tolerated, _CLIMBED) if now < self._tolerated_until else _CLIMBED


class _Window:
    """The answers of one window."""

    __slots__ = ("began", "fullest", "occupancy", "samples", "seconds")

    def __init__(self) -> None:
        self.began = 0.0
        self.samples = 0
        self.occupancy = self.fullest = 0.0
        self.seconds = 0.0

    @property
    def used(self) -> bool:
        """Whether the limit held requests back."""
        return self.fullest >= 1.0 and self.occupancy >= _USED * self.samples

    @property
    def mean_seconds(self) -> float:
        """The mean latency."""
        return self.seconds / self.samples
