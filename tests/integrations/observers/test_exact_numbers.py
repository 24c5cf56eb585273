"""What is exported is exactly what was counted: bounds of buckets, durations of spans, kinds of tokens."""

import asyncio
import logging
from contextlib import contextmanager

import msgspec
import pytest
from msgspec import structs
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flowmate_async import FlowMate
from flowmate_async.events import Answered, Broken, RunBegan, RunEnded
from flowmate_async.integrations import opentelemetry, prometheus
from flowmate_async.integrations.metrics_file import LastRun, write_last_run
from flowmate_async.stats import latency_of


class Known:
    """A client whose counters and events are the test's."""

    base_url = "https://api.example.com"

    def __init__(self, **counted):
        self.counted = counted
        self.listeners = []

    def stats(self):
        return msgspec.structs.replace(FlowMate(admin_token="a").stats(), **self.counted)

    @contextmanager
    def listening(self, *listeners):
        self.listeners += listeners
        yield

    def tell(self, event):
        for listener in self.listeners:
            listener(event)


def scraped(fm):
    registry = CollectorRegistry()
    with prometheus.instrument(fm, registry=registry):
        text = generate_latest(registry).decode()
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_bucket_holds_what_took_at_most_its_bound():
    """Latencies at a bound, just below and just above one; the smallest and the largest bound."""
    counts = {2.0**-11: 1, 2**-0.25: 2, 0.5: 3, 1.0: 4, 2**0.25: 5, 64.0: 6, 2**6.25: 7}
    latency = latency_of(counts, total_seconds=28.0, max_seconds=70.0)
    found = scraped(Known(latency={"GET /users/": latency}))
    bucket = {key[1]: value for key, value in found.items() if key[0] == "flowmate_request_seconds_bucket"}
    bounds = {
        float(bound.replace("+Inf", "inf")): value for bound, value in bucket.items() if bound[0] != "G"
    }
    expected = {2.0**-11: 1, 2.0**-10: 1, 0.5: 4, 1.0: 10, 2.0: 15, 32.0: 15, 64.0: 21, float("inf"): 28}
    assert {bound: bounds[bound] for bound in expected} == expected
    assert found["flowmate_request_seconds_count", "GET /users/"] == 28
    assert found["flowmate_request_seconds_sum", "GET /users/"] == pytest.approx(28.0)


@pytest.mark.parametrize(("made", "replaced"), [(0, 0), (5, 0), (5, 2), (5, 5)])
def test_replaced_tokens_are_not_first_ones(made, replaced):
    found = scraped(Known(tokens_made=made, tokens_replaced=replaced))
    assert found["flowmate_tokens_made_total", "first"] == made - replaced
    assert found["flowmate_tokens_made_total", "rejected"] == replaced


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    yield made
    made.shutdown()


@pytest.mark.parametrize(
    "event",
    [
        Answered("GET /users/", 200, 1.25),
        Answered("GET /users/", 503, 0.0),
        Broken("GET /users/", "interrupted", 30.5),
    ],
)
def test_a_span_is_as_long_as_its_request(exporter, provider, event):
    fm = Known()
    with opentelemetry.instrument(fm, tracer_provider=provider):
        fm.tell(event)
    (span,) = exporter.get_finished_spans()
    assert span.end_time - span.start_time == int(event.seconds * 1e9)


def test_the_span_of_a_run_ends_wherever_the_run_ends(exporter, provider, caplog):
    """In the task where it began, it leaves the context; in another one, that context is not its own."""
    fm = Known()

    async def began():
        fm.tell(RunBegan("r", resumed=False, total=1))
        return trace.get_current_span()

    async def main(*, elsewhere):
        if elsewhere:
            run = await asyncio.create_task(began())
        else:
            run = await began()
            assert trace.get_current_span() is run
        fm.tell(RunEnded("r", complete=True))
        assert trace.get_current_span() is trace.INVALID_SPAN
        return run

    with opentelemetry.instrument(fm, tracer_provider=provider), caplog.at_level(logging.ERROR):
        for elsewhere in (False, True):
            asyncio.run(main(elsewhere=elsewhere))
    assert [span.attributes["flowmate.run.complete"] for span in exporter.get_finished_spans()] == [
        True,
        True,
    ]
    assert caplog.text == ""


def traffic(*, breaker="closed", rate=10.0, current_rate=4.0):
    now = FlowMate(admin_token="a").stats().traffic
    return structs.replace(
        now,
        limiter=structs.replace(now.limiter, rate=rate, current_rate=current_rate),
        breaker=structs.replace(now.breaker, state=breaker),
    )


def test_the_rate_allowed_now_is_not_the_configured_one():
    found = scraped(Known(traffic=traffic(rate=10.0, current_rate=4.0)))
    assert (found[("flowmate_rate_limit",)], found[("flowmate_rate",)]) == (10.0, 4.0)


@pytest.mark.parametrize(("state", "ready"), [("closed", True), ("half-open", True), ("open", False)])
def test_a_client_is_ready_unless_its_breaker_is_open(state, ready):
    """While it is half-open, a client that got no work could not find out that upstream is back."""
    fm = Known(traffic=traffic(breaker=state))
    assert prometheus.is_ready(fm) is ready
    assert scraped(fm)["flowmate_breaker_state", state] == 1


@pytest.mark.parametrize(("status", "error"), [(399, None), (400, "400"), (503, "503")])
def test_an_answer_is_an_error_from_400_on(exporter, provider, status, error):
    fm = Known()
    with opentelemetry.instrument(fm, tracer_provider=provider):
        fm.tell(Answered("GET /users/", status, 1.0))
    (span,) = exporter.get_finished_spans()
    assert span.attributes.get("error.type") == error
    assert span.status.is_ok is (error is None)


def test_requests_without_an_answer_have_a_duration():
    fm, reader = Known(), InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    with opentelemetry.instrument(fm, meter_provider=meters):
        fm.tell(Broken("GET /users/", "interrupted", 30.5))
        fm.tell(Answered("GET /users/", 400, 2.0))
        (exported,) = reader.get_metrics_data().resource_metrics
    meters.shutdown()
    durations = [metric for metric in exported.scope_metrics[0].metrics if metric.name.endswith(".duration")]
    points = {point.attributes["error.type"]: point.sum for point in durations[0].data.data_points}
    assert points == {"interrupted": 30.5, "400": 2.0}


@pytest.mark.parametrize(
    ("counts", "median"), [({1.0: 1, 2.0: 1}, 1.0), ({1.0: 1, 2.0: 2}, 2.0), ({1.0: 99, 2.0: 1}, 1.0)]
)
def test_the_median_is_in_the_bucket_that_reaches_half(counts, median):
    latency = latency_of(counts, total_seconds=1.0, max_seconds=2.0)
    assert (latency.p50_seconds, latency.p99_seconds) == (median, 1.0 if counts[1.0] == 99 else 2.0)


def test_a_clock_that_was_set_back_does_not_hide_the_last_success(tmp_path):
    path, success = tmp_path / "night.prom", "flowmate_sync_last_success_timestamp_seconds"
    for succeeded_at in (2000.0, 1000.0, 0.0):
        run = LastRun(exit_code=0, complete=True, started_at=1.0, ended_at=2.0, succeeded_at=succeeded_at)
        write_last_run(path, run)
        assert f"{success} 2000.0" in path.read_text()
