"""Counters and latencies of a client, kept by listening to its events."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from flowmate_async.credentials import CacheStatistics
from flowmate_async.events import (
    Answered,
    Broken,
    Event,
    FlightJoined,
    Relisted,
    Retried,
    RetryRefused,
    Throttled,
    TokenMade,
)
from flowmate_async.flight import FlightStatistics
from flowmate_async.traffic.flow_control import TrafficStatistics

_STEPS_PER_DOUBLING = 4
_LEAST_SECONDS = 1e-6
_LEAST_STEP = math.ceil(math.log2(_LEAST_SECONDS) * _STEPS_PER_DOUBLING)


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of one endpoint in seconds; percentiles are exact to about 20 %."""

    count: int
    mean_seconds: float
    p50_seconds: float
    p99_seconds: float
    max_seconds: float


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """A client as it stands.

    Attributes:
        requests: answers by endpoint.
        statuses: answers by HTTP status.
        broken: exchanges without a complete answer, by how they failed.
        retries: requests sent again, by kind of error.
        retries_refused: requests not sent again because the retry budget was spent, by kind of error.
        throttled: answers that asked everybody to wait.
        joined: callers that joined a flight under way, by flight.
        tokens_made: impersonations.
        tokens_replaced: those after a rejection.
        relisted: listings fetched again.
        latency: by endpoint.
        traffic: what is in flight, and flow control: limits, breaker, bulkheads, retry budget.
        cache: the cache of credentials.
        flights: the tables of flights.
    """

    requests: dict[str, int]
    statuses: dict[int, int]
    broken: dict[str, int]
    retries: dict[str, int]
    retries_refused: dict[str, int]
    throttled: int
    joined: dict[str, int]
    tokens_made: int
    tokens_replaced: int
    relisted: int
    latency: dict[str, Latency]
    traffic: TrafficStatistics
    cache: CacheStatistics
    flights: dict[str, FlightStatistics]


class Histogram:
    """Counts of durations in geometric steps: bounded memory, whatever is recorded."""

    __slots__ = ("_counts", "_max", "_total", "count")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self._total = 0.0
        self._max = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        step = (
            math.ceil(math.log2(seconds) * _STEPS_PER_DOUBLING) if seconds > _LEAST_SECONDS else _LEAST_STEP
        )
        self._counts[step] = self._counts.get(step, 0) + 1
        self.count += 1
        self._total += seconds
        self._max = max(self._max, seconds)

    def latency(self) -> Latency:
        """What was recorded, in a few numbers."""
        return Latency(
            count=self.count,
            mean_seconds=self._total / self.count if self.count else 0.0,
            p50_seconds=self._percentile(0.50),
            p99_seconds=self._percentile(0.99),
            max_seconds=self._max,
        )

    def _percentile(self, share: float) -> float:
        left = share * self.count
        for step in sorted(self._counts):
            left -= self._counts[step]
            if left <= 0:
                return float(min(2 ** (step / _STEPS_PER_DOUBLING), self._max))
        return self._max


class StatsListener:
    """Keeps the counters; called with every event of one client."""

    def __init__(self) -> None:
        self._statuses: Counter[int] = Counter()
        self._broken: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._retries_refused: Counter[str] = Counter()
        self._joined: Counter[str] = Counter()
        self._throttled = 0
        self._tokens_made = 0
        self._tokens_replaced = 0
        self._relisted = 0
        self._latencies: dict[str, Histogram] = {}
        # A table, since matching class patterns one by one would cost as much as the counting.
        self._count: dict[type[Event], Callable[[Any], None]] = {
            Answered: self._answered,
            Broken: self._broke,
            Retried: self._retried,
            RetryRefused: self._refused,
            FlightJoined: self._flight_joined,
            Throttled: self._was_throttled,
            TokenMade: self._token_made,
            Relisted: self._listed_again,
        }

    def __call__(self, event: Event) -> None:
        """Count the event."""
        count = self._count.get(type(event))
        if count is not None:
            count(event)

    def _answered(self, event: Answered) -> None:
        self._statuses[event.status] += 1
        histogram = self._latencies.get(event.endpoint)
        if histogram is None:
            histogram = self._latencies[event.endpoint] = Histogram()
        histogram.record(event.seconds)

    def _broke(self, event: Broken) -> None:
        self._broken[event.failure] += 1

    def _retried(self, event: Retried) -> None:
        self._retries[event.error] += 1

    def _refused(self, event: RetryRefused) -> None:
        self._retries_refused[event.error] += 1

    def _flight_joined(self, event: FlightJoined) -> None:
        self._joined[event.flight] += 1

    def _was_throttled(self, _event: Throttled) -> None:
        self._throttled += 1

    def _token_made(self, event: TokenMade) -> None:
        self._tokens_made += 1
        self._tokens_replaced += event.replaced

    def _listed_again(self, _event: Relisted) -> None:
        self._relisted += 1

    def snapshot(
        self, *, traffic: TrafficStatistics, cache: CacheStatistics, flights: dict[str, FlightStatistics]
    ) -> Stats:
        """The counters so far, with the rooms' own statistics."""
        return Stats(
            requests={endpoint: seen.count for endpoint, seen in self._latencies.items()},
            statuses=dict(self._statuses),
            broken=dict(self._broken),
            retries=dict(self._retries),
            retries_refused=dict(self._retries_refused),
            throttled=self._throttled,
            joined=dict(self._joined),
            tokens_made=self._tokens_made,
            tokens_replaced=self._tokens_replaced,
            relisted=self._relisted,
            latency={endpoint: seen.latency() for endpoint, seen in self._latencies.items()},
            traffic=traffic,
            cache=cache,
            flights=flights,
        )
