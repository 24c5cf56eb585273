"""Soak: workers that ask for a credential on every job, against a twin in another process.

``--jobs-per-second`` jobs (5,000) a second over ``--secrets`` (500) OAuth secrets for ``--seconds``. Lifes
are short: ``--life`` seconds (15) instead of an hour, upstream's refresh window a third of it instead of 15
minutes, and the client's :class:`FreshnessPolicy` scaled alike (early refresh with 20 to 30 % of the life
left, a cool-down of 3 %). Of the requests ``--faults`` (2 %) are answered 503, reset before they are sent, or
delayed, drawn from a seed; twice a lifetime all user tokens are revoked.

Each access token carries its secret's id and its end, so that every job judges what it got at the moment it
got it: of this secret, issued by the twin, not expired. At the end: jobs, invalid jobs (must be 0), and how
often each secret was refreshed for each of its lifetimes (must be at most 1.05: a refresh replaces a token
when it is nearly over, and nobody refreshes twice). A lifetime is ``life - early``, since early refreshing is
meant; ``early`` is the widest, 30 %. Exits 1 when a number is not as it must be.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowmate_async import FlowMate
from flowmate_async.contract.freshness import FreshnessPolicy
from flowmate_async.engine.retry import RetryPolicy
from flowmate_async.errors import FlowMateError
from flowmate_async.redaction import Headers
from flowmate_async.transport.aiohttp import AiohttpTransport
from flowmate_async.transport.base import Limits, Response, TransportError
from flowmate_async.transport.tls import client_context

TWIN = Path(__file__).with_name("soak_twin.py")
EARLY = (0.20, 0.30)
NEED = 0.05
TICKS_PER_SECOND = 50
MOST_REFRESHES_PER_LIFETIME = 1.05


class FaultyTransport:
    """A transport that fails a share of the requests before they are sent, or delays them.

    Args:
        inner: carries the others.
        share: of the requests that meet a fault.
        seed: of the draw.
    """

    def __init__(self, inner: AiohttpTransport, *, share: float, seed: int) -> None:
        self._inner = inner
        self._share = share
        self._random = random.Random(seed)
        self.faults = 0

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        """Send, or fail."""
        if self._random.random() < self._share:
            self.faults += 1
            kind = self._random.choice(("503", "reset", "delay"))
            if kind == "503":
                return Response(503, {"content-type": "application/json"}, b'{"message":"down"}')
            if kind == "reset":
                raise TransportError("connect", "reset before it was sent")
            await asyncio.sleep(self._random.uniform(0.05, 0.5))
        return await self._inner.send(method, path, headers, body, limits)


class Twin:
    """The twin's process and what it said of itself."""

    def __init__(self, process: asyncio.subprocess.Process, hello: dict[str, Any]) -> None:
        self._process = process
        self.url = hello["url"]
        self.admin_token = hello["admin_token"]
        self.pairs = [(username, secret_id) for username, secret_id in hello["pairs"]]

    def revoke_tokens(self) -> None:
        """Make every user token invalid."""
        self._tell("revoke")

    async def refreshes(self) -> dict[str, int]:
        """How often each secret was refreshed."""
        self._tell("stats")
        assert self._process.stdout is not None
        return json.loads(await self._process.stdout.readline())

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())


@contextlib.asynccontextmanager
async def twin(*, secrets: int, life: float) -> AsyncIterator[Twin]:
    """A running twin with that many secrets, five to a user."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(TWIN),
        f"--users={max(1, secrets // 5)}",
        "--per-user=5",
        f"--life={life}",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Twin(process, json.loads(await process.stdout.readline()))
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


class Tally:
    """What the jobs found."""

    def __init__(self) -> None:
        self.jobs = 0
        self.invalid = 0
        self.failed = 0

    async def job(self, fm: FlowMate, username: str, secret_id: str, need: float) -> None:
        """One job: a credential that must be this secret's and valid now."""
        self.jobs += 1
        try:
            secret = await fm.credential(username, secret_id, min_valid=need)
        except FlowMateError:
            self.failed += 1
            return
        owner, expires, _ = secret.value.access_token.split("~")
        if owner != secret_id or float(expires) <= time.time():
            self.invalid += 1


def policy(life: float, early: tuple[float, float]) -> FreshnessPolicy:
    """The defaults, scaled to the life, with these shares of it as the advisory window."""
    return FreshnessPolicy(
        advisory_seconds=(early[0] * life, early[1] * life),
        skew_seconds=0.0,
        cool_down_seconds=0.03 * life,
        negative_ttl_seconds=0.03 * life,
    )


async def work(
    fm: FlowMate,
    running: Twin,
    tally: Tally,
    *,
    jobs_per_second: int,
    seconds: float,
    need: float,
    revoke_every: float,
) -> None:
    """Start that many jobs each second, evenly; revoke all tokens now and then."""
    rng = random.Random(5)
    loop = asyncio.get_running_loop()
    began, started, revoked = loop.time(), 0, 1
    async with asyncio.TaskGroup() as group:
        while (elapsed := loop.time() - began) < seconds:
            due = int(elapsed * jobs_per_second) - started
            for pair in rng.choices(running.pairs, k=due):
                group.create_task(tally.job(fm, *pair, need=need))
            started += due
            if elapsed > revoked * revoke_every:
                revoked += 1
                running.revoke_tokens()
            await asyncio.sleep(1 / TICKS_PER_SECOND)


async def soak(  # noqa: PLR0913 - an option each
    *,
    seconds: float,
    jobs_per_second: int,
    secrets: int,
    life: float,
    faults: float,
    seed: int,
    early: tuple[float, float] = EARLY,
    need: float = NEED,
) -> dict[str, Any]:
    """Run the soak; the figures."""
    async with twin(secrets=secrets, life=life) as running:
        inner = AiohttpTransport(running.url, user_agent="flowmate_async soak", tls=client_context())
        faulty = FaultyTransport(inner, share=faults, seed=seed)
        tally = Tally()
        async with FlowMate(
            admin_token=running.admin_token,
            base_url=running.url,
            transport=faulty,
            rate=None,
            freshness=policy(life, early),
            retry=RetryPolicy(base_seconds=0.1),
        ) as fm:
            began = time.monotonic()
            await work(
                fm,
                running,
                tally,
                jobs_per_second=jobs_per_second,
                seconds=seconds,
                need=need * life,
                revoke_every=life / 2,
            )
            took = time.monotonic() - began
            refreshes = await running.refreshes()
            secret_requests = fm.stats().requests.get("GET /secrets/{id}", 0)
        lifetimes = took / (life * (1 - max(early[1], need)))
        # The first value is the twin's own, and the last lifetime has just begun: one refresh more or less.
        per_secret = [max(0, refreshes.get(secret_id, 0) - 1) for _, secret_id in running.pairs]
        return {
            "seconds": round(took, 1),
            "jobs": tally.jobs,
            "jobs_per_second": round(tally.jobs / took),
            "failed_jobs": tally.failed,
            "invalid_jobs": tally.invalid,
            "faults": faulty.faults,
            "requests": sum(fm.stats().statuses.values()),
            "refreshes": sum(refreshes.values()),
            "secret_requests_per_refresh": round(secret_requests / max(1, sum(refreshes.values())), 3),
            "mean_refreshes_per_secret_per_lifetime": round(
                sum(refreshes.values()) / len(running.pairs) / lifetimes, 3
            ),
            "worst_refreshes_per_secret_per_lifetime": round(max(per_secret) / lifetimes, 3),
            "mean_refreshes_per_secret_per_whole_life": round(
                sum(per_secret) / len(running.pairs) / (took / life), 3
            ),
        }


def verdict(figures: dict[str, Any]) -> bool:
    """Whether the figures are as they must be."""
    return (
        figures["jobs"] > 0
        and figures["invalid_jobs"] == 0
        and figures["mean_refreshes_per_secret_per_lifetime"] <= MOST_REFRESHES_PER_LIFETIME
        and figures["worst_refreshes_per_secret_per_lifetime"] <= MOST_REFRESHES_PER_LIFETIME
    )


def main() -> None:
    """Parse the options, soak, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--jobs-per-second", type=int, default=5000)
    parser.add_argument("--secrets", type=int, default=500)
    parser.add_argument("--life", type=float, default=15.0)
    parser.add_argument("--faults", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--early",
        type=float,
        nargs=2,
        default=EARLY,
        metavar=("LEAST", "MOST"),
        help="advisory window, shares of the life",
    )
    parser.add_argument("--need", type=float, default=NEED, help="min_valid, as a share of the life")
    figures = asyncio.run(soak(**vars(parser.parse_args())))
    print(json.dumps(figures, indent=2))
    sys.exit(not verdict(figures))


if __name__ == "__main__":
    main()
