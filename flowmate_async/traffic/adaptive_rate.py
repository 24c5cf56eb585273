"""Adaptive rate: off until upstream throttles; then what was proven to pass, recovered along a cubic. Pure.

The configured rate may be wrong, or others may share upstream's limit. A 429 tells only that its bucket was
empty at that moment; the moments of what was sent before tell how fast it fills.
"""

from collections import deque
from collections.abc import Iterator

_KEPT_MARKS = 2048
_MARK_SECONDS = 0.002
_LEAST_WINDOW_SECONDS = 0.005
_LEAST_SHARE = 0.5
_HOLD_BACK = 0.1
_PLATEAU_SECONDS = 15.0
_LEAST_RATE = 0.01


class SendTimes:
    """When requests were sent, thinned out so that memory is bounded: one moment for every ``stride`` sends.

    Args:
        stride: sends a mark stands for; the more, the longer the past that is remembered.
    """

    __slots__ = ("_marks", "_since_mark", "_stride")

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._since_mark = 0
        self._marks: deque[float] = deque(maxlen=_KEPT_MARKS)

    def note(self, now: float) -> None:
        """Note one request that is sent now."""
        if self._since_mark == 0:
            self._marks.append(now)
        self._since_mark = (self._since_mark + 1) % self._stride

    def windows_before(self, moment: float) -> Iterator[tuple[int, float]]:
        """Every window that ends at ``moment``: how many were sent within it, and its seconds."""
        sent, group = 0, self._since_mark or self._stride
        for began in reversed(self._marks):
            if began < moment:
                sent += group
                yield sent, moment - began
            group = self._stride


class AdaptiveRate:
    """A ceiling that steps back when upstream throttles and feels its way up again (multiplicative decrease,
    cubic recovery).

    What a token bucket of rate R and burst B let pass in any window of w seconds was at most ``B + R * w``;
    so R was at least ``(passed - B) / w``, and at the moment it ran dry exactly that for the window that
    began when it was last full. That is where recovery levels off: it starts a tenth below, stays close to it
    for a while, then probes above, faster and faster, up to the configured rate. Whatever was measured, one
    throttle never takes more than half of the rate; and where even the burst did not pass, the burst is
    halved.

    Args:
        configured: requests/s that are never exceeded; ``None`` for no limit.
        burst: the size of upstream's bucket, as far as it is known.

    Attributes:
        burst: what is left of it.
    """

    __slots__ = ("_anchor", "_anchored_at", "_burst", "_configured", "_reacted_at", "_sends", "burst")

    def __init__(self, *, configured: float | None, burst: int) -> None:
        self._configured = configured
        self._burst = burst
        self._anchor: float | None = None
        self._anchored_at = 0.0
        self._reacted_at = float("-inf")
        self.burst = burst
        self._sends = SendTimes(_stride(configured))

    @property
    def adapting(self) -> bool:
        """Whether upstream has throttled and the configured rate is not reached again."""
        return self._anchor is not None

    def sent(self, now: float) -> None:
        """Note one request that is sent now."""
        self._sends.note(now)

    def rate(self, now: float) -> float | None:
        """Requests/s at this moment; ``None`` for no limit."""
        if self._anchor is None:
            return self._configured
        phase = (max(now, self._anchored_at) - self._anchored_at) / _PLATEAU_SECONDS - 1.0
        rate = self._anchor * (1.0 + _HOLD_BACK * phase**3)
        return rate if self._configured is None else min(rate, self._configured)

    def recover(self) -> None:
        """Take the configured rate and burst for good again."""
        self._anchor = None
        self.burst = self._burst

    def throttled(self, *, sent_at: float, now: float, resume_at: float) -> bool:
        """React to a 429; whether the rate was lowered.

        Args:
            sent_at: when the throttled request was sent. What was in flight when the rate was lowered last
                belongs to that reaction, and is no reason for another.
            now: this moment.
            resume_at: when sending goes on.
        """
        if sent_at <= self._reacted_at:
            self._anchored_at = max(self._anchored_at, resume_at)
            return False
        before, proven = self.rate(now), self._proven(sent_at)
        anchor = proven if before is None else min(before, max(proven, before * _LEAST_SHARE))
        self._reacted_at = now
        if anchor <= 0:
            self._sends = SendTimes(_stride(before))
            return False  # without a limit, and too little was sent to learn one from
        self._anchor = max(anchor, _LEAST_RATE)
        self._anchored_at = resume_at
        self._sends = SendTimes(_stride(self._anchor))
        return True

    def _proven(self, moment: float) -> float:
        """The most requests/s that upstream's bucket is proven to fill with, up to this moment."""
        proven, most = 0.0, 0
        for passed, seconds in self._sends.windows_before(moment):
            most = passed
            proven = max(proven, (passed - self.burst) / max(seconds, _LEAST_WINDOW_SECONDS))
        if most < self.burst:
            self.burst = max(1, self.burst // 2)
        return proven


def _stride(rate: float | None) -> int:
    """How many sends a mark stands for, so that the marks reach some seconds back at any rate."""
    return max(1, round((rate or 0.0) * _MARK_SECONDS))
