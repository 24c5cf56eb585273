"""Flow control against a strict limit: how much of it a sweep uses, and how it finds one it was not told.

The twin (``flowmate sandbox``, a process of its own) enforces a strict token bucket of R requests/s and burst
B. For each R, over sweeps without end:

- *told*: the client is configured with the same R and B. What passed in the first ten seconds, over ten times
  R; and the 429s, of which there must be none.
- *untold*: the client is configured with 4 R. What passed from second 5 to 15, over ten times R; and the
  share of 429s among the answers of that time.

Then *latency*: a twin that takes its time (50 ms) for each answer, and a sweep with a concurrency of 200.
What a sweep brought a second, over the lower of the ideal (200 / 50 ms) and what a bare loop over the same
transport brought: 200 tasks that ask for one secret again and again, with nothing of this library above the
transport. Both in turn, several times; the medians count.

Exits 1 when a figure is not what docs/reliability.md promises.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from flowmate_async import FlowMate, Limits
from flowmate_async.transport.base import Transport

TOLD, UNTOLD, UNTOLD_429, EFFICIENT = 0.98, 0.85, 0.02, 0.95
LATENCY_SECONDS, LATENCY_CONCURRENCY = 0.05, 200
USERS = 50_000
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Twin:
    """The twin's process, told what to do over its own routes."""

    def __init__(self, url: str, admin_token: str) -> None:
        self.url = url
        self.admin_token = admin_token

    async def become(self, **settings: object) -> None:
        """Change settings, and count from zero."""
        await self._ask("POST", "settings", json=settings)
        await self._ask("POST", "reset-stats")

    async def throttled(self) -> int:
        """How many 429s it has given."""
        return (await self._ask("GET", "stats"))["throttled"]

    async def _ask(self, method: str, what: str, **request: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, f"{self.url}/_sandbox/{what}", **request) as answer,
        ):
            answer.raise_for_status()
            return await answer.json() if method == "GET" else None


@contextlib.asynccontextmanager
async def running_twin() -> AsyncIterator[Twin]:
    """A twin in a process of its own, on the second core where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        env_file = Path(folder) / "twin.env"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flowmate_async", "sandbox"),
            *("--users", str(USERS), "--seed", "1", "--env-file", str(env_file)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            pin(process.pid, 1)
            while not (env_file.exists() and env_file.read_text().count("\n") == 2):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            words = dict(line.split("=", 1) for line in env_file.read_text().splitlines())
            yield Twin(words["FLOWMATE_BASE_URL"], words["FLOWMATE_ADMIN_TOKEN"])
        finally:
            process.terminate()
            await process.wait()


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, where the system can and there are two."""
    if len(CORES) > 1:
        os.sched_setaffinity(pid, {CORES[core]})


def names() -> Iterator[str]:
    """The twin's users, again and again."""
    return itertools.cycle(f"user-{number:06d}@tenant.example" for number in range(USERS))


@contextlib.asynccontextmanager
async def sweeping(twin: Twin, transport: str, **options: Any) -> AsyncIterator[FlowMate]:
    """A client in the midst of a sweep without end."""
    async with FlowMate(
        admin_token=twin.admin_token, base_url=twin.url, transport=transport, **options
    ) as fm:

        async def sweep() -> None:
            async with contextlib.aclosing(fm.sweep(names())) as outcomes:
                async for _ in outcomes:
                    pass

        task = asyncio.create_task(sweep())
        try:
            yield fm
        finally:
            task.cancel()
            await asyncio.wait([task])


def answered(fm: FlowMate) -> tuple[int, int]:
    """Answers so far that are no 429s, and 429s."""
    statuses = fm.stats().statuses
    throttled = statuses.get(429, 0)
    return sum(statuses.values()) - throttled, throttled


async def passed_between(fm: FlowMate, start: float, end: float) -> tuple[int, int]:
    """Answers and 429s from second ``start`` to second ``end`` of the client's life, which begins now."""
    await asyncio.sleep(start)
    before = answered(fm) if start else (0, 0)
    await asyncio.sleep(end - start)
    after = answered(fm)
    return after[0] - before[0], after[1] - before[1]


async def told(twin: Twin, transport: str, rate: float, burst: int) -> dict[str, Any]:
    """Configured with the very limit."""
    await twin.become(rate=rate, burst=burst)
    async with sweeping(twin, transport, rate=rate, burst=burst, concurrency=128) as fm:
        passed, _ = await passed_between(fm, 0, 10)
    throttled = await twin.throttled()
    good = passed >= TOLD * 10 * rate and throttled == 0
    return {
        "case": "told",
        "rate": rate,
        "burst": burst,
        "share": passed / (10 * rate),
        "429s": throttled,
        "good": good,
    }


async def untold(twin: Twin, transport: str, rate: float, burst: int) -> dict[str, Any]:
    """Configured with four times the limit."""
    await twin.become(rate=rate, burst=burst)
    async with sweeping(twin, transport, rate=4 * rate, burst=burst, concurrency=128) as fm:
        passed, throttled = await passed_between(fm, 5, 15)
        _, in_all = answered(fm)
    share, share_429 = passed / (10 * rate), throttled / (passed + throttled)
    good = share >= UNTOLD and share_429 < UNTOLD_429
    return {
        "case": "untold",
        "rate": rate,
        "burst": burst,
        "share": share,
        "share_of_429s": share_429,
        "429s_in_all": in_all,
        "good": good,
    }


async def latency(
    twin: Twin, transport: str, rounds: int, seconds: float, *, latency_seconds: float
) -> dict[str, Any]:
    """Many requests in flight to a twin that takes its time."""
    await twin.become(rate=None, latency_seconds=latency_seconds)
    swept, bare = [], []
    for _ in range(rounds):
        async with sweeping(twin, transport, rate=None, concurrency=LATENCY_CONCURRENCY) as fm:
            passed, _ = await passed_between(fm, 1, 1 + seconds)
            limit = fm.stats().traffic.limiter.current_concurrency
            swept.append(passed / seconds)
        bare.append(await bare_loop(twin, transport, seconds))
    await twin.become(latency_seconds=0.0)
    ideal = LATENCY_CONCURRENCY / latency_seconds
    reachable = min(ideal, statistics.median(bare))
    share = statistics.median(swept) / reachable
    return {
        "case": "latency",
        "latency_seconds": latency_seconds,
        "ideal_per_second": ideal,
        "bare_per_second": [round(value) for value in bare],
        "swept_per_second": [round(value) for value in swept],
        "share": share,
        "concurrency_at_the_end": limit,
        "good": share >= EFFICIENT or latency_seconds != LATENCY_SECONDS,  # others are told, not promised
    }


async def bare_loop(twin: Twin, transport: str, seconds: float) -> float:
    """GETs of one secret a second through the bare transport."""
    async with FlowMate(admin_token=twin.admin_token, base_url=twin.url, transport=transport) as fm:
        name = next(names())
        headers = (await fm.impersonate(name)).headers()
        secret_id = next(secret.id for secret in await fm.list_secrets(name) if secret.type == "SIMPLE")
        counted = 0
        end = asyncio.get_running_loop().time() + 1 + seconds

        async def ask(carrier: Transport) -> None:
            nonlocal counted
            limits = Limits(timeout_seconds=30, max_body_bytes=1 << 20)
            while (now := asyncio.get_running_loop().time()) < end:
                await carrier.send("GET", f"/secrets/{secret_id}", headers, None, limits)
                counted += now >= end - seconds

        await asyncio.gather(*(ask(fm._parts.transport) for _ in range(LATENCY_CONCURRENCY)))  # noqa: SLF001
        return counted / seconds


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every case in one run."""
    results = []
    pin(0, 0)
    async with running_twin() as twin:
        for rate in options.rates:
            burst = max(1, round(rate * options.burst_seconds))
            for case in (told, untold):
                results.append(await case(twin, options.transport, rate, burst))
                print(json.dumps(results[-1]), flush=True)
        for seconds in options.latencies if options.latency_rounds else ():
            results.append(
                await latency(twin, options.transport, options.latency_rounds, 3.0, latency_seconds=seconds)
            )
            print(json.dumps(results[-1]), flush=True)
    return results


def main() -> int:
    """Measure, print, and say whether every promise was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="*", default=[50, 500, 5000])
    parser.add_argument("--burst-seconds", type=float, default=0.1, help="B, as seconds of R")
    parser.add_argument("--transport", default="aiohttp")
    parser.add_argument("--latency-rounds", type=int, default=3)
    parser.add_argument("--latencies", type=float, nargs="*", default=[LATENCY_SECONDS], help="seconds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - an extra

        run = uvloop.run
    results = run(measure(options))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(result["good"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
