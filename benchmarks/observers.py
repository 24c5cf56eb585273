"""What observers cost: CPU µs a request of a sweep over a transport in memory, by who looks on.

Interleaved round by round in one process, medians; the first row has no observer, the second has
Prometheus, whose collector reads ``fm.stats()`` at a scrape and adds nothing to a request.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import ExitStack
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from prometheus_client import CollectorRegistry, generate_latest

from flowmate_async import FlowMate
from flowmate_async.bench.canned import ANSWERS
from flowmate_async.integrations import opentelemetry, prometheus
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

RESPONSES = {path: json_response(answer.body) for path, answer in ANSWERS.items()}


def answer(_method: str, path: str, _headers: object, _body: bytes | None) -> Any:
    """FlowMate in memory, at once."""
    return RESPONSES[path.partition("?")[0]]


def nobody(_fm: FlowMate, _stack: ExitStack) -> None:
    """No observer."""


def scraped(fm: FlowMate, stack: ExitStack) -> None:
    """Prometheus, with a scrape before and after."""
    registry = CollectorRegistry()
    stack.enter_context(prometheus.instrument(fm, registry=registry))
    generate_latest(registry)
    stack.callback(generate_latest, registry)


def traced(sampler: Any, ids: Any) -> Any:
    """OpenTelemetry with the SDK, exporting to nowhere."""

    def observe(fm: FlowMate, stack: ExitStack) -> None:
        reader = InMemoryMetricReader()
        providers: dict[str, Any] = {
            "tracer_provider": TracerProvider(sampler=sampler),
            "meter_provider": MeterProvider(metric_readers=[reader]),
        }
        stack.enter_context(opentelemetry.instrument(fm, ids=ids, **providers))

    return observe


def without_sdk(fm: FlowMate, stack: ExitStack) -> None:
    """OpenTelemetry's API alone: nothing is recorded."""
    stack.enter_context(opentelemetry.instrument(fm))


OBSERVERS = {
    "none": nobody,
    "Prometheus": scraped,
    "OpenTelemetry, no SDK": without_sdk,
    "OpenTelemetry, nothing sampled": traced(ALWAYS_OFF, "omit"),
    "OpenTelemetry, all sampled": traced(ALWAYS_ON, "omit"),
    "OpenTelemetry, all sampled, ids hashed": traced(ALWAYS_ON, "hash"),
}


async def cost(observer: Any, users: int) -> float:
    """CPU µs a request."""
    names = [f"user-{number}" for number in range(users)]
    async with FlowMate(admin_token="admin", transport=MemoryTransport(answer), rate=None) as fm:
        with ExitStack() as stack:
            observer(fm, stack)
            began = time.process_time()
            async for _ in fm.sweep(names):
                pass
            spent = time.process_time() - began
        return spent / sum(fm.stats().statuses.values()) * 1e6


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rounds: dict[str, list[float]] = {name: [] for name in OBSERVERS}
    for _ in range(options.rounds):
        for name, observer in OBSERVERS.items():
            rounds[name].append(asyncio.run(cost(observer, options.users)))
    base = statistics.median(rounds["none"])
    print("| observer | CPU µs a request | more |\n| --- | ---: | ---: |")
    for name, spent in rounds.items():
        median = statistics.median(spent)
        print(f"| {name} | {median:.1f} | {median - base:+.1f} |")


if __name__ == "__main__":
    main()
