"""``flowmate demo``: the main job against the built-in sandbox, interrupted halfway, resumed and verified."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import aiohttp
import anyio
import msgspec
from cyclopts import Parameter

from flowmate_async.cli.exits import Exit, print_data, print_status
from flowmate_async.cli.progress import display
from flowmate_async.cli.sync_output import summary
from flowmate_async.client import FlowMate
from flowmate_async.errors import ConfigurationError, UpstreamUnavailableError
from flowmate_async.events import Event, RunBegan, UserStored
from flowmate_async.redaction import Redacted
from flowmate_async.stores import Store, StoreKey, open_store

_START_SECONDS = 30.0


class _Twin(Redacted, frozen=True):
    """Where the sandbox listens, and its admin token."""

    url: str
    admin_token: str

    __shown__: ClassVar[tuple[str, ...]] = ("url",)


class _Truth(Redacted, frozen=True):
    """One credential in the sandbox."""

    username: str
    secret_id: str
    type: str
    value: dict[str, Any]


async def demo(
    *,
    users: Annotated[int, Parameter(help="Users of the twin.")] = 1000,
    seed: Annotated[int, Parameter(help="The same seed makes the same users and secrets.")] = 7,
) -> Exit:
    """Start a local twin of FlowMate, sync its users into a sealed store, interrupt, resume, verify.

    Examples:
        flowmate demo
        flowmate demo --users 100
    """
    if users < 2:
        raise ConfigurationError("the demo needs at least 2 users")
    with tempfile.TemporaryDirectory(prefix="flowmate-demo-") as folder:
        async with _twin_process(users, seed) as twin:
            store = open_store(f"sqlite:///{Path(folder) / 'credentials.db'}", key=StoreKey.generate())
            async with store, FlowMate(admin_token=twin.admin_token, base_url=twin.url, rate=None) as fm:
                print_status(f"1. A twin of FlowMate with {users} users listens on {twin.url}")
                print_status(
                    "2. Syncing every user's credentials into a sealed SQLite store, cut off half-way"
                )
                await _sync_half(fm, store)
                print_status(
                    "3. Running the same sync again: it resumes, and fetches no acknowledged user twice"
                )
                with display() as shown:
                    report = await fm.sync(store, on_event=shown)
                print_data(summary(report))
                print_status("4. Comparing every credential in the store with the twin's")
                equal, total = await _compare(store, twin)
    print_data(f"{equal:,} of {total:,} credentials verified")
    return Exit.OK if equal == total == report.secrets and not report.failed else Exit.SOME_FAILED


async def _sync_half(fm: FlowMate, store: Store) -> None:
    """Sync, and cancel without warning once half of the users are acknowledged."""
    with anyio.CancelScope() as scope, display() as shown:
        stored, half = 0, 0

        def cut_off(event: Event) -> None:
            nonlocal stored, half
            shown(event)
            match event:
                case RunBegan(total=total):
                    half = (total or 0) // 2
                case UserStored():
                    stored += 1
                    if stored >= half:
                        scope.cancel()

        await fm.sync(store, on_event=cut_off)


@asynccontextmanager
async def _twin_process(users: int, seed: int) -> AsyncIterator[_Twin]:
    """Run the sandbox in its own process, as FlowMate would be."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-P",
            "-m",
            "flowmate_async",
            "sandbox",
            "--users",
            str(users),
            "--seed",
            str(seed),
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        with anyio.fail_after(_START_SECONDS):
            twin = await _announced(process)
        yield twin
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with anyio.CancelScope(shield=True):
            await process.wait()


async def _announced(process: asyncio.subprocess.Process) -> _Twin:
    if process.stdout is None:
        raise UpstreamUnavailableError("the twin has no output")
    lines = [(await process.stdout.readline()).decode().strip() for _ in range(2)]
    values = [line.partition("=")[2] for line in lines]
    if not all(values):
        raise UpstreamUnavailableError("the twin did not start", advice="Try: flowmate sandbox")
    return _Twin(*values)


async def _compare(store: Store, twin: _Twin) -> tuple[int, int]:
    """Count the sandbox's credentials that the store holds unchanged, and all of them."""
    equal = total = 0
    async for truth in _truths(twin):
        total += 1
        secret = await store.get(truth.username, truth.secret_id)
        if secret is None or secret.kind != truth.type or _plain(secret.value) != _present(truth.value):
            print_status(f"differs: user {truth.username}, secret {truth.secret_id}")
        else:
            equal += 1
    return equal, total


async def _truths(twin: _Twin) -> AsyncIterator[_Truth]:
    headers = {"Authorization": f"Bearer {twin.admin_token}"}
    decoder = msgspec.json.Decoder(_Truth)
    async with (
        aiohttp.ClientSession(read_bufsize=2**20) as session,
        session.get(f"{twin.url}/_sandbox/truth", headers=headers, raise_for_status=True) as answer,
    ):
        async for line in answer.content:
            yield decoder.decode(line)


def _plain(value: Any) -> dict[str, Any]:
    """Return a stored value with upstream's field names."""
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return _present(fields | fields.pop("_extra", {}))


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
