"""(a) What a credential costs: this library, its peers, and the limit, in one run against one nginx.

Every contender is a process of its own on the client's core; nginx's one worker has the other. Each has 64
requests in flight and ends each request with the access token of an OAuth secret in hand. All are opened
first, then they work in turn, a round each, round after round; medians are taken over the rounds, ratios of
medians. What is not installed is reported as missing, what does not work as failed.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import nginx
from cores import CLIENT, SERVER, pinned_to
from worker import OWN

from flowmate_async.bench.canned import SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Round, Target, figure

HERE = Path(__file__).parent
NIQUESTS_PYTHON = HERE.parent / ".venv-bench-niquests/bin/python"
OPEN_SECONDS = 30.0


class Entry(NamedTuple):
    """A contender as it is reported: what is imported, the package it is of, and its event loop."""

    module: str
    package: str = ""
    loop: str = "uvloop"


ENTRIES = {
    **{name: Entry(name) for name in OWN},
    "aiohttp tuned": Entry("aiohttp_tuned", "aiohttp"),
    "httpx": Entry("httpx_", "httpx"),
    "niquests": Entry("niquests_", "niquests"),
    "aiosonic": Entry("aiosonic_", "aiosonic"),
    "curl_cffi": Entry("curl_cffi_", "curl_cffi"),
    "pyqwest": Entry("pyqwest_", "pyqwest"),
    "pyreqwest": Entry("pyreqwest_", "pyreqwest"),
    "wreq": Entry("wreq_", "wreq"),
    "bare protocol": Entry("bare_protocol", "httptools"),
    **{f"{name}, asyncio": Entry(name, loop="asyncio") for name in OWN if "sweep" not in name},
}
LIMIT = "wrk"


class Worked(Protocol):
    """A contender that is open: works a round when told to."""

    version: str | None

    async def round(self, seconds: float) -> Round:
        """Work for so long."""
        ...


class MissingError(Exception):
    """A contender that is not installed here."""


class FailedError(Exception):
    """A contender that is installed and does not work."""


class Process:
    """A contender in a process of its own; see worker.py."""

    def __init__(self, process: asyncio.subprocess.Process, version: str | None) -> None:
        self._process = process
        self.version = version

    async def round(self, seconds: float) -> Round:
        """Have the process work for so long."""
        self._process.stdin.write(f"{seconds}\n".encode())
        line = await self._process.stdout.readline()
        if not line:
            raise await _failure(self._process)
        return msgspec.json.decode(line, type=Round)


@contextlib.asynccontextmanager
async def opened(
    entry: Entry, target: Target, python: str, *, core: int | None = CLIENT
) -> AsyncIterator[Process]:
    """A contender's process on one core, or on any, ready to work."""
    process = await asyncio.create_subprocess_exec(
        *(python, str(HERE / "worker.py"), entry.module, "--url", target.url, "--loop", entry.loop),
        *("--package", entry.package),
        *(["--ca-file", target.ca_file] if target.ca_file else []),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=pinned_to(core),
    )
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            hello = await process.stdout.readline()
        if not hello:
            raise await _failure(process)
        said = json.loads(hello)
        if "missing" in said:
            raise MissingError(said["missing"])
        yield Process(process, said["version"])
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _failure(process: asyncio.subprocess.Process) -> FailedError:
    """The last line of what it said while it died."""
    said = (await process.stderr.read()).decode().strip()
    return FailedError(said.splitlines()[-1] if said else "it ended without a word")


class Wrk:
    """wrk, a load generator in C that only counts what comes: nothing can be faster on this core."""

    version = None

    def __init__(self, target: Target) -> None:
        if shutil.which("wrk") is None:
            raise MissingError("wrk is not installed")
        self._words = (
            *("wrk", "--threads", "1", "--connections", str(CONCURRENCY)),
            *("--header", f"Authorization: Bearer {USER_TOKEN}", f"{target.url}/secrets/{SECRET_ID}"),
        )

    async def round(self, seconds: float) -> Round:
        """A run of wrk, in whole seconds."""
        before = _cpu_of_children()
        process = await asyncio.create_subprocess_exec(
            *(self._words[0], "--duration", f"{max(1, round(seconds))}s", *self._words[1:]),
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=pinned_to(CLIENT),
        )
        told, _ = await process.communicate()
        cpu_seconds = _cpu_of_children() - before
        counts = next(line for line in told.decode().splitlines() if " requests in " in line).split()
        return Round(int(counts[0]), float(counts[3].removesuffix("s,")), cpu_seconds)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def compare(target: Target, names: Sequence[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Every contender's figures against one server; why those that have none have none."""
    working: dict[str, Worked] = {}
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            try:
                working[name] = await _open(stack, name, target)
            except MissingError as error:
                missing[name] = str(error)
            except (FailedError, TimeoutError) as error:
                failed[name] = str(error) or "it did not get ready"
        done: dict[str, list[Round]] = {name: [] for name in working}
        for _ in range(rounds):
            for name in [name for name in working if name not in failed]:
                try:
                    done[name].append(await working[name].round(seconds))
                except FailedError as error:
                    failed[name] = str(error)
    figures = {
        name: {"version": working[name].version, **msgspec.to_builtins(figure(taken))}
        for name, taken in done.items()
        if name not in failed
    }
    return {"contenders": figures, "missing": missing, "failed": failed}


async def _open(stack: contextlib.AsyncExitStack, name: str, target: Target) -> Worked:
    if name == LIMIT:
        return Wrk(target)
    python = str(NIQUESTS_PYTHON) if name == "niquests" else sys.executable
    if not Path(python).exists():
        raise MissingError(f"{NIQUESTS_PYTHON.parent.parent.name} is not made: make bench does")
    return await stack.enter_async_context(opened(ENTRIES[name], target, python))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both schemes, one after the other."""
    if not nginx.installed():
        raise SystemExit("nginx is not installed; flowmate bench measures without it")
    names = options.only or [*ENTRIES, LIMIT]
    async with nginx.running(SERVER) as server:
        return {
            "server": f"nginx {server.version}",
            "http": await compare(server.http, names, options.rounds, options.seconds),
            "https": await compare(server.https, names, options.rounds, options.seconds),
        }


def show(figures: dict[str, Any]) -> None:
    """The figures as lines."""
    for scheme in ("http", "https"):
        for name, row in figures[scheme]["contenders"].items():
            spread = f"{row['lower_quartile']:,.0f} to {row['upper_quartile']:,.0f}"
            print(f"{scheme:6} {name:28} {row['per_second']:>9,.0f}/s {row['cpu_us']:>8.1f} µs  {spread}")
        for how in ("missing", "failed"):
            for name, why in figures[scheme][how].items():
                print(f"{scheme:6} {name:28} {how}: {why}")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, from the command line or from these words."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each round; wrk knows whole seconds")
    parser.add_argument("--only", nargs="*", choices=[*ENTRIES, LIMIT], metavar="NAME")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(words)


def main() -> None:
    """Measure and print."""
    options = arguments()
    figures = asyncio.run(measure(options))
    show(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
