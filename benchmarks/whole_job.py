"""(g) The whole job beside a script written by hand: a sweep, and a sync into a new SQLite file.

``flowmate_async/bench/by_hand.py`` is the script. Each contender reads the same number of users (five
secrets, seven requests each) from one nginx, in a separate process on the client's core. They take turns,
round after round. The figures are medians of wall time and CPU time per user. The ratios are of CPU time,
since nginx and the client wait for each other now and then.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import nginx
import uvloop
from cores import CLIENT, SERVER, pinned_to
from sync_stages import swept, to_sqlite

from flowmate_async import FlowMate
from flowmate_async.bench import by_hand
from flowmate_async.bench.canned import ADMIN_TOKEN, SECRET_IDS
from flowmate_async.bench.rounds import CONCURRENCY, Round, Target

JOBS = ("sweep", "sync")
BY_HAND = "by hand"
CONTENDERS = (BY_HAND, "aiohttp", "wire")
"""The script, and this library over each of its transports."""

WARM_UP_USERS = 100

Work = Callable[[list[str]], Awaitable[None]]


def usernames(prefix: str, count: int) -> list[str]:
    """So many usernames."""
    return [f"{prefix}-{number}@tenant.example" for number in range(count)]


async def measured(work: Work, users: int) -> Round:
    """One round; users take the place of requests."""
    names = usernames("user", users)
    cpu, began = time.process_time(), time.perf_counter()
    await work(names)
    return Round(users, time.perf_counter() - began, time.process_time() - cpu)


async def script(job: str, target: Target, users: int) -> Round:
    """A round of the script."""
    async with by_hand.opened(target) as api:

        async def read(names: list[str]) -> None:
            if await by_hand.sweep(api, names) != len(names) * len(SECRET_IDS):
                raise RuntimeError("the script did not read every secret")

        async def write(names: list[str]) -> None:
            with TemporaryDirectory(prefix="flowmate-bench-") as folder:
                database = by_hand.Database(Path(folder) / "credentials.db")
                try:
                    await by_hand.sweep(api, names, database)
                finally:
                    database.close()

        await read(usernames("warm", WARM_UP_USERS))
        return await measured(write if job == "sync" else read, users)


async def library(job: str, transport: str, target: Target, users: int) -> Round:
    """A round of this library."""
    async with FlowMate(
        admin_token=ADMIN_TOKEN,
        base_url=target.url,
        rate=None,
        concurrency=CONCURRENCY,
        transport=transport,
        ca_file=target.ca_file,
    ) as fm:

        async def read(names: list[str]) -> None:
            await swept(fm, names)

        async def write(names: list[str]) -> None:
            await to_sqlite(fm, names)

        await read(usernames("warm", WARM_UP_USERS))
        return await measured(write if job == "sync" else read, users)


def work_here(job: str, contender: str, target: Target, users: int) -> None:
    """Work one round in this process and print it as JSON."""
    if contender == BY_HAND:
        found = uvloop.run(script(job, target, users))
    else:
        found = uvloop.run(library(job, contender, target, users))
    print(msgspec.json.encode(found).decode())


async def in_a_process(job: str, contender: str, target: Target, users: int) -> Round:
    """Work one round in a process of its own, on the client's core."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--one", job, contender, "--users", str(users), "--url", target.url),
        *(["--ca-file", target.ca_file] if target.ca_file else []),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=pinned_to(CLIENT),
    )
    told, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{contender} failed")
    return msgspec.json.decode(told.splitlines()[-1], type=Round)


async def compare(target: Target, users: int, rounds: int) -> dict[str, Any]:
    """Return every contender's figures against one server, by job."""
    taken: dict[str, dict[str, list[Round]]] = {job: {name: [] for name in CONTENDERS} for job in JOBS}
    for _ in range(rounds):
        for job in JOBS:
            for name in CONTENDERS:
                taken[job][name].append(await in_a_process(job, name, target, users))
    return {job: {name: _figure(done) for name, done in found.items()} for job, found in taken.items()}


def _figure(rounds: list[Round]) -> dict[str, float]:
    return {
        "users_per_second": statistics.median(one.per_second for one in rounds),
        "wall_us_per_user": statistics.median(one.seconds / one.requests * 1e6 for one in rounds),
        "cpu_us_per_user": statistics.median(one.cpu_us for one in rounds),
    }


async def measure(users: int, rounds: int) -> dict[str, Any]:
    """Measure over HTTP, then over HTTPS."""
    if not nginx.installed():
        raise SystemExit("nginx is not installed")
    async with nginx.running(SERVER) as server:
        return {
            "users": users,
            "requests_per_user": 2 + len(SECRET_IDS),
            "http": await compare(server.http, users, rounds),
            "https": await compare(server.https, users, rounds),
        }


def show(figures: dict[str, Any]) -> None:
    """Print one line per figure."""
    for scheme in ("http", "https"):
        for job, found in figures[scheme].items():
            script_cpu = found[BY_HAND]["cpu_us_per_user"]
            for name, row in found.items():
                ratio = script_cpu / row["cpu_us_per_user"]
                print(
                    f"{scheme:6} {job:6} {name:8} {row['users_per_second']:>7,.0f} users/s "
                    f"{row['wall_us_per_user']:>7,.0f} µs wall {row['cpu_us_per_user']:>7,.0f} µs CPU  "
                    f"{ratio:.2f}"
                )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=2000, help="users per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("JOB", "CONTENDER"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--ca-file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        work_here(*options.one, Target(url=options.url, ca_file=options.ca_file), options.users)
        return
    figures = asyncio.run(measure(options.users, options.rounds))
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
