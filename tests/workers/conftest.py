"""``flowmate sync --workers`` as processes of their own, and what they leave behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import msgspec
import pytest

from flowmate_async import StoreKey, open_store
from tests.cli.conftest import FLOWMATE, Twin, present, twin_thread

KEY = StoreKey.parse("5a" * 32)

__all__ = ["Twin", "twin_thread"]


@dataclass
class Syncing:
    """A running ``flowmate sync``."""

    process: subprocess.Popen[str]

    def workers(self) -> list[int]:
        """The process ids of its workers that are alive."""
        return children_of(self.process.pid)

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal, to all of its process group as a terminal does, or to it alone."""
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def ended(self, seconds: float = 60) -> tuple[int, str, str]:
        """Its exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err


def children_of(pid: int) -> list[int]:
    """The process ids of a process's children."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


@pytest.fixture
def store_file(tmp_path: Path) -> Path:
    return tmp_path / "credentials.db"


@pytest.fixture
def sync(store_file: Path) -> Iterator[Callable[..., Syncing]]:
    """Start a sync of every user of a sandbox; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(twin: Twin, *flags: str, rate: float = 0, workers: int = 2, everybody: bool = True) -> Syncing:
        environment = {name: text for name, text in os.environ.items() if not name.startswith("FLOWMATE_")}
        environment |= {
            "FLOWMATE_BASE_URL": twin.url,
            "FLOWMATE_ADMIN_TOKEN": twin.admin_token,
            "FLOWMATE_RATE": str(rate),
            "FLOWMATE_STORE": f"sqlite:///{store_file}",
            "FLOWMATE_STORE_KEY": KEY.encoded(),
        }
        users = ["--all-users"] if everybody else []
        process = subprocess.Popen(
            [*FLOWMATE, "sync", *users, "--json", "--workers", str(workers), *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return Syncing(process)

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def kept_tokens(path: Path) -> list[str]:
    """The users' tokens that a store keeps."""

    async def read() -> list[str]:
        async with open_store(f"sqlite:///{path}", key=KEY) as store:
            run = await store.last_run()
            ends = [] if run is None else [end async for end in store.checkpoints(run)]
            return [one.token.token for one in (await store.kept_tokens([e.username for e in ends])).values()]

    return anyio.run(read)


def contents(store_file: Path) -> dict[tuple[str, str], tuple[str, dict]]:
    """Every credential in a store: ``(username, id) -> (type, value)``."""

    async def read() -> dict[tuple[str, str], tuple[str, dict]]:
        found = {}
        async with open_store(f"sqlite:///{store_file}", key=KEY) as opened:
            async for username, secret in opened.secrets():
                value = msgspec.to_builtins(secret.value)
                found[username, secret.id] = (secret.kind, present(value | value.pop("_extra", {})))
        return found

    return anyio.run(read)


def acknowledged(store_file: Path) -> set[str]:
    """The users that the newest run has synced, as the store tells while others write to it."""

    async def read() -> set[str]:
        async with open_store(f"sqlite:///{store_file}", key=KEY) as opened:
            run = await opened.last_run()
            if run is None:
                return set()
            return {done.username async for done in opened.checkpoints(run) if done.status == "synced"}

    return anyio.run(read)


def until(holds: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)  # what is waited for often opens a store


def is_alive(pid: int) -> bool:
    """Return whether a process runs and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which is Linux's")
