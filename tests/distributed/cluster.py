"""A cluster on one machine: a Redis, workers and followers as processes of their own, a sandbox."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.cli.conftest import FLOWMATE, Twin
from tests.workers.conftest import KEY, Syncing

from .redis_server import RedisServer


@dataclass
class Cluster:
    """Where everything is."""

    twin: Twin
    redis: RedisServer
    store: Path
    rate: float
    burst: int
    visibility: float = 300.0
    shard_users: int = 50
    pool: int = 2
    """Processes of each worker."""
    told: dict[str, str] = field(default_factory=dict)
    working_directory: Path | None = None
    processes: list[subprocess.Popen] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """The settings of every process of the cluster."""
        mine = {name: text for name, text in os.environ.items() if not name.startswith("FLOWMATE_")}
        return mine | {
            "FLOWMATE_BASE_URL": self.twin.url,
            "FLOWMATE_ADMIN_TOKEN": self.twin.admin_token,
            "FLOWMATE_RATE": str(self.rate),
            "FLOWMATE_BURST": str(self.burst),
            "FLOWMATE_STORE": f"sqlite:///{self.store}",
            "FLOWMATE_STORE_KEY": KEY.encoded(),
            "FLOWMATE_BROKER_URL": self.redis.url,
            "FLOWMATE_PROCESSES": str(self.pool),
            "FLOWMATE_VISIBILITY": str(self.visibility),
            "FLOWMATE_SHARD_USERS": str(self.shard_users),
            **self.told,
        }

    def worker(self) -> subprocess.Popen:
        """Start a worker, and wait until it is ready."""
        return self.watched_worker()[0]

    def watched_worker(self, *flags: str) -> tuple[subprocess.Popen, list[str]]:
        """The same with flags, and what it said before it was ready."""
        process, said = self.start("worker", *flags), []
        while "ready" not in (line := process.stderr.readline()):
            assert line, "the worker has ended"
            said.append(line)
        return process, said

    def follow(self, *flags: str, everybody: bool = True) -> Syncing:
        """Submit a sync, or follow the one that is under way."""
        users = ["--all-users"] if everybody else []
        return Syncing(self.start("sync", *users, "--celery", "--json", *flags))

    def start(self, *arguments: str, command: tuple[str, ...] = FLOWMATE) -> subprocess.Popen:
        """Start a process of the cluster."""
        process = subprocess.Popen(
            [*command, *arguments],
            env=self.environment(),
            cwd=self.working_directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process


@contextlib.contextmanager
def ending(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster; its processes end with the block."""
    with ExitStack() as entered:
        entered.callback(_end, cluster)
        yield cluster


def _end(cluster: Cluster) -> None:
    for process in cluster.processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ValueError):
            process.communicate()
