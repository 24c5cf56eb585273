"""``flowmate bench``: what a credential and a whole sync cost on this machine, without extra packages."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress

from flowmate_async.bench import whole_job
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
    users: Annotated[int, Parameter(help="Users of each sync of the whole job.")] = 500,
    json: Annotated[bool, Parameter(negative=(), help="The figures as one JSON object.")] = False,
) -> Exit:
    """Measure what a credential and a whole sync cost on this machine.

    A server of canned answers in a separate process is asked in turn by this library over each transport
    and by typical aiohttp code. The whole job is a sync into a new sealed SQLite file, by this library and by
    a script written by hand, which has no retries, no rate limit and no resumption. The figures are medians,
    and the middle half of the rounds. Nothing leaves this machine.

    Examples:
        flowmate bench
    """
    if rounds < 1 or not 0 < seconds <= 60 or users < 1:
        raise ConfigurationError("--rounds and --users are at least 1, and --seconds above 0 and at most 60")
    missing = {} if importlib.util.find_spec("uvloop") else _MISSING
    parts = (_contenders(), _jobs(users))
    print_status(f"{CONCURRENCY} requests in flight; rounds of {seconds:g} s in turn, {rounds} of each")
    async with running_server() as target:
        with _progress(rounds * sum(map(len, parts))) as on_round:
            figures, jobs = [
                await in_turn(part, target, rounds=rounds, seconds=seconds, on_round=on_round)
                for part in parts
            ]
    if json:
        print_json({"contenders": figures, "whole_job": jobs, "missing": missing})
    else:
        lines = [*_table("one credential", "credentials", figures), "", *_table("whole job", "users", jobs)]
        print_data("\n".join([*lines, *(f"{name:26}{why}" for name, why in missing.items())]))
    return Exit.OK


def _contenders() -> dict[str, Contender]:
    return {
        **{f"get_secret, {transport}": library(transport) for transport in ("wire", "aiohttp")},
        **{f"sweep, {transport}": sweep(transport) for transport in ("wire", "aiohttp")},
        "typical aiohttp code": aiohttp_idiomatic,
        "credential, from the cache": cached("auto"),
    }


def _jobs(users: int) -> dict[str, Contender]:
    return {
        **{f"sync, {transport}": whole_job.library(users, transport) for transport in ("wire", "aiohttp")},
        "script written by hand": whole_job.script(users),
    }


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, and a line now and then elsewhere. Yield what counts a round."""
    done = 0
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring", total=total)

        def count() -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            if not console.is_terminal and done % max(1, total // 5) == 0 and sys.stderr is not None:
                print_status(f"{done} of {total} rounds measured")

        yield count


def _table(title: str, unit: str, figures: Mapping[str, Figure]) -> list[str]:
    """Return the rows of one table, with its column titles."""
    return [
        f"{title:26}{f'{unit} per second':>22}{'middle half':>20}{'CPU µs each':>12}",
        *(
            f"{name:26}{found.per_second:>22,.0f}"
            f"{f'{found.lower_quartile:,.0f}-{found.upper_quartile:,.0f}':>20}{found.cpu_us:>12,.2f}"
            for name, found in figures.items()
        ),
    ]
