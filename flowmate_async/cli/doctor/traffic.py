"""Whether the configured rate and concurrency fit, tested with some listings sent as in a sync."""

import time

import anyio

from flowmate_async.cli.doctor.findings import Finding, ok, skipped, warning
from flowmate_async.client import FlowMate
from flowmate_async.contract.protocol import LIST

_PATIENCE_SECONDS = 20.0
_ENOUGH = 0.9
"""The share of the rate that the concurrency must allow."""


async def check_rate(fm: FlowMate, username: str, *, probe: int) -> Finding:
    """Send some listings of one user, and judge the throttling and the latency.

    Args:
        fm: an entered client with the rate to be judged.
        username: whose secrets are listed.
        probe: how many requests.
    """
    if not probe:
        return skipped("rate", "not tried, as --probe 0 says")
    before = fm.stats()
    began = time.monotonic()
    with anyio.move_on_after(_PATIENCE_SECONDS):
        async with anyio.create_task_group() as group:
            for _ in range(probe):
                group.start_soon(fm.list_secrets, username)
    seconds = time.monotonic() - began
    after = fm.stats()
    sent = after.requests.get(LIST, 0) - before.requests.get(LIST, 0)
    limiter = after.traffic.limiter
    if throttled := after.throttled - before.throttled:
        return warning(
            "rate",
            f"FlowMate throttled {throttled} of {sent} requests sent at {_rate(limiter.rate)}",
            f"Lower --rate; this client has gone down to {_rate(limiter.current_rate)} by itself",
        )
    latency = after.latency[LIST].p50_seconds if LIST in after.latency else seconds
    possible = limiter.concurrency / max(latency, 1e-6)
    told = f"{sent} requests in {seconds:.1f} s, none throttled; median latency {latency * 1000:.1f} ms"
    if limiter.rate is not None and possible < _ENOUGH * limiter.rate:
        return warning(
            "rate",
            f"{told}: {limiter.concurrency} in flight allow {possible:,.0f} of {_rate(limiter.rate)}",
            f"Raise --concurrency to {int(limiter.rate * latency) + 1}, or live with the lower rate",
        )
    return ok("rate", f"{told}: {limiter.concurrency} in flight allow {possible:,.0f} requests/s")


def _rate(rate: float | None) -> str:
    return "no rate limit" if rate is None else f"{rate:,.3g} requests/s"
