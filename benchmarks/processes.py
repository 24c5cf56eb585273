"""(f) Two processes against one: a sweep over wire in each, one nginx for all, nothing pinned.

Both processes are open all the time. In turn, one of them works while the other waits, or both work at
once. On a machine with two cores the server needs its part of them as well, so that two processes cannot
bring twice as much there.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import nginx
from throughput import ENTRIES, Process, opened

CONTENDER = "flowmate wire, sweep"


async def together(processes: list[Process], seconds: float) -> float:
    """Requests/s of all of them, working at once."""
    rounds = await asyncio.gather(*(process.round(seconds) for process in processes))
    return sum(one.requests for one in rounds) / max(one.seconds for one in rounds)


async def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """One and two, in turn."""
    if not nginx.installed():
        raise SystemExit("nginx is not installed")
    async with nginx.running(None) as server, contextlib.AsyncExitStack() as stack:
        both = [
            await stack.enter_async_context(
                opened(ENTRIES[CONTENDER], server.http, sys.executable, core=None)
            )
            for _ in range(2)
        ]
        found: dict[str, list[float]] = {"one": [], "two": []}
        for _ in range(rounds):
            found["one"].append(await together(both[:1], seconds))
            found["two"].append(await together(both, seconds))
    one, two = statistics.median(found["one"]), statistics.median(found["two"])
    return {
        "contender": CONTENDER,
        "cores": os.cpu_count(),
        "one_per_second": one,
        "two_per_second": two,
        "ratio": two / one,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = asyncio.run(measure(options.rounds, options.seconds))
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
