"""The credential cache in figures: a hit, waiting for one flight, bytes an entry.

(a) ``await fm.credential(...)`` of a fresh credential against the hit of an ``alru_cache``, in the same
    process, interleaved round by round; medians, and the median of the rounds' ratios.
(b) 10,000 tasks that wait for one flight: from the first task's start to the last one's end, the tasks' own
    creation included, without the request itself (a transport in memory); medians.
(c) 1,000,000 cached OAuth credentials: what tracemalloc counts between before and after, divided by their
    number. Counted are the entry, its dates, its place in the cache, the decoded secret with its strings and
    the key; the resident set's growth, which counts the allocator's own too, is printed beside it, taken in a
    process that does not trace.
"""

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from async_lru import alru_cache

from flowmate_async import FlowMate
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.values.secrets import Secret, decode_secret

EXPIRES = (datetime.now(UTC) + timedelta(hours=12)).isoformat(timespec="milliseconds")


def body_of(secret_id: str) -> bytes:
    """A GET's ``data`` as upstream answers it, for a typical OAuth credential."""
    return msgspec.json.encode(
        {
            "_id": secret_id,
            "name": "an app",
            "type": "OA2_AUTHORIZATION_CODE",
            "owners": [{"id": "6" * 24, "type": "USER"}],
            "value": {
                "authClientId": "5" * 24,
                "accessToken": f"token-of-{secret_id}-" + "x" * 120,
                "scope": "read write",
                "expires": EXPIRES,
                "externalId": f"ext-{secret_id}",
            },
            "createdAt": "2026-01-01T00:00:00.000Z",
            "updatedAt": "2026-01-01T00:00:00.000Z",
        }
    )


async def answer(method: str, path: str, _headers: object, _body: bytes | None) -> Any:
    """FlowMate in memory; a GET takes a turn of the loop, so that others can join it."""
    if method == "POST":
        return json_response(b'{"token":"token","id":"000000000000000000000000"}')
    await asyncio.sleep(0.001)
    return json_response(b'{"data":' + body_of(path.rpartition("/")[2]) + b"}")


def client(**options: Any) -> FlowMate:
    """A client without a network and without a rate limit."""
    return FlowMate(admin_token="admin", transport=MemoryTransport(answer), rate=None, **options)


async def hits(rounds: int, calls: int) -> dict[str, float]:
    """(a) Nanoseconds a hit, both ways, and their ratio."""

    @alru_cache(maxsize=1024)
    async def cached(username: str, secret_id: str) -> Secret:
        return decode_secret(body_of(f"{username}{secret_id}"), keep_refresh_fields=False)

    async with client() as fm:
        await fm.credential("ali", "s1")
        await cached("ali", "s1")
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(await _timed(fm.credential, calls))
            theirs.append(await _timed(cached, calls))
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return {
        "credential_hit_ns": round(statistics.median(ours), 1),
        "alru_cache_hit_ns": round(statistics.median(theirs), 1),
        "ratio": round(statistics.median(ratios), 3),
    }


async def _timed(call: Callable[..., Any], calls: int) -> float:
    began = time.perf_counter_ns()
    for _ in range(calls):
        await call("ali", "s1")
    return (time.perf_counter_ns() - began) / calls


async def waiters(rounds: int, count: int) -> dict[str, float]:
    """(b) Microseconds a waiter of one flight: of the flight itself, and of ``credential()`` as a whole."""
    bare = [await _crowd(count, in_flight=False) for _ in range(rounds)]
    flown = [await _crowd(count, in_flight=True) for _ in range(rounds)]
    took = []
    async with client() as fm:
        for number in range(rounds):
            secret_id = f"s{number}"
            gc.collect()
            began = time.perf_counter()
            got = await asyncio.gather(*(fm.credential("ali", secret_id) for _ in range(count)))
            took.append((time.perf_counter() - began) / count * 1e6)
            assert all(secret is got[0] for secret in got)
        assert fm.stats().requests["GET /secrets/{id}"] == rounds
    return {
        "waiters": count,
        "flight_us_per_waiter": round(statistics.median(flown) - statistics.median(bare), 2),
        "bare_task_us_per_waiter": round(statistics.median(bare), 2),
        "credential_us_per_waiter": round(statistics.median(took), 2),
    }


async def _crowd(count: int, *, in_flight: bool) -> float:
    """Microseconds a task that waits for one event: at the event itself, or in a flight that waits for it."""
    event = asyncio.Event()

    async def upstream(method: str, path: str, headers: object, body: bytes | None) -> Any:
        await event.wait()
        return await answer(method, path, headers, body)

    async with FlowMate(admin_token="admin", transport=MemoryTransport(upstream), rate=None) as fm:
        event.set()
        await fm.impersonate("ali")
        event.clear()

        async def wait() -> object:
            return await (fm.get_secret("ali", "s1") if in_flight else event.wait())

        gc.collect()
        began = time.perf_counter()
        tasks = [asyncio.create_task(wait()) for _ in range(count)]
        await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*tasks)
        return (time.perf_counter() - began) / count * 1e6


def fill(count: int, *, traced: bool) -> float:
    """(c) Bytes an entry, by tracemalloc or by the resident set."""
    fm = client(cache_capacity=count)
    credentials = fm._parts.credentials  # noqa: SLF001 - filled without a million requests
    keep = credentials._keep  # noqa: SLF001
    gc.collect()
    if traced:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0] if traced else resident_bytes()

    async def all_of_them() -> None:
        for number in range(count):
            secret_id = f"{number:024x}"
            secret = decode_secret(body_of(secret_id), keep_refresh_fields=False)
            keep((f"user-{number // 10}", secret_id), secret)

    asyncio.run(all_of_them())
    gc.collect()
    after = tracemalloc.get_traced_memory()[0] if traced else resident_bytes()
    assert credentials.statistics().entries == count
    return (after - before) / count


def resident_bytes() -> int:
    """The resident set of this process (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def memory(entries: int) -> dict[str, float]:
    """(c) Both counts, each in a process of its own."""
    found = {"entries": entries}
    for how in ("traced", "resident"):
        command = [sys.executable, __file__, "--fill", how, "--entries", str(entries)]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        found[f"{how}_bytes_per_entry"] = round(float(ran.stdout), 1)
    return found


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=50_000, help="hits a round")
    parser.add_argument("--waiters", type=int, default=10_000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--fill", choices=["traced", "resident"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        print(fill(options.entries, traced=options.fill == "traced"))
        return
    figures = {
        "hit": asyncio.run(hits(options.rounds, options.calls)),
        "one_flight": asyncio.run(waiters(options.rounds, options.waiters)),
        "memory": memory(options.entries),
    }
    for name, numbers in figures.items():
        for key, value in numbers.items():
            print(f"{name:12} {key:28} {value:>14,}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
