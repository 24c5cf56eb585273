"""OpenTelemetry: spans and metrics as the SDK exports them, and nothing that must not be in them."""

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import flowmate_async
from flowmate_async import ConfigurationError, FlowMate, FlowMateError, RetryPolicy, open_store
from flowmate_async.events import UserStored
from flowmate_async.integrations.opentelemetry import instrument
from flowmate_async.sandbox import Faults, faults

pytestmark = pytest.mark.anyio


class Sdk:
    """The SDK with exporters that keep everything."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])

    @property
    def providers(self):
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    def spans(self, name=None):
        return [span for span in self.exporter.get_finished_spans() if name in (None, span.name)]

    def points(self, name):
        """The data points of one metric."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def everything(self):
        return "".join(span.to_json() for span in self.spans()) + str(
            self.reader.get_metrics_data().to_json() if self.spans() else ""
        )


@pytest.fixture
def sdk():
    made = Sdk()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


class TestRequests:
    async def test_each_is_a_client_span_by_the_conventions(self, sandbox, fm, sdk):
        with instrument(fm, **sdk.providers):
            usernames = [user.username async for user in fm.users() if user.is_active_tenant_user]
            await fm.list_secrets(usernames[0])
        assert [span.name for span in sdk.spans()] == ["GET /users/", "POST /impersonate", "GET /secrets/"]
        span = sdk.spans("POST /impersonate")[0]
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert dict(span.attributes) == {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "url.full": f"{sandbox.url}/impersonate",
            "url.scheme": "http",
            "url.template": "/impersonate",
            "server.address": "127.0.0.1",
            "server.port": int(sandbox.url.rpartition(":")[2]),
        }
        assert 0 <= span.end_time - span.start_time < 5e9

    async def test_a_bad_answer_and_none_are_errors(self, sandbox, sdk):
        rules = (
            faults.Error(share=1.0, status=503, routes=("POST /impersonate",)),
            faults.Reset(share=1.0, routes=("GET /users/",)),
        )
        sandbox.configure(faults=Faults(rules=rules))
        made = FlowMate(
            admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, retry=RetryPolicy(attempts=1)
        )
        async with made as fm:
            with instrument(fm, **sdk.providers):
                with pytest.raises(FlowMateError):
                    await fm.impersonate("someone")
                with pytest.raises(FlowMateError):
                    _ = [user async for user in fm.users()]
        answered, broken = sdk.spans()
        assert answered.attributes["error.type"] == "503"
        assert broken.attributes["error.type"] in ("stale", "interrupted")
        assert "http.response.status_code" not in broken.attributes
        assert {span.status.status_code for span in sdk.spans()} == {StatusCode.ERROR}

    async def test_they_belong_to_the_callers_span_and_what_happened_is_told_there(self, sandbox, sdk):
        rules = (faults.Error(share=1.0, status=503, at_most=1, routes=("POST /impersonate",)),)
        sandbox.configure(faults=Faults(rules=rules))
        made = FlowMate(
            admin_token=sandbox.admin_token,
            base_url=sandbox.url,
            rate=None,
            retry=RetryPolicy(base_seconds=0.001),
        )
        username = next(iter(sandbox.world.truth())).username
        async with made as fm:
            with instrument(fm, **sdk.providers), sdk.tracers.get_tracer("app").start_as_current_span("job"):
                await fm.impersonate(username)
        job = sdk.spans("job")[0]
        requests = sdk.spans("POST /impersonate")
        assert len(requests) == 2
        assert {span.parent.span_id for span in requests} == {job.context.span_id}
        assert [span.attributes.get("http.request.resend_count") for span in requests] == [None, 1]
        assert [event.name for event in job.events] == ["flowmate.retry", "flowmate.token_made"]
        assert job.events[0].attributes["error.type"] == "upstream_unavailable"

    async def test_requests_that_are_sent_again_are_numbered(self, sandbox, sdk):
        """After an error, a broken connection and a rejected token; a span alone shows it, no metric."""
        username = next(iter(sandbox.world.truth())).username
        made = FlowMate(
            admin_token=sandbox.admin_token,
            base_url=sandbox.url,
            rate=None,
            retry=RetryPolicy(base_seconds=0.001),
        )
        async with made as fm:
            await fm.list_secrets(username)
            sandbox.world.revoke_tokens()
            rules = (
                faults.Error(share=1.0, status=503, at_most=1, routes=("POST /impersonate",)),
                faults.Reset(share=1.0, at_most=1, routes=("POST /impersonate",)),
            )
            sandbox.configure(faults=Faults(rules=rules))
            with instrument(fm, **sdk.providers):
                await fm.list_secrets(username)
        counts = {
            name: [span.attributes.get("http.request.resend_count") for span in sdk.spans(name)]
            for name in ("POST /impersonate", "GET /secrets/")
        }
        assert counts == {"POST /impersonate": [None, 1, 2], "GET /secrets/": [None, 1]}
        points = sdk.points("http.client.request.duration")
        assert not any("http.request.resend_count" in point.attributes for point in points)

    async def test_without_instrument_there_is_nothing(self, fm, sdk):
        with instrument(fm, **sdk.providers):
            pass
        _ = [user async for user in fm.users()]
        assert sdk.spans() == []
        assert sdk.points("http.client.request.duration") == []


class TestRuns:
    async def test_a_sync_is_one_span_with_every_request_below_it(self, sandbox, fm, sdk):
        async with open_store("memory:") as store:
            with instrument(fm, **sdk.providers):
                report = await fm.sync(store)
        run = sdk.spans("flowmate.sync")[0]
        assert dict(run.attributes) == {
            "flowmate.run.users": 20,
            "flowmate.run.resumed": False,
            "flowmate.run.complete": True,
        }
        below = [span for span in sdk.spans() if span.kind is SpanKind.CLIENT and span.name != "GET /users/"]
        assert len(below) == report.requests
        assert {span.parent.span_id for span in below} == {run.context.span_id}
        assert trace.get_current_span() is trace.INVALID_SPAN, "the run's span is current no more"

    async def test_one_that_is_broken_off_ends_its_span_too(self, sandbox, fm, sdk):
        async with open_store("memory:") as store:
            with instrument(fm, **sdk.providers), anyio.CancelScope() as scope:
                await fm.sync(
                    store, on_event=lambda event: scope.cancel() if type(event) is UserStored else 0
                )
        assert sdk.spans("flowmate.sync")[0].attributes["flowmate.run.complete"] is False
        assert trace.get_current_span() is trace.INVALID_SPAN


class TestMetrics:
    async def test_durations_are_counted_by_endpoint_and_status(self, sandbox, fm, sdk):
        async with open_store("memory:") as store:
            with instrument(fm, **sdk.providers):
                report = await fm.sync(store)
                points = sdk.points("http.client.request.duration")
                gauges = {
                    name: sdk.points(name) for name in ("flowmate.concurrency", "flowmate.breaker.open")
                }
        by_route = {point.attributes["url.template"]: point for point in points}
        assert sum(point.count for point in points) == report.requests + 1
        assert by_route["/impersonate"].count == 20
        assert by_route["/secrets/{id}"].attributes["http.response.status_code"] == 200
        assert by_route["/secrets/{id}"].sum > 0
        assert gauges["flowmate.concurrency"][0].value == 64
        assert gauges["flowmate.breaker.open"][0].value == 0

    async def test_users_and_what_happened_are_counted(self, sandbox, fm, sdk):
        names = [user.username async for user in fm.users() if user.is_active_tenant_user][:3]
        async with open_store("memory:") as store:
            with instrument(fm, **sdk.providers):
                report = await fm.sync(store, [*names, "nobody-at-all"])
                users = {
                    point.attributes["flowmate.outcome"]: point for point in sdk.points("flowmate.users")
                }
                events = {
                    point.attributes["flowmate.event"]: point.value for point in sdk.points("flowmate.events")
                }
                (stored,) = sdk.points("flowmate.secrets.stored")
        assert (users["synced"].value, users["failed"].value) == (3, 1)
        assert users["failed"].attributes["error.type"] == "user_not_found"
        assert stored.value == report.secrets
        assert events["token_made"] == 3


class TestSecrecy:
    async def busy(self, fm):
        """Everything that makes events, failures included."""
        async with open_store("memory:") as store:
            report = await fm.sync(store)
            async for username, secret in store.secrets():
                await fm.credential(username, secret.id)
                break
            await fm.sync(store, ["nobody-at-all"])
        return report

    @pytest.mark.parametrize("ids", ["omit", "hash"])
    async def test_no_credential_and_no_id_is_in_any_span_or_metric(self, fm, sdk, leaks, ids):
        with instrument(fm, ids=ids, **sdk.providers):
            await self.busy(fm)
            text = sdk.everything()
        assert "/secrets/{id}" in text
        assert leaks(text, ids=True) == []
        assert leaks(text + fm._parts.admin._source.value) != [], "the search itself finds what leaks"

    async def test_hashes_tell_users_apart_and_need_the_key(self, fm, sdk):
        with instrument(fm, ids="hash", hash_key=b"one", **sdk.providers):
            await self.busy(fm)
        hashes = {span.attributes["flowmate.user"] for span in sdk.spans("POST /impersonate")}
        assert len(hashes) == 21
        assert {"flowmate.secret", "flowmate.user"} <= set(sdk.spans("GET /secrets/{id}")[0].attributes)
        other = Sdk()
        with instrument(fm, ids="hash", hash_key=b"two", **other.providers):
            names = [user.username async for user in fm.users() if user.is_active_tenant_user]
            await fm.list_secrets(names[0])
        assert not hashes & {span.attributes.get("flowmate.user") for span in other.spans()}

    async def test_another_word_for_ids_is_refused(self, fm):
        with pytest.raises(ConfigurationError, match="omit"), instrument(fm, ids="clear"):
            pass


async def test_the_scope_names_the_version_and_the_conventions(fm, sdk):
    with instrument(fm, **sdk.providers):
        _ = [user async for user in fm.users()]
    scope = sdk.spans()[0].instrumentation_scope
    assert (scope.name, scope.version) == ("flowmate_async", flowmate_async.__version__)
    assert scope.schema_url.startswith("https://opentelemetry.io/schemas/1.")


async def test_the_cache_is_counted(sandbox, fm, sdk):
    truth = next(truth for truth in sandbox.world.truth() if truth.type == "SIMPLE")
    with instrument(fm, **sdk.providers):
        for _ in range(3):
            await fm.credential(truth.username, truth.secret_id)
        counted = {
            name: sdk.points(f"flowmate.cache.{name}")[0].value
            for name in ("entries", "hits", "misses", "refreshes", "stale")
        }
    assert counted == {"entries": 1, "hits": 2, "misses": 1, "refreshes": 1, "stale": 0}
