"""Adaptive concurrency: fewer requests at once when more only make them wait longer upstream. Pure.

Additive increase, multiplicative decrease, by latency: below an upstream's capacity latency stays and
throughput grows with concurrency; above it throughput stays and latency grows (Little's law), and whoever
else needs the upstream waits behind the queue. So when latency has climbed while throughput has not, the
limit shrinks.
"""

from collections import defaultdict, deque
from collections.abc import Hashable

_WINDOW_SECONDS = 0.25
_LEAST_SAMPLES = 16
_BASELINE_SECONDS = 60.0
_CLIMBED = 2.0
_SAME_THROUGHPUT = 1.1
_DECREASE = 0.9
_COSTLY = 0.95
_INCREASE_SHARE = 0.02
_LEAST_LIMIT = 4


class AdaptiveConcurrency:
    """A limit of requests in flight between a few and the configured number.

    Latencies are judged in windows of at least 0.25 s and as many answers as may be in flight, each kind of
    request against its own lowest window of the last minute. When they have doubled in a window that used the
    limit to the full and brought no more throughput than the one before, the limit is cut by a tenth. A cut
    that costs throughput is taken back, and the higher latency is the new normal: upstream was slower then,
    not queueing.

    Args:
        most: the configured limit.

    Attributes:
        limit: most requests in flight at this moment.
    """

    __slots__ = ("_baselines", "_before_cut", "_least", "_most", "_throughput", "_window", "limit")

    def __init__(self, most: int) -> None:
        self._most = most
        self._least = min(most, _LEAST_LIMIT)
        self._baselines: dict[Hashable, _Baseline] = {}
        self._window = _Window()
        self._throughput = 0.0
        self._before_cut: tuple[int, float] | None = None
        self.limit = most

    def answered(self, kind: Hashable, seconds: float, *, now: float, full: bool) -> bool:
        """Note an answer; whether the limit changed.

        Args:
            kind: what was asked for; few kinds.
            seconds: from sending to the last byte.
            now: this moment.
            full: no further request could be in flight.
        """
        window = self._window
        if window.note(kind, seconds, now=now, full=full) < max(_LEAST_SAMPLES, self.limit):
            return False
        if now - window.began < _WINDOW_SECONDS:
            return False
        before = self.limit
        self._judge(window, now)
        self.restart()
        return self.limit != before

    def restart(self) -> None:
        """Begin the window anew, as after a pause, which is neither latency nor throughput."""
        self._window = _Window()

    def _judge(self, window: "_Window", now: float) -> None:
        throughput = window.samples / (now - window.began)
        climb = self._climb(window, now)
        cut, self._before_cut = self._before_cut, None
        grown = throughput > self._throughput * _SAME_THROUGHPUT
        self._throughput = throughput
        if not window.used_to_the_full:
            return
        if cut is not None and throughput < cut[1] * _COSTLY:
            self.limit = cut[0]
            self._baselines.clear()
        elif climb > _CLIMBED and not grown:
            self._before_cut = (self.limit, throughput)
            self.limit = max(self._least, int(self.limit * _DECREASE))
        elif climb <= _CLIMBED:
            self.limit = min(self._most, self.limit + max(1, round(self._most * _INCREASE_SHARE)))

    def _climb(self, window: "_Window", now: float) -> float:
        """How many times the latency of quiet moments the window's is, over all kinds."""
        expected = 0.0
        for kind, count in window.counts.items():
            baseline = self._baselines.setdefault(kind, _Baseline())
            expected += count * baseline.lowest(window.seconds[kind] / count, now)
        return sum(window.seconds.values()) / expected if expected else 1.0


class _Window:
    """Answers of one window, by kind."""

    __slots__ = ("_full", "began", "counts", "samples", "seconds")

    def __init__(self) -> None:
        self.began = 0.0
        self.samples = 0
        self._full = 0
        self.counts: defaultdict[Hashable, int] = defaultdict(int)
        self.seconds: defaultdict[Hashable, float] = defaultdict(float)

    @property
    def used_to_the_full(self) -> bool:
        """Whether the limit was what held requests back."""
        return 2 * self._full >= self.samples

    def note(self, kind: Hashable, seconds: float, *, now: float, full: bool) -> int:
        """Note an answer; how many there are by now."""
        if not self.samples:
            self.began = now
        self.samples += 1
        self._full += full
        self.counts[kind] += 1
        self.seconds[kind] += seconds
        return self.samples


class _Baseline:
    """The lowest window mean of one kind within the last minute."""

    __slots__ = ("_means",)

    def __init__(self) -> None:
        self._means: deque[tuple[float, float]] = deque()

    def lowest(self, mean: float, now: float) -> float:
        """Take note of a window's mean; the lowest of those not forgotten."""
        while self._means and self._means[-1][1] >= mean:
            self._means.pop()
        self._means.append((now, mean))
        while self._means[0][0] < now - _BASELINE_SECONDS:
            self._means.popleft()
        return self._means[0][1]
