"""Counters of worker processes, sent to their parent and added up: numbers only, never a name or an id.

Their size depends on the number of endpoints, statuses and kinds of failure, not on the users.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from functools import reduce
from typing import Self, TypeVar

import msgspec
from msgspec import structs

from flowmate_async.engine.wiring import TrafficStatistics
from flowmate_async.stats import Latency, Stats, latency_of

K = TypeVar("K")

_STATES = ("closed", "half-open", "open")
"""Breaker states, from best to worst."""


class TrafficSnapshot(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The state of a worker's flow control.

    Attributes:
        in_flight: requests on the wire.
        waiting: queued requests.
        rate: its current limit in requests/s; ``None`` without a limit.
        concurrency: its current limit of requests in flight.
        breaker: ``closed``, ``open`` or ``half-open``.
    """

    in_flight: int
    waiting: int
    rate: float | None
    concurrency: int
    breaker: str

    @classmethod
    def of(cls, stats: Stats) -> Self:
        """Return the state of a client's flow control."""
        traffic = stats.traffic
        return cls(
            in_flight=traffic.in_flight,
            waiting=traffic.limiter.waiting,
            rate=traffic.limiter.current_rate,
            concurrency=traffic.limiter.current_concurrency,
            breaker=traffic.breaker.state,
        )


class Counts(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A worker's counters since it began; :class:`~flowmate_async.Stats` has the same names."""

    answers: dict[str, dict[int, int]] = {}
    broken: dict[str, int] = {}
    retries: dict[str, int] = {}
    retries_refused: dict[str, int] = {}
    joined: dict[str, int] = {}
    throttled: int = 0
    tokens_made: int = 0
    tokens_replaced: int = 0
    relisted: int = 0
    latency: dict[str, Latency] = {}

    @classmethod
    def of(cls, stats: Stats) -> Self:
        """Return a client's counters."""
        return cls(**{name: getattr(stats, name) for name in cls.__struct_fields__})

    def plus(self, other: "Counts") -> "Counts":
        """Return the sum of both."""
        endpoints = sorted(self.answers.keys() | other.answers.keys())
        return Counts(
            answers={
                name: _sum(self.answers.get(name, {}), other.answers.get(name, {})) for name in endpoints
            },
            broken=_sum(self.broken, other.broken),
            retries=_sum(self.retries, other.retries),
            retries_refused=_sum(self.retries_refused, other.retries_refused),
            joined=_sum(self.joined, other.joined),
            throttled=self.throttled + other.throttled,
            tokens_made=self.tokens_made + other.tokens_made,
            tokens_replaced=self.tokens_replaced + other.tokens_replaced,
            relisted=self.relisted + other.relisted,
            latency={
                name: together(one.latency[name] for one in (self, other) if name in one.latency)
                for name in sorted(self.latency.keys() | other.latency.keys())
            },
        )


class WorkerTotals:
    """Adds up the counters of a sync's workers, including those that have ended."""

    def __init__(self) -> None:
        self._past = Counts()
        self._present: dict[Hashable, tuple[Counts, TrafficSnapshot]] = {}

    def note(self, worker: Hashable, counts: Counts, traffic: TrafficSnapshot) -> None:
        """Update a worker's counters.

        Args:
            worker: identifies the worker.
            counts: all its counters; they replace the previous ones.
            traffic: its flow control now.
        """
        self._present[worker] = counts, traffic

    def ended(self, worker: Hashable) -> None:
        """Keep a worker's last counters, and drop its flow-control state."""
        counts, _ = self._present.pop(worker, (Counts(), None))
        self._past = self._past.plus(counts)

    def added_to(self, stats: Stats) -> Stats:
        """The parent's own statistics with those of its workers.

        The rate is the limit for all of them together, and the breaker is open if one is.
        """
        present = [counts for counts, _ in self._present.values()]
        total = reduce(Counts.plus, [self._past, *present], Counts.of(stats))
        return structs.replace(
            stats,
            **structs.asdict(total),
            requests={name: latency.count for name, latency in total.latency.items()},
            statuses=_sum(*total.answers.values()),
            traffic=self._traffic(stats) if self._present else stats.traffic,
        )

    def _traffic(self, stats: Stats) -> TrafficStatistics:
        workers, traffic = [one for _, one in self._present.values()], stats.traffic
        limiter = traffic.limiter
        rates = [one.rate for one in workers if one.rate is not None]
        return structs.replace(
            traffic,
            in_flight=traffic.in_flight + sum(one.in_flight for one in workers),
            limiter=structs.replace(
                limiter,
                current_rate=None if limiter.rate is None else min(limiter.rate, sum(rates)),
                current_concurrency=sum(one.concurrency for one in workers),
                waiting=limiter.waiting + sum(one.waiting for one in workers),
            ),
            breaker=structs.replace(
                traffic.breaker,
                state=max((traffic.breaker.state, *(one.breaker for one in workers)), key=_STATES.index),
            ),
        )


def together(latencies: Iterable[Latency]) -> Latency:
    """Merge the latencies of one endpoint that several processes recorded."""
    parts = list(latencies)
    return latency_of(
        _sum(*(part.buckets for part in parts)),
        total_seconds=sum(part.mean_seconds * part.count for part in parts),
        max_seconds=max((part.max_seconds for part in parts), default=0.0),
    )


def _sum(*parts: Mapping[K, int]) -> dict[K, int]:
    total: Counter[K] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)
