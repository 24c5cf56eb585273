"""Under a minute, for continuous integration: have the ratios that matter become worse?

Nothing is compared with a clock. A request's figure is its processor time, by which that of aiohttp as it
is commonly written is divided; a cache hit is divided by that of an ``alru_cache``; both are measured in
turn in this process. The bounds lie well away from what an undisturbed machine shows. Noise can spoil one
measurement and hardly three: what misses its bound is measured again, twice at most.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import credentials
import sweep_memory
import uvloop

from flowmate_async.bench.contenders import aiohttp_idiomatic, library, sweep
from flowmate_async.bench.rounds import in_turn
from flowmate_async.bench.static_server import running_server

ROUNDS, SECONDS, ATTEMPTS = 5, 0.25, 3
IDIOMATIC = "aiohttp idiomatic"
CONTENDERS = {
    "get_secret, wire": library("wire"),
    "get_secret, aiohttp": library("aiohttp"),
    "sweep, wire": sweep("wire"),
    IDIOMATIC: aiohttp_idiomatic,
}
FEW_USERS, MANY_USERS = 10_000, 40_000


class Found(NamedTuple):
    """A figure, and whether it is within its bound."""

    what: str
    value: float
    bound: str
    good: bool


def least(what: str, value: float, bound: float) -> Found:
    """What must not be lower."""
    return Found(what, value, f"at least {bound:g}", value >= bound)


def most(what: str, value: float, bound: float) -> Found:
    """What must not be higher."""
    return Found(what, value, f"at most {bound:g}", value <= bound)


async def requests() -> list[Found]:
    """Processor time a request, as a share of the idiomatic one's."""
    async with running_server() as target:
        cpu = {
            name: found.cpu_us
            for name, found in (await in_turn(CONTENDERS, target, rounds=ROUNDS, seconds=SECONDS)).items()
        }
    times = "{} costs a request of aiohttp divided by".format
    return [
        least(times("get_secret over wire"), cpu[IDIOMATIC] / cpu["get_secret, wire"], 3.0),
        least(times("get_secret over aiohttp"), cpu[IDIOMATIC] / cpu["get_secret, aiohttp"], 2.8),
        least(times("a request of a sweep over wire"), cpu[IDIOMATIC] / cpu["sweep, wire"], 2.0),
    ]


async def hits() -> list[Found]:
    """A cache hit."""
    found = await credentials.hits(rounds=9, calls=20_000)
    return [most("a hit costs a hit of alru_cache times", found["ratio"], 0.7)]


async def memory() -> list[Found]:
    """What more users cost a sweep."""
    few, many = (sweep_memory.in_a_process(users)["peak_bytes"] for users in (FEW_USERS, MANY_USERS))
    return [most(f"MiB that {MANY_USERS:,} users take above {FEW_USERS:,}", (many - few) / 2**20, 4)]


def judge(measure: Callable[[], Awaitable[list[Found]]]) -> bool:
    """Measure until all is good, a few times at most. Return whether it was."""
    for _ in range(ATTEMPTS):
        found = uvloop.run(measure())
        for what, value, bound, good in found:
            print(f"{'ok  ' if good else 'MISS'} {what} {value:.2f} ({bound})", flush=True)
        if all(one.good for one in found):
            return True
    return False


def main() -> int:
    """Everything; 1 when anything stays out of bounds."""
    good = [judge(measure) for measure in (requests, hits, memory)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
