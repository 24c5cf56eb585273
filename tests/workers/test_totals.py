"""The counters of a sync's workers are added up, also of those that have ended."""

import pytest
from msgspec import structs

from flowmate_async import FlowMate
from flowmate_async.stats import latency_of
from flowmate_async.workers.stats import Counts, TrafficSnapshot, WorkerTotals

ENDPOINT = "GET /secrets/{id}"


def counts(times, seconds):
    """The counters of a worker that had so many answers, each after so many seconds."""
    latency = latency_of({seconds: times}, total_seconds=times * seconds, max_seconds=seconds)
    return Counts(answers={ENDPOINT: {200: times}}, latency={ENDPOINT: latency}, throttled=1)


def snapshot(rate=10.0):
    return TrafficSnapshot(in_flight=1, waiting=2, rate=rate, concurrency=4, breaker="closed")


def own_stats(rate=15.0):
    stats = FlowMate(admin_token="a").stats()
    limiter = structs.replace(stats.traffic.limiter, rate=rate)
    return structs.replace(stats, traffic=structs.replace(stats.traffic, limiter=limiter))


def test_latencies_of_workers_are_weighted_by_their_answers():
    totals = WorkerTotals()
    totals.note("one", counts(3, 0.5), snapshot())
    totals.note("two", counts(1, 2.0), snapshot())
    totals.ended("one")
    stats = totals.added_to(own_stats())
    latency = stats.latency[ENDPOINT]
    assert (latency.count, latency.mean_seconds, latency.max_seconds) == (4, pytest.approx(3.5 / 4), 2.0)
    assert (stats.requests, stats.statuses, stats.throttled) == ({ENDPOINT: 4}, {200: 4}, 2)


@pytest.mark.parametrize(("rates", "rate"), [((2.0, 3.0), 5.0), ((10.0, 10.0), 15.0)])
def test_the_rate_of_all_workers_never_exceeds_the_configured_one(rates, rate):
    totals = WorkerTotals()
    for worker, of_worker in enumerate(rates):
        totals.note(worker, Counts(), snapshot(of_worker))
    assert totals.added_to(own_stats(rate=15.0)).traffic.limiter.current_rate == rate
