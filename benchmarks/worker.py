"""One contender in a process of its own: obeys lines on stdin.

``python worker.py NAME --url URL [--ca-file PEM] [--loop uvloop|asyncio] [--package NAME]``. Prints a line of
JSON with the package's version when it is ready, or says what is missing; then, for each line ``SECONDS``,
works as long and prints the round as JSON; at the end of stdin it ends.
"""

import argparse
import asyncio
import gc
import importlib
import json
import sys

import msgspec
import uvloop
from machine import version_of

from flowmate_async.bench import contenders
from flowmate_async.bench.rounds import WARM_UP_SECONDS, Contender, Target, measured

OWN = {
    "flowmate wire": contenders.library("wire"),
    "flowmate aiohttp": contenders.library("aiohttp"),
    "flowmate wire, sweep": contenders.sweep("wire"),
    "flowmate aiohttp, sweep": contenders.sweep("aiohttp"),
    "aiohttp idiomatic": contenders.aiohttp_idiomatic,
}


def contender_named(name: str) -> Contender:
    """The contender itself.

    Raises:
        ModuleNotFoundError: its package is not installed.
    """
    return OWN.get(name) or importlib.import_module(f"peers.{name}").contender


async def obey(contender: Contender, target: Target, version: str | None) -> None:
    """Open the contender, warm it up, and carry out what stdin says.

    What lives by then is frozen: how much garbage collection there is to do is left to the work itself.
    """
    loop = asyncio.get_running_loop()
    async with contender(target) as run:
        await run(WARM_UP_SECONDS)
        gc.collect()
        gc.freeze()
        print(json.dumps({"version": version}), flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(msgspec.json.encode(await measured(run, float(line))).decode(), flush=True)


def main() -> None:
    """Parse the options and obey."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca-file")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--package", default="")
    options = parser.parse_args()
    try:
        contender = contender_named(options.name)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    run = uvloop.run if options.loop == "uvloop" else asyncio.run
    target = Target(url=options.url, ca_file=options.ca_file)
    run(obey(contender, target, version_of(options.package) if options.package else None))


if __name__ == "__main__":
    main()
