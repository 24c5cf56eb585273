"""What all tests share: the loops, a running sandbox, a client of it, and a way to look for leaks."""

import asyncio
import gc
import os
import shutil
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import looptime
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

from flowmate_async import FlowMate
from flowmate_async.sandbox import Sandbox, SandboxOptions

HERE = Path(__file__).parent
SKIP_NOTHING = bool(os.environ.get("FLOWMATE_TEST_SKIP_NOTHING"))
"""Whether a server that is missing fails its tests instead of skipping them."""

# How long an example takes depends on the machine, so none has a deadline. A test that needs more examples
# than others multiplies those of the profile: ``settings(max_examples=3 * settings().max_examples)``.
settings.register_profile("everyday", deadline=None, max_examples=20)
settings.register_profile("long", deadline=None, max_examples=100)
settings.register_profile(
    "mutants",  # the same examples each time; mutmut calls a test from several runs in one process
    deadline=None,
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
settings.load_profile("everyday")


LONGEST = (
    "servers",
    "reliability/test_chaos.py",
    "distributed/test_worker_broker.py",
    "distributed/test_cluster.py",
    "docs/test_commands.py",
    "distributed/test_agreement.py",
    "workers/test_processes.py",
    "cli/test_disasters.py",
    "workers/test_told.py",
    "distributed/test_circuit.py",
    "workers/test_refreshes.py",
    "cli/test_agreement.py",
    "cli/test_sync_output.py",
    "distributed/test_budget.py",
    "distributed/test_shared_credentials.py",
    "cli/test_observing.py",
    "client/test_upstream_text.py",
    "cli/test_bad_input.py",
    "test_readme.py",
    "access/test_any_schedule.py",
    "distributed/test_any_schedule.py",
)
"""The parts that take longest, every day or in the long version. They start first, so that none ends last."""


def part(nodeid: str) -> str:
    """Return the part of the suite that one process runs: a file, or all tests that need a database server.

    PostgreSQL, OpenBao and the stand-in for AWS take seconds to start, and each process starts its own.
    """
    file = nodeid.partition("::")[0].removeprefix("tests/")
    folder, _, name = file.removeprefix("stores/").rpartition("/")
    alone = not file.startswith("stores/") or folder in ("sqlite", "age") or not name.startswith("test_")
    return file if alone else "servers"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest parts. Within a part, and among the others, the order stays."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(part(item.nodeid), len(order)))


def pytest_collection(session: pytest.Session) -> None:
    """Collect without the garbage collector: nearly all that collecting creates is kept."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep thousands of collected tests out of every later run of the garbage collector."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)  # only pytest-xdist has this hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute parts instead of files with ``--dist loadfile``."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - only where tests run in parallel

    class Parts(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return part(nodeid)

    return Parts(config, log)


@pytest.fixture(scope="session")
def program() -> Callable[..., Path]:
    """Find a server's program; without it skip the test, or fail where continuous integration says so."""

    def find(name: str, *, package: str, folders: str = "") -> Path:
        found = shutil.which(name)
        candidates = [Path(found)] if found else sorted(Path("/").glob(folders or f"usr/bin/{name}"))
        if candidates:
            return candidates[-1]
        lack = f"{name} is not installed: apt-get install {package}"
        if SKIP_NOTHING:
            pytest.fail(lack)
        pytest.skip(lack)

    return find


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio"


def virtual_loop() -> asyncio.AbstractEventLoop:
    """A loop on virtual time in which every wait takes some.

    Virtual time moves from timer to timer in whole microseconds. A float's remainder, waited for again and
    again as real time would pass it, would never end. It moves as soon as nothing is ready: looptime would
    turn the loop 42 times before, which finds nothing more and takes most of a test's time.
    """
    loop = looptime.new_event_loop(noop_cycles=0)
    call_at = loop.call_at

    def call_later(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        return call_at(max(when, loop.time() + 2e-6), *args, **options)

    loop.call_at = call_later  # type: ignore[method-assign]
    return loop


@pytest.fixture(scope="session")
def virtual_time() -> Any:
    """What a module's own ``anyio_backend`` returns to run its tests on virtual time."""
    return "asyncio", {"loop_factory": virtual_loop}


@pytest.fixture(scope="session")
def virtually() -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Run a coroutine function to its end in virtual time; for the examples of hypothesis."""

    def run(main: Callable[[], Awaitable[Any]]) -> Any:
        with asyncio.Runner(loop_factory=virtual_loop) as runner:
            return runner.run(main())

    return run


@pytest.fixture
def no_blocking() -> Iterator[None]:
    """Any blocking call of the library inside a running loop raises."""
    with blockbuster_ctx("flowmate_async"):
        yield


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox with 20 users."""
    async with Sandbox(SandboxOptions(users=20, seed=7)) as running:
        yield running


@pytest.fixture(params=["wire", pytest.param("aiohttp", marks=pytest.mark.long)])
async def fm(sandbox: Sandbox, request: pytest.FixtureRequest) -> AsyncIterator[FlowMate]:
    """A client of the sandbox on either transport, without a rate limit."""
    async with FlowMate(
        admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, transport=request.param
    ) as client:
        yield client


@pytest.fixture(scope="session")
def exposed() -> Callable[[BaseException], str]:
    """What an error tracker would show of an error: the whole chain with every frame's locals.

    The frames of the tests themselves are left out: they hold the credentials they plant.
    """

    def show(error: BaseException) -> str:
        seen: list[traceback.TracebackException] = []
        _collect(traceback.TracebackException.from_exception(error, capture_locals=True, compact=False), seen)
        for part in seen:
            part.stack[:] = [frame for frame in part.stack if not Path(frame.filename).is_relative_to(HERE)]
        return "\n".join("".join(part.format(chain=False)) for part in seen)

    return show


def _collect(shown: traceback.TracebackException | None, seen: list[traceback.TracebackException]) -> None:
    if shown is None:
        return
    seen.append(shown)
    _collect(shown.__cause__, seen)
    _collect(shown.__context__, seen)
    for inner in shown.exceptions or ():
        _collect(inner, seen)
