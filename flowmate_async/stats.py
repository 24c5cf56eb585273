"""Counters and latencies of a client, updated from its events."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import ceil, log2
from typing import Any

import msgspec

from flowmate_async.access.cache_entries import CacheStatistics
from flowmate_async.access.single_flight import FlightStatistics
from flowmate_async.engine.coordination import CoordinationStatistics
from flowmate_async.engine.wiring import TrafficStatistics
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
    UserNotStored,
    UserSkipped,
    UserStored,
)

_STEPS_PER_DOUBLING = 4
_LEAST_SECONDS = 1e-6
_LEAST_STEP = math.ceil(math.log2(_LEAST_SECONDS) * _STEPS_PER_DOUBLING)


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of one endpoint in seconds; percentiles are exact to about 20 %.

    Attributes:
        count: number of answers.
        mean_seconds: the mean.
        p50_seconds: the median.
        p99_seconds: the 99th percentile.
        max_seconds: the maximum.
        buckets: a histogram: the number of answers by upper bound in seconds. The bounds are powers of 2,
            with three steps between each two.
    """

    count: int
    mean_seconds: float
    p50_seconds: float
    p99_seconds: float
    max_seconds: float
    buckets: dict[float, int] = {}


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a client.

    Attributes:
        transport: what carries the requests: ``wire``, ``aiohttp``, or the class of a custom transport.
        requests: answers by endpoint.
        statuses: answers by HTTP status.
        answers: answers by endpoint and HTTP status.
        broken: exchanges without a complete answer, by how they failed.
        retries: requests sent again, by kind of error.
        retries_refused: requests not sent again because the retry budget was spent, by kind of error.
        throttled: answers that asked all clients to wait.
        joined: callers that joined an existing flight, by flight.
        tokens_made: impersonations.
        tokens_replaced: those after a rejection.
        relisted: listings fetched again.
        users: users of syncs by outcome: ``synced``, ``failed``, ``skipped``.
        user_errors: the failed ones by kind of error.
        stored: credentials that syncs stored or found unchanged.
        latency: by endpoint.
        traffic: requests in flight, and flow control: limits, breaker, bulkheads, retry budget.
        cache: the cache of credentials.
        flights: the tables of flights.
        coordination: what the client shares with other processes; ``None`` if that cannot fail on its own.
        health: credentials that do not plainly work, by state and type: those in ``health_store``, counted
            every minute; without one, those that processes sharing over Redis have seen since this one began.
            ``None`` with neither, or if the store cannot count them cheaply.
    """

    transport: str
    requests: dict[str, int]
    statuses: dict[int, int]
    answers: dict[str, dict[int, int]]
    broken: dict[str, int]
    retries: dict[str, int]
    retries_refused: dict[str, int]
    throttled: int
    joined: dict[str, int]
    tokens_made: int
    tokens_replaced: int
    relisted: int
    users: dict[str, int]
    user_errors: dict[str, int]
    stored: int
    latency: dict[str, Latency]
    traffic: TrafficStatistics
    cache: CacheStatistics
    flights: dict[str, FlightStatistics]
    coordination: CoordinationStatistics | None = None
    health: dict[str, dict[str, int]] | None = None


class Histogram:
    """Counts of durations in geometric steps, in bounded memory."""

    __slots__ = ("_counts", "_max", "_total", "count")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count: int = 0
        self._total = 0.0
        self._max = 0.0

    def record(self, *durations: float) -> None:
        """Count durations, in seconds."""
        counts = self._counts
        for seconds in durations:
            step = ceil(log2(seconds) * _STEPS_PER_DOUBLING) if seconds > _LEAST_SECONDS else _LEAST_STEP
            counts[step] = counts.get(step, 0) + 1
        self.count += len(durations)
        self._total += sum(durations)
        self._max = max(self._max, *durations)

    def latency(self) -> Latency:
        """Return a summary of the recorded durations."""
        buckets = {2 ** (step / _STEPS_PER_DOUBLING): count for step, count in self._counts.items()}
        return latency_of(buckets, total_seconds=self._total, max_seconds=self._max)


def latency_of(buckets: Mapping[float, int], *, total_seconds: float, max_seconds: float) -> Latency:
    """Return a summary of latencies.

    Args:
        buckets: see :class:`Latency`.
        total_seconds: their sum.
        max_seconds: the longest.
    """
    ordered = dict(sorted(buckets.items()))
    count = sum(ordered.values())
    return Latency(
        count=count,
        mean_seconds=total_seconds / count if count else 0.0,
        p50_seconds=_percentile(ordered, 0.50 * count, max_seconds),
        p99_seconds=_percentile(ordered, 0.99 * count, max_seconds),
        max_seconds=max_seconds,
        buckets=ordered,
    )


def _percentile(ordered: Mapping[float, int], left: float, longest: float) -> float:
    for bound, count in ordered.items():
        left -= count
        if left <= 0:
            return min(bound, longest)
    return longest


class _Endpoint:
    """The answers of one endpoint."""

    __slots__ = ("latencies", "statuses")

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.latencies = Histogram()


class StatsListener:
    """Updates the counters; called with every event of one client."""

    def __init__(self) -> None:
        self._broken: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._retries_refused: Counter[str] = Counter()
        self._joined: Counter[str] = Counter()
        self._throttled = 0
        self._tokens_made = 0
        self._tokens_replaced = 0
        self._relisted = 0
        self._users: Counter[str] = Counter()
        self._user_errors: Counter[str] = Counter()
        self._stored = 0
        self._endpoints: defaultdict[str, _Endpoint] = defaultdict(_Endpoint)
        # A dispatch table, since matching class patterns one by one would cost as much as the counting.
        self._count: dict[type[Event], Callable[[Any], None]] = {
            Answered: self._answered,
            Broken: self._broke,
            Retried: self._retried,
            RetryRefused: self._refused,
            FlightJoined: self._flight_joined,
            Throttled: self._was_throttled,
            TokenMade: self._token_made,
            Relisted: self._listed_again,
            UserStored: self._user_stored,
            UserNotStored: self._user_not_stored,
            UserSkipped: self._user_skipped,
        }

    def __call__(self, event: Event) -> None:
        """Count an event."""
        count = self._count.get(type(event))
        if count is not None:
            count(event)

    def count_answers(self, answers: Iterable[tuple[str, int, float]]) -> None:
        """Count answers, each given by endpoint, HTTP status and the seconds that the exchange took."""
        durations: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for endpoint, status, seconds in answers:
            durations[endpoint, status].append(seconds)
        for (endpoint, status), of_these in durations.items():
            seen = self._endpoints[endpoint]
            seen.statuses[status] += len(of_these)
            seen.latencies.record(*of_these)

    def _answered(self, event: Answered) -> None:
        self.count_answers([(event.endpoint, event.status, event.seconds)])

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

    def _user_stored(self, event: UserStored) -> None:
        self._users["synced"] += 1
        self._stored += event.secrets

    def _user_not_stored(self, event: UserNotStored) -> None:
        self._users["failed"] += 1
        self._user_errors[event.error] += 1

    def _user_skipped(self, _event: UserSkipped) -> None:
        self._users["skipped"] += 1

    def snapshot(
        self,
        *,
        transport: str,
        traffic: TrafficStatistics,
        cache: CacheStatistics,
        flights: dict[str, FlightStatistics],
        coordination: CoordinationStatistics | None = None,
        health: Mapping[tuple[str, str], int] | None = None,
    ) -> Stats:
        """Return the counters so far, with the statistics of the parts that keep their own."""
        endpoints = list(self._endpoints.items())  # a copy: a metrics exporter reads in its own thread
        answers = {name: dict(seen.statuses) for name, seen in endpoints}
        return Stats(
            transport=transport,
            requests={name: seen.latencies.count for name, seen in endpoints},
            statuses=dict(sum((Counter(statuses) for statuses in answers.values()), Counter())),
            answers=answers,
            broken=dict(self._broken),
            retries=dict(self._retries),
            retries_refused=dict(self._retries_refused),
            throttled=self._throttled,
            joined=dict(self._joined),
            tokens_made=self._tokens_made,
            tokens_replaced=self._tokens_replaced,
            relisted=self._relisted,
            users=dict(self._users),
            user_errors=dict(self._user_errors),
            stored=self._stored,
            latency={name: seen.latencies.latency() for name, seen in endpoints},
            traffic=traffic,
            cache=cache,
            flights=flights,
            coordination=coordination,
            health=None if health is None else _nested(health),
        )


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (state, kind), count in counts.items():
        nested.setdefault(state, {})[kind] = count
    return nested
