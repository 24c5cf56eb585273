"""(h) Tenants whose accounts differ in size: how much of the concurrency does a sweep use?

The upstream is a bare asyncio server in a process of its own. It answers after 20 ms, whatever is asked, so
the ideal is known: 64 requests in flight all the time, but for the requests of one account that must follow
each other (its token, its listing page by page, then its secrets).
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from flowmate_async import FlowMate
from flowmate_async.bench.rounds import CONCURRENCY
from flowmate_async.sync.outcomes import UserSynced

LATENCY_SECONDS = 0.02
PAGE_SIZE = 100
SERVE_SECONDS = 120
TENANTS = ((1, 600), (8, 300), (64, 40), (1000, 4))
"""Accounts, and secrets per account."""

_TOKEN = json.dumps({"token": "t" * 40, "id": "4" * 24}).encode()
_VALUE = {"username": "u", "passphrase": "a-passphrase"}


class Upstream(asyncio.Protocol):
    """One connection of the server.

    Args:
        secrets: per account.
    """

    def __init__(self, secrets: int) -> None:
        self._secrets = secrets
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request as soon as it is complete, after the latency."""
        self._unread += data
        head, end, body = self._unread.partition(b"\r\n\r\n")
        if not end or len(body) < _content_length(head):
            return
        self._unread = b""
        target = head.split(b" ", 2)[1].decode()
        answer = self._answer(target)
        asyncio.get_running_loop().call_later(
            LATENCY_SECONDS,
            self._transport.write,
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(answer), answer),
        )

    def _answer(self, target: str) -> bytes:
        path, _, query = target.partition("?")
        if path == "/impersonate":
            return _TOKEN
        if path != "/secrets/":
            return json.dumps(
                {"data": {"_id": path.rsplit("/", 1)[1], "type": "SIMPLE", "value": _VALUE}}
            ).encode()
        size, number = (int(part.partition("=")[2]) for part in query.split("&"))
        ids = range(self._secrets)[(number - 1) * size : number * size]
        items = [{"_id": f"{number:024x}", "name": "n", "owners": [], "type": "SIMPLE"} for number in ids]
        meta = {"page": number, "perPage": size, "total": self._secrets}
        return json.dumps({"data": items, "meta": meta}).encode()


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def serve(secrets: int, ready: Connection) -> None:
    """Serve accounts of so many secrets until the process is ended, for two minutes at most."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Upstream(secrets), "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await asyncio.sleep(SERVE_SECONDS)

    uvloop.run(run())


def ideal_seconds(users: int, secrets: int) -> float:
    """Return the shortest time in which so many accounts can be read."""
    pages = max(1, math.ceil(secrets / PAGE_SIZE))
    everything = users * (1 + pages + secrets) * LATENCY_SECONDS / CONCURRENCY
    in_sequence = (1 + pages) * LATENCY_SECONDS
    return max(everything, in_sequence + users * secrets * LATENCY_SECONDS / CONCURRENCY)


async def sweep(port: int, users: int, transport: str) -> tuple[int, float]:
    """Sweep, and return the number of secrets and the seconds."""
    async with FlowMate(
        admin_token="admin",
        base_url=f"http://127.0.0.1:{port}",
        rate=None,
        concurrency=CONCURRENCY,
        page_size=PAGE_SIZE,
        transport=transport,
    ) as fm:
        found, began = 0, time.perf_counter()
        async for outcome in fm.sweep(f"user-{number}" for number in range(users)):
            found += len(outcome.secrets) if isinstance(outcome, UserSynced) else 0
        return found, time.perf_counter() - began


def measure(transport: str, rounds: int) -> list[dict[str, Any]]:
    """Measure every tenant over one transport."""
    rows = []
    for users, secrets in TENANTS:
        here, there = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(secrets, there), daemon=True)
        server.start()
        try:
            port, seconds = here.recv(), []
            for _ in range(rounds):
                found, taken = uvloop.run(sweep(port, users, transport))
                if found != users * secrets:
                    raise RuntimeError(f"{found} secrets of {users * secrets}")
                seconds.append(taken)
        finally:
            server.terminate()
            server.join()
        ideal, taken = ideal_seconds(users, secrets), statistics.median(seconds)
        rows.append(
            {
                "transport": transport,
                "users": users,
                "secrets": secrets,
                "ideal_seconds": ideal,
                "seconds": taken,
                "share": ideal / taken,
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transports", nargs="*", default=["wire", "aiohttp"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row for transport in options.transports for row in measure(transport, options.rounds)]
    for row in rows:
        print(
            f"{row['transport']:8} {row['users']:>5,} accounts of {row['secrets']:>3} secrets: "
            f"{row['seconds']:6.2f} s, ideal {row['ideal_seconds']:5.2f} s: {row['share']:.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
