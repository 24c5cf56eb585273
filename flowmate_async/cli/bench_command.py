"""``flowmate bench``: what a credential costs on this machine, without extra packages."""

import importlib.util
from typing import Annotated

from cyclopts import Parameter

from flowmate_async.bench.contenders import aiohttp_idiomatic, cached, library, sweep
from flowmate_async.bench.rounds import CONCURRENCY, Contender, Figure, in_turn
from flowmate_async.bench.static_server import running_server
from flowmate_async.cli.exits import Exit, print_data, print_json, print_status
from flowmate_async.errors import ConfigurationError

_MISSING = {"uvloop": "not installed: pip install 'flowmate-async[wire]'"}


async def bench(
    *,
    rounds: Annotated[int, Parameter(help="Rounds of each contender.")] = 5,
    seconds: Annotated[float, Parameter(help="Seconds of each round.")] = 0.5,
    json: Annotated[bool, Parameter(negative=(), help="The figures as one JSON object.")] = False,
) -> Exit:
    """Measure what a credential costs on this machine.

    A server of canned answers in a process of its own is asked by this library over each transport, and by
    aiohttp as it is commonly written, in turn; medians. Nothing leaves this machine.

    Examples:
        flowmate bench
    """
    if rounds < 1 or not 0 < seconds <= 60:
        raise ConfigurationError("--rounds is at least 1, and --seconds above 0 and at most 60")
    missing = {} if importlib.util.find_spec("uvloop") else _MISSING
    print_status(f"{CONCURRENCY} requests in flight; rounds of {seconds:g} s in turn, {rounds} of each")
    async with running_server() as target:
        figures = await in_turn(_contenders(), target, rounds=rounds, seconds=seconds)
    if json:
        print_json({"contenders": figures, "missing": missing})
    else:
        print_data("\n".join(_lines(figures, missing)))
    return Exit.OK


def _contenders() -> dict[str, Contender]:
    return {
        **{f"get_secret, {transport}": library(transport) for transport in ("wire", "aiohttp")},
        **{f"sweep, {transport}": sweep(transport) for transport in ("wire", "aiohttp")},
        "aiohttp as commonly written": aiohttp_idiomatic,
        "credential, from the cache": cached("auto"),
    }


def _lines(figures: dict[str, Figure], missing: dict[str, str]) -> list[str]:
    return [
        f"{'':28}{'a second':>12}{'quartiles':>26}{'CPU µs':>10}",
        *(
            f"{name:28}{found.per_second:>12,.0f}"
            f"{f'{found.lower_quartile:,.0f} to {found.upper_quartile:,.0f}':>26}{found.cpu_us:>10,.2f}"
            for name, found in figures.items()
        ),
        *(f"{name:28}{why}" for name, why in missing.items()),
    ]
