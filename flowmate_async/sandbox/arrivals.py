"""Arrivals: when requests arrived, and what that proves about the sender's rate. Pure.

The times are when the sandbox's event loop began to handle a request. Requests sent apart may have been read
together, so a proof about a sender must allow for the machine's jitter.
"""

from collections import deque
from collections.abc import Iterable

__all__ = ["burst_needed", "most_in_window"]


def most_in_window(moments: Iterable[float], seconds: float) -> int:
    """Return the largest number of requests in any sliding window of `seconds`, ends included.

    Args:
        moments: the arrival times, in seconds, in order: see `Sandbox.arrivals`.
        seconds: the length of the window.
    """
    most, window = 0, deque[float]()
    for moment in moments:
        window.append(moment)
        while moment - window[0] > seconds:
            window.popleft()
        most = max(most, len(window))
    return most


def burst_needed(moments: Iterable[float], rate: float) -> float:
    """Return the smallest B with which, over *every* window of w seconds, requests <= rate * w + B.

    Args:
        moments: the arrival times, in seconds, in order: see `Sandbox.arrivals`.
        rate: requests/s.
    """
    needed, lowest = 0.0, float("inf")
    start: float | None = None
    for number, moment in enumerate(moments):
        start = moment if start is None else start
        above = number - rate * (moment - start)
        lowest = min(lowest, above)
        needed = max(needed, above - lowest + 1)
    return needed
