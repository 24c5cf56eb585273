"""Counters: what reached the sandbox, per route, user and secret.

``Counters`` is written by the server, ``SandboxStats`` is the copy a reader gets. Arrivals prove something
about the sender's rate. Their times are when the sandbox's event loop began to handle a request. Requests
sent apart may have been read together, so a proof must allow for the machine's jitter.
"""

import time
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Iterable

import msgspec


class SandboxStats(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of the counters at one moment."""

    requests: dict[str, dict[int, int]]
    """Route template -> status -> answers."""

    impersonations: int
    """Tokens issued."""

    impersonations_by_username: dict[str, int]
    """The same by username."""

    secret_gets: dict[str, int]
    """Secret id -> GETs that its reader was allowed."""

    refreshes: dict[str, int]
    """Secret id -> refreshes and logins that reached the provider."""

    refreshes_by_auth_client: dict[str, int]
    """The same by OAuth client."""

    lock_waits: dict[str, int]
    """Secret id -> GETs that waited for the lock of another refresh."""

    lists: dict[str, int]
    """Username -> list pages served."""

    in_flight: int
    """Requests in flight."""

    max_in_flight: int
    """Maximum of requests in flight."""

    max_refreshes_in_flight: int
    """Maximum of refreshes and logins in flight."""

    throttled: int
    """Answers with status 429, injected ones included."""

    faults: dict[str, int]
    """Kind -> how often such a fault struck."""

    def total_requests(self) -> int:
        """Return how many requests were answered."""
        return sum(sum(by_status.values()) for by_status in self.requests.values())


class Counters:
    """Running counters; plain dictionaries, because one event loop writes them."""

    __slots__ = (
        "arrivals",
        "faults",
        "impersonations",
        "in_flight",
        "lists",
        "lock_waits",
        "max_in_flight",
        "max_refreshes_in_flight",
        "refreshes",
        "refreshes_by_auth_client",
        "refreshes_in_flight",
        "requests",
        "secret_gets",
    )

    def __init__(self, *, record_arrivals: bool = False) -> None:
        self.arrivals: array[float] | None = array("d") if record_arrivals else None
        self.faults: Counter[str] = Counter()
        self.in_flight: int = 0
        self.refreshes_in_flight: int = 0
        self.reset()

    def reset(self) -> None:
        """Reset the counters, except those of requests in flight."""
        if self.arrivals is not None:
            del self.arrivals[:]
        self.faults.clear()
        self.requests: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.impersonations: Counter[str] = Counter()
        self.secret_gets: Counter[str] = Counter()
        self.refreshes: Counter[str] = Counter()
        self.refreshes_by_auth_client: Counter[str] = Counter()
        self.lock_waits: Counter[str] = Counter()
        self.lists: Counter[str] = Counter()
        self.max_in_flight: int = self.in_flight
        self.max_refreshes_in_flight: int = self.refreshes_in_flight

    def request_began(self) -> None:
        """Count a request as started."""
        if self.arrivals is not None:
            self.arrivals.append(time.monotonic())
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def request_ended(self, route: str, status: int | None) -> None:
        """Count a request as ended; without a status if it was never answered."""
        self.in_flight -= 1
        if status is not None:
            self.requests[route][status] += 1

    def refresh_began(self, secret_id: str, auth_client_id: str) -> None:
        """Count a refresh or login that reaches the provider."""
        self.refreshes[secret_id] += 1
        self.refreshes_by_auth_client[auth_client_id] += 1
        self.refreshes_in_flight += 1
        self.max_refreshes_in_flight = max(self.max_refreshes_in_flight, self.refreshes_in_flight)

    def refresh_ended(self) -> None:
        """Count a refresh as ended."""
        self.refreshes_in_flight -= 1

    def snapshot(self) -> SandboxStats:
        """Return a copy that later requests do not change."""
        requests = {route: dict(by_status) for route, by_status in self.requests.items()}
        return SandboxStats(
            requests=requests,
            impersonations=self.impersonations.total(),
            impersonations_by_username=dict(self.impersonations),
            secret_gets=dict(self.secret_gets),
            refreshes=dict(self.refreshes),
            refreshes_by_auth_client=dict(self.refreshes_by_auth_client),
            lock_waits=dict(self.lock_waits),
            lists=dict(self.lists),
            in_flight=self.in_flight,
            max_in_flight=self.max_in_flight,
            max_refreshes_in_flight=self.max_refreshes_in_flight,
            throttled=sum(by_status.get(429, 0) for by_status in requests.values()),
            faults=dict(self.faults),
        )


def most_in_window(moments: Iterable[float], seconds: float) -> int:
    """Return the largest number of requests in any sliding window of ``seconds``, ends included.

    Args:
        moments: the arrival times, in seconds, in order: see ``Sandbox.arrivals``.
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
        moments: the arrival times, in seconds, in order: see ``Sandbox.arrivals``.
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
