"""(e) A whole sync to SQLite: users/s, and what each stage has of the work.

Against the canned answers (five secrets a user, seven requests), over wire on uvloop, each stage is a
superset of the one before it, all of the same number of users, in turn; the share of a stage is what its
processor time a user has above the one before:

- *exchange*: the bare transport carries out the same seven requests a user, and nobody reads the answers.
- *sweep*: ``fm.sweep()``: impersonation, listings counted, flights, flow control, typed secrets.
- *engine*: ``fm.sync()`` to ``memory:``: the engine, checkpoints, events.
- *store*: ``fm.sync()`` to a new ``sqlite:///`` file: sealing, rows, transactions, files.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nginx
import uvloop
from cores import CLIENT, SERVER, pin

from flowmate_async import FlowMate, Limits, StoreKey, open_store
from flowmate_async.bench.canned import ADMIN_TOKEN, SECRET_IDS, USER_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Round, Target
from flowmate_async.contract import protocol
from flowmate_async.redaction import Headers
from flowmate_async.stores import Store
from flowmate_async.sync.outcomes import UserSynced

Stage = Callable[[FlowMate, list[str]], Awaitable[None]]
_ADMIN = Headers((("Authorization", f"Bearer {ADMIN_TOKEN}"),))
_USER = Headers((("Authorization", f"Bearer {USER_TOKEN}"),))
_LISTING = protocol.list_secrets(number=1, size=100).path
_LIMITS = Limits(timeout_seconds=30, max_body_bytes=1 << 20)


async def exchange(fm: FlowMate, usernames: list[str]) -> None:
    """The same requests through the bare transport."""
    transport, left = fm._parts.transport, iter(usernames)  # noqa: SLF001 - what is below the library's face

    async def work() -> None:
        for username in left:
            body = json.dumps({"username": username}).encode()
            await transport.send("POST", "/impersonate", _ADMIN, body, _LIMITS)
            await transport.send("GET", _LISTING, _USER, None, _LIMITS)
            for secret_id in SECRET_IDS:
                await transport.send("GET", f"/secrets/{secret_id}", _USER, None, _LIMITS)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


async def swept(fm: FlowMate, usernames: list[str]) -> None:
    """A sweep whose outcomes are looked at."""
    async for outcome in fm.sweep(usernames):
        if not isinstance(outcome, UserSynced) or len(outcome.secrets) != len(SECRET_IDS):
            raise RuntimeError(f"a user was not read: {outcome}")


async def to_memory(fm: FlowMate, usernames: list[str]) -> None:
    """A sync to a store without a disk."""
    await _synced(fm, open_store("memory:"), usernames)


async def to_sqlite(fm: FlowMate, usernames: list[str]) -> None:
    """A sync to a new file."""
    with TemporaryDirectory(prefix="flowmate-bench-") as folder:
        url = f"sqlite:///{Path(folder) / 'credentials.db'}"
        await _synced(fm, open_store(url, key=StoreKey.generate()), usernames)


async def _synced(fm: FlowMate, store: Store, usernames: list[str]) -> None:
    async with store:
        report = await fm.sync(store, usernames)
    if (report.synced, report.secrets) != (len(usernames), len(usernames) * len(SECRET_IDS)):
        raise RuntimeError(f"not everything was synced: {report}")


STAGES: dict[str, Stage] = {"exchange": exchange, "sweep": swept, "engine": to_memory, "store": to_sqlite}


async def measure(target: Target, users: int, rounds: int) -> dict[str, Any]:
    """Every stage in turn, round after round; users take the place of requests in a round."""
    numbers = itertools.count()
    taken: dict[str, list[Round]] = {name: [] for name in STAGES}
    async with FlowMate(
        admin_token=ADMIN_TOKEN,
        base_url=target.url,
        rate=None,
        concurrency=CONCURRENCY,
        transport="wire",
    ) as fm:
        for position in range(rounds + 1):
            for name, stage in STAGES.items():
                usernames = [f"user-{next(numbers)}@tenant.example" for _ in range(users)]
                cpu, began = time.process_time(), time.perf_counter()
                await stage(fm, usernames)
                found = Round(users, time.perf_counter() - began, time.process_time() - cpu)
                if position:  # the first warms up
                    taken[name].append(found)
    return _shares(taken) | {"users": users, "requests_a_user": 2 + len(SECRET_IDS)}


def _shares(taken: dict[str, list[Round]]) -> dict[str, Any]:
    cpu = {name: statistics.median(one.cpu_us for one in rounds) for name, rounds in taken.items()}
    before = [0.0, *itertools.islice(cpu.values(), len(cpu) - 1)]
    whole = list(cpu.values())[-1]
    return {
        "users_per_second": statistics.median(one.per_second for one in taken["store"]),
        "cpu_us_a_user": whole,
        "stages": {
            name: {"cpu_us_a_user": above - below, "share": (above - below) / whole}
            for (name, above), below in zip(cpu.items(), before, strict=True)
        },
    }


async def run(users: int, rounds: int) -> dict[str, Any]:
    """Measure against nginx."""
    if not nginx.installed():
        raise SystemExit("nginx is not installed")
    pin(0, CLIENT)
    async with nginx.running(SERVER) as server:
        return await measure(server.http, users, rounds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=1500, help="a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = uvloop.run(run(options.users, options.rounds))
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
