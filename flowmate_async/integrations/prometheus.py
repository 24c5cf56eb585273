"""Prometheus: a client's counters as metrics, read from ``fm.stats()`` on each scrape.

Nothing is counted twice and requests have no extra cost: the client counts anyway, and this collector
translates on each scrape. No metric names a user or a secret. Needs the extra ``prometheus``.

::

    async with FlowMate(...) as fm:
        instrument(fm)                  # in prometheus_client's own registry
        ...
"""

import platform
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from weakref import WeakKeyDictionary

from flowmate_async import __version__
from flowmate_async.engine.coordination import CoordinationStatistics
from flowmate_async.errors import ConfigurationError
from flowmate_async.integrations.metrics_server import serve_metrics
from flowmate_async.integrations.observable import Observable
from flowmate_async.stats import Latency, Stats

try:
    from prometheus_client import (
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        generate_latest,
    )
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import REGISTRY, Collector
except ImportError as _missing:
    raise ConfigurationError(
        "Prometheus metrics need prometheus_client, which is not installed",
        advice="Install the extra: pip install 'flowmate-async[prometheus]'",
    ) from _missing

from flowmate_async.integrations.health_gauge import health_gauge

__all__ = [
    "FlowMateCollector",
    "instrument",
    "is_ready",
    "serve",
]

_BOUNDS = tuple(2.0**power for power in range(-11, 7))
"""Upper bounds of the latency histogram in seconds: 0.5 ms to 64 s. All are bounds of the client's own
histogram, so that counts are exact."""

_BREAKER_STATES = ("closed", "open", "half-open")


def instrument(
    fm: Observable, *, registry: CollectorRegistry = REGISTRY, client: str = ""
) -> AbstractContextManager[None]:
    """Register this client's metrics: until the end of the block in ``with``, or for good as a statement.

    Args:
        fm: the client.
        registry: where the metrics appear.
        client: the value of a label ``client`` on all of its metrics; required for a second client in the
            same registry.

    Raises:
        ConfigurationError: the registry has metrics of another client with this name.
    """
    clients = _registered.get(registry)
    if clients is None:
        clients = _Clients()
        _register(registry, clients)
        _registered[registry] = clients
    if client in clients.named:
        raise ConfigurationError(
            "the registry has the metrics of another client",
            advice="Give each client a name: instrument(fm, client=…)",
        )
    clients.named[client] = fm
    return _Registration(registry, clients, client)


def _register(registry: CollectorRegistry, clients: "_Clients") -> None:
    try:
        registry.register(clients)
    except ValueError:
        pass
    else:
        return
    raise ConfigurationError(
        "the registry has metrics with these names already", advice="Use a registry of its own"
    )


class _Clients(Collector):
    """The collector of one registry: the metrics of all clients, each family once."""

    def __init__(self) -> None:
        self.named: dict[str, Observable] = {}

    def describe(self) -> Iterator[Metric]:
        """Return nothing: the clients come later, and so do their metrics."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the current metrics of all clients."""
        families: dict[str, Metric] = {}
        for name, fm in list(self.named.items()):
            for metric in FlowMateCollector(fm).collect():
                family = families.setdefault(metric.name, metric)
                samples = metric.samples
                if name:
                    samples = [one._replace(labels={**one.labels, "client": name}) for one in samples]
                family.samples = samples if family is metric else [*family.samples, *samples]
        return iter(families.values())


_registered: WeakKeyDictionary[CollectorRegistry, _Clients] = WeakKeyDictionary()


class _Registration(AbstractContextManager[None]):
    """The registration of one client, which the end of a block takes back."""

    def __init__(self, registry: CollectorRegistry, clients: _Clients, client: str) -> None:
        self._registry = registry
        self._clients = clients
        self._client = client

    def __enter__(self) -> None:
        """Leave the metrics registered."""

    def __exit__(self, *failure: object) -> None:
        """Remove the client's metrics."""
        if self._clients.named.pop(self._client, None) is not None and not self._clients.named:
            self._registry.unregister(self._clients)
            del _registered[self._registry]


@asynccontextmanager
async def serve(
    fm: Observable,
    *,
    host: str = "127.0.0.1",
    port: int = 9464,
    ready: Callable[[], bool] | None = None,
    degraded: Callable[[], str] | None = None,
) -> AsyncIterator[int]:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` on the running loop; yields the port.

    Args:
        fm: the client.
        host: the address to listen on; ``0.0.0.0`` for all.
        port: 0 for a free one.
        ready: decides the status of ``/readyz``; :func:`is_ready` of the client when left out.
        degraded: returns the reason in ``/readyz``; :func:`problem_of` the client when left out.

    Raises:
        ConfigurationError: cannot listen on the port.
    """
    registry = CollectorRegistry()
    with instrument(fm, registry=registry):
        async with serve_metrics(
            lambda: generate_latest(registry),
            content_type=CONTENT_TYPE_LATEST,
            ready=ready or (lambda: is_ready(fm)),
            degraded=degraded or (lambda: problem_of(fm)),
            host=host,
            port=port,
        ) as listening_on:
            yield listening_on


def is_ready(fm: Observable) -> bool:
    """Return whether the client can work.

    It cannot while the breaker is open, or while a required coordination is unavailable.

    Args:
        fm: the client.
    """
    stats = fm.stats()
    can_work = stats.coordination is None or stats.coordination.working
    return can_work and stats.traffic.breaker.state != "open"


def problem_of(fm: Observable) -> str:
    """Return why the processes cannot share as they should; empty if they can.

    Args:
        fm: the client.
    """
    shared = fm.stats().coordination
    if shared is None or (shared.connected and not shared.differing):
        return ""
    if not shared.connected:
        return f"Redis cannot be used: {shared.problem}"
    return f"processes were told different things: {', '.join(shared.differing)}"


class FlowMateCollector(Collector):
    """A Prometheus collector over one client.

    Collect on the client's event loop or between its steps: the counters change there.

    Args:
        fm: the client.
    """

    def __init__(self, fm: Observable) -> None:
        self._fm = fm

    def describe(self) -> Iterator[Metric]:
        """Return the metrics' names, by which a registry detects a second client."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return the current metrics."""
        stats = self._fm.stats()
        labels = ("version", "python", "transport")
        build = GaugeMetricFamily("flowmate_build_info", "Always 1.", labels=labels)
        build.add_metric((__version__, platform.python_version(), stats.transport), 1.0)
        yield build
        yield from _requests(stats)
        yield from _flow_control(stats)
        yield from _credentials(stats)
        yield from _users(stats)
        if stats.coordination is not None:
            yield from _coordination(stats.coordination)
        if stats.health is not None:
            counts = {(state, kind): n for state, of in stats.health.items() for kind, n in of.items()}
            yield health_gauge(counts)


def _coordination(shared: CoordinationStatistics) -> Iterator[Metric]:
    yield _gauge("flowmate_coordination_connected", "1 while processes can share.", float(shared.connected))
    yield _counter("flowmate_coordination_outages", "How often they could not.", shared.outages)
    yield _gauge("flowmate_coordination_processes", "Processes that share now.", shared.processes)
    differing = GaugeMetricFamily(
        "flowmate_coordination_differing", "1 for a setting in which processes differ.", labels=("setting",)
    )
    for name in shared.differing:
        differing.add_metric((name,), 1.0)
    yield differing


def _requests(stats: Stats) -> Iterator[Metric]:
    answers = CounterMetricFamily("flowmate_requests", "Answers of FlowMate.", labels=("endpoint", "status"))
    for endpoint, statuses in stats.answers.items():
        for status, count in statuses.items():
            answers.add_metric((endpoint, str(status)), count)
    yield answers
    yield _counters("flowmate_requests_broken", "Requests without an answer.", "failure", stats.broken)
    yield _counters("flowmate_retries", "Requests sent again.", "error", stats.retries)
    yield _counters(
        "flowmate_retries_refused",
        "Requests not sent again: the retry budget was spent.",
        "error",
        stats.retries_refused,
    )
    seconds = HistogramMetricFamily(
        "flowmate_request_seconds",
        "Seconds from sending to the last byte, without waiting for the rate.",
        labels=("endpoint",),
    )
    for endpoint, latency in stats.latency.items():
        seconds.add_metric((endpoint,), _cumulated(latency), latency.mean_seconds * latency.count)
    yield seconds


def _flow_control(stats: Stats) -> Iterator[Metric]:
    limiter, breaker = stats.traffic.limiter, stats.traffic.breaker
    yield _counter("flowmate_throttled", "Answers that asked everybody to wait.", stats.throttled)
    yield _gauge("flowmate_requests_in_flight", "Requests on the wire.", stats.traffic.in_flight)
    yield _gauge("flowmate_requests_waiting", "Requests that wait for their turn.", limiter.waiting)
    if limiter.rate is not None:
        yield _gauge("flowmate_rate_limit", "Requests per second, as configured.", limiter.rate)
    if limiter.current_rate is not None:
        yield _gauge("flowmate_rate", "Requests per second allowed now.", limiter.current_rate)
    yield _gauge("flowmate_concurrency_limit", "Most requests in flight, as configured.", limiter.concurrency)
    yield _gauge("flowmate_concurrency", "Most requests in flight now.", limiter.current_concurrency)
    yield _gauge("flowmate_paused_seconds", "For how long nobody may send.", limiter.paused_seconds)
    state = GaugeMetricFamily("flowmate_breaker_state", "1 for the state it is in.", labels=("state",))
    for name in _BREAKER_STATES:
        state.add_metric((name,), float(name == breaker.state))
    yield state
    yield _counter("flowmate_breaker_opened", "How often the breaker opened.", breaker.opened)
    yield _counter("flowmate_breaker_refused", "Requests that it kept from being sent.", breaker.refused)
    yield _gauge(
        "flowmate_quarantined", "Secrets left alone after a broken refresh.", stats.traffic.quarantined
    )


def _credentials(stats: Stats) -> Iterator[Metric]:
    cache = stats.cache
    yield _counters("flowmate_flights_joined", "Callers that shared a request.", "flight", stats.joined)
    made = CounterMetricFamily("flowmate_tokens_made", "Impersonations.", labels=("reason",))
    made.add_metric(("first",), stats.tokens_made - stats.tokens_replaced)
    made.add_metric(("rejected",), stats.tokens_replaced)
    yield made
    yield _counter("flowmate_relisted", "Listings fetched again.", stats.relisted)
    yield _gauge("flowmate_cache_entries", "Credentials in the cache.", cache.entries)
    yield _counter("flowmate_cache_hits", "Credentials served from the cache.", cache.hits)
    yield _counter("flowmate_cache_misses", "Credentials that were waited for.", cache.misses)
    yield _counter("flowmate_cache_refreshes", "Credentials fetched by the cache.", cache.refreshes)
    yield _counter("flowmate_cache_stale", "Credentials served after a failed refresh.", cache.stale_served)


def _users(stats: Stats) -> Iterator[Metric]:
    yield _counters("flowmate_users", "Users of syncs.", "outcome", stats.users)
    yield _counters("flowmate_users_failed", "Users that failed.", "error", stats.user_errors)
    yield _counter("flowmate_secrets_stored", "Credentials stored or found unchanged.", stats.stored)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _cumulated(latency: Latency) -> list[tuple[str, float]]:
    """Return Prometheus' cumulative buckets."""
    bounds = [(str(bound), float(_up_to(latency, bound))) for bound in _BOUNDS]
    return [*bounds, ("+Inf", float(latency.count))]


def _up_to(latency: Latency, bound: float) -> int:
    return sum(count for upper, count in latency.buckets.items() if upper <= bound)
