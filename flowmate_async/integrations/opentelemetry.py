"""OpenTelemetry: a client's requests as spans and metrics, by the semantic conventions for HTTP clients.

A listener on the client's events, active only inside :func:`instrument`. A span is created when its request
has ended, with the original times; its parent is the caller's current span, or, in a sync, the run's span.
Retries, throttling, flights and the breaker are events of the current span. Needs the extra
``otel``; which SDK and exporter are used is the application's choice.

::

    async with FlowMate(...) as fm:
        with instrument(fm, ids="hash"):
            ...
"""

import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from secrets import token_bytes
from typing import Any, Literal
from urllib.parse import urlsplit

from flowmate_async import __version__, events
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import Answered, Broken, Event, RunBegan, RunEnded, UserNotStored, UserStored
from flowmate_async.integrations.observable import Observable
from flowmate_async.stats import Stats

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ImportError as _missing:
    raise ConfigurationError(
        "OpenTelemetry spans need opentelemetry-api, which is not installed",
        advice="Install the extra: pip install 'flowmate-async[otel]'",
    ) from _missing

__all__ = [
    "Ids",
    "instrument",
]

Ids = Literal["omit", "hash"]
"""How spans name users and secrets: not at all, or by a keyed hash."""

_SCOPE = "flowmate_async"
_SCHEMA_URL = "https://opentelemetry.io/schemas/1.30.0"
"""The version of the semantic conventions that names and attributes follow."""
_HASH_LETTERS = 16
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bucket bounds in seconds that the conventions advise for ``http.client.request.duration``."""

_CACHE = {
    "hits": ("hits", "Credentials served from the cache."),
    "misses": ("misses", "Credentials that were waited for."),
    "refreshes": ("refreshes", "Credentials fetched by the cache."),
    "stale": ("stale_served", "Credentials served after a failed refresh."),
}
"""Counters of the cache: the field of its statistics, and the description."""
_Read = Callable[[Stats], float | None]

_SPAN_EVENTS: dict[type[Event], str] = {
    events.Retried: "flowmate.retry",
    events.RetryRefused: "flowmate.retry_refused",
    events.Throttled: "flowmate.throttled",
    events.RateChanged: "flowmate.rate_changed",
    events.ConcurrencyChanged: "flowmate.concurrency_changed",
    events.FlightJoined: "flowmate.flight_joined",
    events.TokenMade: "flowmate.token_made",
    events.Refreshed: "flowmate.refreshed",
    events.ServedStale: "flowmate.served_stale",
    events.ProviderRefused: "flowmate.provider_refused",
    events.BreakerOpened: "flowmate.breaker_opened",
    events.BreakerClosed: "flowmate.breaker_closed",
    events.CoordinationLost: "flowmate.coordination_lost",
    events.CoordinationRestored: "flowmate.coordination_restored",
    events.Relisted: "flowmate.relisted",
}
_FIELDS = {
    "error": "error.type",
    "wait_seconds": "flowmate.wait_seconds",
    "rate": "flowmate.rate",
    "limit": "flowmate.concurrency",
    "flight": "flowmate.flight",
    "replaced": "flowmate.replaced",
    "seconds": "flowmate.open_seconds",
}
"""Attributes of span events; event fields that are not listed here are not exported."""


@contextmanager
def instrument(
    fm: Observable,
    *,
    ids: Ids = "omit",
    hash_key: bytes | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Iterator[None]:
    """In the block, export the client's requests as spans and metrics.

    Args:
        fm: the client.
        ids: whether spans carry ``flowmate.user`` and ``flowmate.secret``. Usernames can be guessed, so the
            hash is an HMAC. Metrics never carry either.
        hash_key: the key of the hash; without one, a random key, so that hashes of two processes differ.
        tracer_provider: where spans go; the application's global one when left out.
        meter_provider: where metrics go; the global one when left out.

    Raises:
        ConfigurationError: ``ids`` has another value.
    """
    if ids not in ("omit", "hash"):
        raise ConfigurationError("ids is 'omit' or 'hash'")
    name = _namer(hash_key or token_bytes(32)) if ids == "hash" else None
    tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider=tracer_provider, schema_url=_SCHEMA_URL)
    meter = metrics.get_meter(_SCOPE, __version__, meter_provider=meter_provider, schema_url=_SCHEMA_URL)
    spans, meters = _Spans(tracer, fm.base_url, name), _Meters(meter, fm)
    try:
        with fm.listening(meters, spans):
            yield
    finally:
        spans.end_run(complete=False)
        meters.close()


def _namer(key: bytes) -> Callable[[str], str]:
    def hashed(text: str) -> str:
        return hmac.digest(key, text.encode(errors="surrogatepass"), "sha256").hex()[:_HASH_LETTERS]

    return hashed


def _server(base_url: str) -> dict[str, Any]:
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"server.address": parts.hostname or "", "server.port": port, "url.scheme": parts.scheme}


def _request(endpoint: str) -> dict[str, Any]:
    """Split an endpoint's name into method and route, as ``GET /secrets/{id}``."""
    method, _, template = endpoint.partition(" ")
    return {"http.request.method": method, "url.template": template}


class _Spans:
    """A listener that creates spans.

    Args:
        tracer: creates them.
        base_url: FlowMate's.
        name: hashes an id; ``None`` when ids are left out.
    """

    def __init__(self, tracer: trace.Tracer, base_url: str, name: Callable[[str], str] | None) -> None:
        self._tracer = tracer
        self._base_url = base_url
        self._server = _server(base_url)
        self._name = name
        self._run: tuple[Span, Any] | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Answered() | Broken():
                self._request(event)
            case RunBegan():
                self._begin_run(event)
            case RunEnded():
                self.end_run(complete=event.complete)
            case UserNotStored():
                self._annotate(
                    "flowmate.user_failed", {"error.type": event.error, **self._ids(event.username)}
                )
            case _ if (name := _SPAN_EVENTS.get(type(event))) is not None:
                self._annotate(name, _told(event))

    def end_run(self, *, complete: bool) -> None:
        """End the run's span, if there is one."""
        if self._run is None:
            return
        (span, token), self._run = self._run, None
        span.set_attribute("flowmate.run.complete", complete)
        if trace.get_current_span() is span:  # not if the run was cancelled in another task
            context.detach(token)
        span.end()

    def _begin_run(self, event: RunBegan) -> None:
        self.end_run(complete=False)
        span = self._tracer.start_span("flowmate.sync", attributes={"flowmate.run.resumed": event.resumed})
        if event.total is not None:
            span.set_attribute("flowmate.run.users", event.total)
        # Tasks started from here on, such as the sweep's workers, create child spans of this one.
        self._run = span, context.attach(trace.set_span_in_context(span))

    def _request(self, event: Answered | Broken) -> None:
        ended = time.time_ns()
        attributes = {
            **self._server,
            **_request(event.endpoint),
            **self._ids(event.username, event.secret_id),
        }
        attributes["url.full"] = self._base_url + attributes["url.template"]
        failure = event.failure if isinstance(event, Broken) else ""
        if isinstance(event, Answered):
            attributes["http.response.status_code"] = event.status
            failure = str(event.status) if event.status >= 400 else ""
        if failure:
            attributes["error.type"] = failure
        if event.attempt > 1:
            attributes["http.request.resend_count"] = event.attempt - 1
        span = self._tracer.start_span(
            event.endpoint,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=ended - int(event.seconds * 1e9),
        )
        if failure:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=ended)

    def _annotate(self, name: str, attributes: dict[str, Any]) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.add_event(name, attributes)

    def _ids(self, username: str | None, secret_id: str | None = None) -> dict[str, Any]:
        if self._name is None:
            return {}
        known = {"flowmate.user": username, "flowmate.secret": secret_id}
        return {name: self._name(text) for name, text in known.items() if text is not None}


def _told(event: Event) -> dict[str, Any]:
    return {attribute: getattr(event, field) for field, attribute in _FIELDS.items() if hasattr(event, field)}


class _Meters:
    """A listener that counts, and gauges that read the client's state on collection.

    Args:
        meter: creates the instruments.
        fm: the client.
    """

    def __init__(self, meter: metrics.Meter, fm: Observable) -> None:
        self._server = _server(fm.base_url)
        self._fm: Observable | None = fm
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._users = meter.create_counter("flowmate.users", unit="{user}", description="Users of syncs.")
        self._stored = meter.create_counter(
            "flowmate.secrets.stored", unit="{secret}", description="Credentials stored or found unchanged."
        )
        self._events = meter.create_counter(
            "flowmate.events", unit="{event}", description="Retries, throttling, refreshes and the like."
        )
        self._gauges(meter)

    def __call__(self, event: Event) -> None:
        match event:
            case Answered():
                told: dict[str, Any] = {"http.response.status_code": event.status}
                if event.status >= 400:
                    told["error.type"] = str(event.status)
                self._duration.record(event.seconds, {**self._server, **_request(event.endpoint), **told})
            case Broken():
                told_broken = {**self._server, **_request(event.endpoint), "error.type": event.failure}
                self._duration.record(event.seconds, told_broken)
            case UserStored():
                self._users.add(1, {"flowmate.outcome": "synced"})
                self._stored.add(event.secrets)
            case UserNotStored():
                self._users.add(1, {"flowmate.outcome": "failed", "error.type": event.error})
            case _ if (name := _SPAN_EVENTS.get(type(event))) is not None:
                kind = {"error.type": event.error} if hasattr(event, "error") else {}
                self._events.add(1, {"flowmate.event": name.removeprefix("flowmate."), **kind})

    def close(self) -> None:
        """Release the client; the gauges report nothing from then on."""
        self._fm = None

    def _gauges(self, meter: metrics.Meter) -> None:
        def observing(read: _Read) -> Callable[[CallbackOptions], list[Observation]]:
            def observe(_options: CallbackOptions) -> list[Observation]:
                value = None if self._fm is None else read(self._fm.stats())
                return [] if value is None else [Observation(value)]

            return observe

        def gauge(name: str, unit: str, description: str, read: Callable[[Any], float | None]) -> None:
            callbacks = [observing(lambda stats: read(stats.traffic))]
            meter.create_observable_gauge(name, callbacks=callbacks, unit=unit, description=description)

        meter.create_observable_gauge(
            "flowmate.cache.entries",
            callbacks=[observing(lambda stats: stats.cache.entries)],
            unit="{secret}",
            description="Credentials in the cache.",
        )
        for name, (field, description) in _CACHE.items():
            meter.create_observable_counter(
                f"flowmate.cache.{name}",
                callbacks=[observing(partial(_of_cache, field=field))],
                unit="{secret}",
                description=description,
            )

        gauge("flowmate.requests.in_flight", "{request}", "Requests on the wire.", lambda now: now.in_flight)
        gauge(
            "flowmate.requests.waiting",
            "{request}",
            "Requests that wait for their turn.",
            lambda now: now.limiter.waiting,
        )
        gauge(
            "flowmate.rate",
            "{request}/s",
            "Requests per second allowed now.",
            lambda now: now.limiter.current_rate,
        )
        gauge(
            "flowmate.concurrency",
            "{request}",
            "Most requests in flight now.",
            lambda now: now.limiter.current_concurrency,
        )
        gauge(
            "flowmate.breaker.open",
            "1",
            "1 while nothing is sent to a sick upstream.",
            lambda now: float(now.breaker.state != "closed"),
        )


def _of_cache(stats: Stats, *, field: str) -> float:
    return float(getattr(stats.cache, field))
