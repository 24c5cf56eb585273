"""Rounds: the contenders work in turn for some seconds each; their results.

Every contender does the same work: it has as many requests in flight as the others, and each request returns
the access token.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import msgspec

CONCURRENCY = 64
"""Requests in flight, of every contender."""

WARM_UP_SECONDS = 0.3
"""Work that is not counted, before the first round."""

Fetch = Callable[[int], Awaitable[str]]
"""Fetches the secret once as worker number n, and returns its access token."""

Run = Callable[[float], Awaitable[int]]
"""Works for this many seconds, and returns how many requests were answered."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The server under load.

    Attributes:
        url: its URL without a trailing slash.
        ca_file: its certificate authority (PEM), for https.
    """

    url: str
    ca_file: str | None = None


Contender = Callable[[Target], AbstractAsyncContextManager[Run]]


class Round(msgspec.Struct, frozen=True):
    """The result of one round of a contender.

    Attributes:
        requests: how many were answered.
        seconds: how long it took.
        cpu_seconds: processor time of the whole process meanwhile, threads included.
    """

    requests: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Requests/s."""
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of processor time per request."""
        return self.cpu_seconds / self.requests * 1e6


class Figure(msgspec.Struct, frozen=True):
    """The summary of many rounds: medians, and the quartiles of requests/s."""

    per_second: float
    cpu_us: float
    lower_quartile: float
    upper_quartile: float
    rounds: int


async def measured(run: Run, seconds: float) -> Round:
    """One round."""
    cpu, began = time.process_time(), time.perf_counter()
    requests = await run(seconds)
    return Round(requests, time.perf_counter() - began, time.process_time() - cpu)


async def in_turn(
    contenders: Mapping[str, Contender],
    target: Target,
    *,
    rounds: int,
    seconds: float,
    on_round: Callable[[], None] = lambda: None,
) -> dict[str, Figure]:
    """Open all contenders, warm each up, and run them in turn, round by round, in this process.

    Args:
        contenders: by name.
        target: the server that all of them ask.
        rounds: of each.
        seconds: of each round.
        on_round: is called after each round of a contender.
    """
    async with AsyncExitStack() as stack:
        runs = {name: await stack.enter_async_context(open_(target)) for name, open_ in contenders.items()}
        for run in runs.values():
            await run(min(seconds, WARM_UP_SECONDS))
        taken: dict[str, list[Round]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                taken[name].append(await measured(run, seconds))
                on_round()
    return {name: figure(some) for name, some in taken.items()}


def figure(rounds: Sequence[Round]) -> Figure:
    """Summarise the rounds."""
    rates = [one.per_second for one in rounds]
    lower, _, upper = statistics.quantiles(rates, method="inclusive") if len(rates) > 1 else rates * 3
    return Figure(
        per_second=statistics.median(rates),
        cpu_us=statistics.median(one.cpu_us for one in rounds),
        lower_quartile=lower,
        upper_quartile=upper,
        rounds=len(rounds),
    )


def in_workers(fetch: Fetch, expected: str, *, workers: int = CONCURRENCY) -> Run:
    """Run this many workers, each with one request in flight.

    Args:
        fetch: makes one request.
        expected: what each must return.
        workers: how many.
    """

    async def run(seconds: float) -> int:
        end = time.perf_counter() + seconds

        async def work(number: int) -> int:
            requests = 0
            while time.perf_counter() < end:
                if await fetch(number) != expected:
                    raise ValueError("a contender returned something else than the access token")
                requests += 1
            return requests

        return sum(await asyncio.gather(*(work(number) for number in range(workers))))

    return run
