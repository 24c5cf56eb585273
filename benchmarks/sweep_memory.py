"""(d) Does a sweep's memory depend on the number of users?

A sweep of N users over a transport in memory (canned answers, one secret a user), each N in a process of its
own; the figure is the peak of the resident set. The usernames come from a generator, as from a cursor.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from flowmate_async import FlowMate
from flowmate_async.bench.canned import ANSWERS, SECRET_ID
from flowmate_async.redaction import Headers
from flowmate_async.sync.outcomes import UserSynced
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.transport.base import Response

USERS = (1_000, 10_000, 100_000, 1_000_000)
SMALL, LARGE, MOST_GROWTH_BYTES = 10_000, 1_000_000, 20 * 1024 * 1024


def _listing_of_one() -> bytes:
    page = msgspec.json.decode(ANSWERS["/secrets/"].body)
    page["data"] = [item for item in page["data"] if item["_id"] == SECRET_ID]
    page["meta"]["total"] = 1
    return msgspec.json.encode(page)


_BODIES = {path: answer.body for path, answer in ANSWERS.items()} | {"/secrets/": _listing_of_one()}


async def answer(_method: str, path: str, _headers: Headers, _body: bytes | None) -> Response:
    """The canned answer, after a turn of the loop, as from a network."""
    await asyncio.sleep(0)
    return json_response(_BODIES[path.partition("?")[0]])


def names(users: int) -> Iterator[str]:
    """So many usernames, none of which is kept."""
    return (f"user-{number:08d}@tenant.example" for number in range(users))


async def sweep(users: int) -> dict[str, Any]:
    """Sweep so many users in this process."""
    began = time.perf_counter()
    seen = 0
    async with FlowMate(admin_token="admin", transport=MemoryTransport(answer), rate=None) as fm:
        async for outcome in fm.sweep(names(users)):
            if not isinstance(outcome, UserSynced) or len(outcome.secrets) != 1:
                raise RuntimeError(f"a user was not read: {outcome}")
            seen += 1
    return {"users": seen, "peak_bytes": peak_bytes(), "seconds": round(time.perf_counter() - began, 2)}


def peak_bytes() -> int:
    """The largest the resident set has been (Linux; ``ru_maxrss`` would count the parent's as well)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def in_a_process(users: int) -> dict[str, Any]:
    """Sweep so many users in a process of its own."""
    command = [sys.executable, __file__, "--sweep", str(users)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def main() -> int:
    """Measure, print, and say whether the largest sweep took hardly more than the small one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, nargs="*", default=USERS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sweep", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sweep:
        print(json.dumps(asyncio.run(sweep(options.sweep))))
        return 0
    figures = []
    for users in options.users:
        figures.append(in_a_process(users))
        print(json.dumps(figures[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    peaks = {found["users"]: found["peak_bytes"] for found in figures}
    growth = peaks.get(LARGE, 0) - peaks.get(SMALL, 0)
    return 0 if growth <= MOST_GROWTH_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
