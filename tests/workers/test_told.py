"""The report of ``flowmate sync --workers`` covers every request, whichever process sent it."""

import os
import signal

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FlowMate
from flowmate_async.events import Answered, Broken, FlightJoined, Retried, Throttled, TokenMade
from flowmate_async.stats import StatsListener
from flowmate_async.workers.messages import Counted
from flowmate_async.workers.stats import Counts, TrafficSnapshot, WorkerTotals
from tests.reporting.pages import Page

from .conftest import acknowledged, needs_proc, twin_thread, until

USERS = 80
FAULTS = "reset=0.02 @ GET /secrets/{id}; error=0.02 status=503; throttle=0.01 retry_after_seconds=0"


def reports(tmp_path):
    return [flag for name in ("report.html", "report.json") for flag in ("--report", str(tmp_path / name))]


def written(tmp_path):
    """The report as JSON, and as a page."""
    data = msgspec.json.decode((tmp_path / "report.json").read_bytes())
    return data, Page((tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.mark.timeout(120)
@needs_proc
class TestReport:
    def test_its_answers_are_those_that_the_twin_gave(self, sync, tmp_path):
        with twin_thread(users=USERS, latency_seconds=0.01, faults=FAULTS) as twin:
            code, _, err = sync(twin, *reports(tmp_path), workers=3, rate=1000).ended()
            given = twin.stats()
        data, page = written(tmp_path)
        seen = data["observed"]
        assert (code, data["complete"]) == (int(data["totals"]["failed"] > 0), True), err
        answered = {route: by for route, by in given["requests"].items() if route in seen["answers"]}
        assert seen["answers"] == answered
        assert len(answered) == 4
        assert seen["throttled"] == given["throttled"] > 0
        assert sum(seen["broken"].values()) == given["faults"]["reset"], "stale or interrupted"
        assert sum(latency["count"] for latency in seen["latency"].values()) == sum(page.buckets)
        total = sum(sum(by.values()) for by in answered.values())
        assert sum(page.buckets) == total == sum(sample["requests"] for sample in seen["samples"])
        assert sum(latency["count"] for latency in seen["latency"].values()) == total
        assert sum(1 for sample in seen["samples"] if sample["requests"]) > 2, "it is told as it goes on"
        assert max(sample["in_flight"] for sample in seen["samples"]) > 1
        assert page.numbers["retries"] == sum(seen["retries"].values()) > 0
        assert "untold" not in page.numbers
        assert data["observed"]["elsewhere"] is False

    def test_a_killed_workers_counts_stay_and_the_missing_ones_are_named(self, sync, tmp_path, store_file):
        with twin_thread(users=USERS, latency_seconds=0.05) as twin:
            syncing = sync(twin, "--concurrency", "16", *reports(tmp_path))
            until(lambda: store_file.exists() and len(acknowledged(store_file)) > USERS // 10)
            os.kill(syncing.workers()[0], signal.SIGKILL)
            code, out, _ = syncing.ended()
            total = twin.total()
        data, page = written(tmp_path)
        seen = sum(sum(by.values()) for by in data["observed"]["answers"].values())
        assert (code, data["totals"]["synced"]) == (0, USERS)
        assert total * 0.5 < seen <= total
        assert min(sample["requests"] for sample in data["observed"]["samples"]) >= 0
        assert page.numbers.get("untold", 0) == max(0, msgspec.json.decode(out)["requests"] - seen)


names = st.sampled_from(["GET /secrets/", "POST /impersonate"])
seconds = st.floats(1e-5, 60)
happenings = st.one_of(
    st.builds(Answered, names, st.sampled_from([200, 429, 500]), seconds),
    st.builds(Broken, names, st.sampled_from(["timeout", "interrupted"])),
    st.builds(Retried, names, st.sampled_from(["rate_limited", "protocol"]), st.just(0.0)),
    st.builds(Throttled, st.just(1.0)),
    st.builds(TokenMade, st.just("ali"), st.booleans()),
    st.builds(FlightJoined, st.just("secret")),
)


def idle():
    """The statistics of a client that has done nothing."""

    async def fresh():
        return FlowMate(admin_token="invented", rate=100, concurrency=64).stats()

    return anyio.run(fresh)


IDLE = idle()


@given(st.lists(st.tuples(st.integers(0, 3), happenings)), st.sets(st.integers(1, 3)))
def test_what_several_processes_counted_adds_up_to_what_one_would_have(told, died):
    """Process 0 is the parent; some of the others have ended meanwhile, and all of it went over the wire."""
    parts, total = [StatsListener() for _ in range(4)], StatsListener()
    for process, event in told:
        parts[process](event)
        total(event)

    def counted(listener):
        return listener.snapshot(
            transport="wire", traffic=IDLE.traffic, cache=IDLE.cache, flights=IDLE.flights
        )

    totals = WorkerTotals()
    for process in (1, 2, 3):
        message = Counted.of(counted(parts[process]), keeps_to=1)
        over = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Counted)
        totals.note(process, Counts(throttled=7), over.traffic)  # replaced by what it tells later
        totals.note(process, over.counts, over.traffic)
    for process in died:
        totals.ended(process)
    found, expected = totals.added_to(counted(parts[0])), counted(total)
    for name in Counts.__struct_fields__:
        if name != "latency":
            assert getattr(found, name) == getattr(expected, name), name
    assert (found.requests, found.statuses) == (expected.requests, expected.statuses)
    assert found.latency.keys() == expected.latency.keys()
    for endpoint, latency in expected.latency.items():
        assert found.latency[endpoint].mean_seconds == pytest.approx(latency.mean_seconds)
        same = msgspec.structs.replace(found.latency[endpoint], mean_seconds=latency.mean_seconds)
        assert same == latency


def test_together_they_are_allowed_what_all_are_and_as_sick_as_the_sickest():
    own = IDLE
    totals = WorkerTotals()
    assert totals.added_to(own).traffic == own.traffic
    states = (("closed", 30.0), ("open", 20.0), ("half-open", 10.0))
    for number, (state, rate) in enumerate(states):
        traffic = TrafficSnapshot(in_flight=3, waiting=number, rate=rate, concurrency=22, breaker=state)
        totals.note(number, Counts(), traffic)
    traffic = totals.added_to(own).traffic
    assert (traffic.in_flight, traffic.limiter.waiting, traffic.limiter.current_concurrency) == (9, 3, 66)
    assert traffic.limiter.current_rate == 60
    assert traffic.breaker.state == "open"
    totals.note(
        0, Counts(), TrafficSnapshot(in_flight=0, waiting=0, rate=90.0, concurrency=22, breaker="closed")
    )
    assert totals.added_to(own).traffic.limiter.current_rate == 100, "the lender lends no more"
    for number in range(3):
        totals.ended(number)
    assert totals.added_to(own).traffic == own.traffic


@pytest.mark.timeout(120)
@needs_proc
def test_the_metrics_are_those_of_all_processes(sync, tmp_path):
    file = tmp_path / "flowmate.prom"
    with twin_thread(users=USERS) as twin:
        code, _, err = sync(twin, "--metrics-file", str(file), workers=2).ended()
        total = twin.total()
    assert code == 0, err
    assert f"flowmate_sync_last_run_requests {float(total)}" in file.read_text().splitlines()
