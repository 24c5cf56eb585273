"""Three nights of ``flowmate sync --notify``, killed with ``kill -9`` at several steps and run again.

The command and the sandbox are processes, the receiver is a thread, and their sockets are real. The time of
day of all of them skips a night at once.
"""

import contextlib
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flowmate_async import FlowMate, StoreKey, open_store
from flowmate_async.errors import CredentialRejectedError
from flowmate_async.health.webhook import verify
from tests.health.receiver import KEY, KEY_TEXT
from tests.health.world import NightClock

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]

ROOT = Path(__file__).parents[2]
STORE_KEY = StoreKey.parse("5a" * 32)
DAY = 86_400.0


class Receiver:
    """Verifies signatures, ignores duplicates, and can kill the sender in the middle of a message."""

    def __init__(self, clock: NightClock) -> None:
        self.messages: dict[str, dict] = {}
        self.repeated = 0
        self._kill: tuple[int, bool, subprocess.Popen] | None = None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                good = verify(KEY, headers, body, now=clock.wall())
                with contextlib.suppress(ConnectionError):
                    if not good:
                        self.send_error(401)
                    elif receiver.take(headers["webhook-id"], body):
                        self.send_response(204)
                        self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def take(self, message_id: str, body: bytes) -> bool:
        """Save a message, or kill its sender before or after that. Return whether to answer."""
        if self._kill is None:
            return self._save(message_id, body)
        number, saves, process = self._kill
        self._kill = (number - 1, saves, process)
        if number > 1:
            return self._save(message_id, body)
        if saves:
            self._save(message_id, body)
        self._kill = None
        process.kill()
        return False

    def kill_at(self, number: int, process: subprocess.Popen, *, saves: bool) -> None:
        """Kill the sender of the n-th message from now on, before it has an answer."""
        self._kill = number, saves, process

    def spare(self) -> None:
        """Kill no sender any more."""
        self._kill = None

    def told(self, kind: str) -> Counter[str]:
        """How often each user was told."""
        data = [one["data"] for one in self.messages.values() if one["type"] == f"credential.{kind}"]
        return Counter(one["username"] for one in data)

    @contextlib.contextmanager
    def running(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def _save(self, message_id: str, body: bytes) -> bool:
        self.repeated += message_id in self.messages
        self.messages[message_id] = json.loads(body)
        return True


class Nights:
    """The sandbox as a process, the command as processes, and the time that all of them share."""

    def __init__(self, folder: Path, *, users: int) -> None:
        self.users = users
        self.clock = NightClock()
        self.store = folder / "credentials.db"
        self._said = folder / "said"
        self._time = folder / "time"
        self._time.write_bytes(struct.pack("d", 0.0))
        self.receiver = Receiver(self.clock)
        self.tenant: dict = {}
        self.kills = 0

    @contextlib.contextmanager
    def running(self):
        sizes = ("--users", str(self.users), "--clients", "10", "--keys", str(self.users // 5))
        command = [sys.executable, "-m", "tests.health.tenant_process", *sizes]
        with (
            self.receiver.running(),
            subprocess.Popen(command, cwd=ROOT, env=self._environ(), stdout=subprocess.PIPE) as process,
        ):
            try:
                assert process.stdout is not None
                self.tenant = json.loads(process.stdout.readline())
                yield self
            finally:
                process.kill()

    def pass_night(self, seconds: float = DAY) -> None:
        self.clock.later += seconds
        self._time.write_bytes(struct.pack("d", self.clock.later))

    def ask(self, method: str, path: str, body: dict | None = None) -> bytes:
        """Change the tenant over the sandbox's admin API."""
        headers = {"Authorization": f"Bearer {self.tenant['admin_token']}"}
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.tenant['url']}/_sandbox/{path}"
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def each(self, names: list[str], verb: str) -> None:
        for name in names:
            self.ask("POST", f"secrets/{self.tenant['tokens'][name]}/{verb}")

    def requests(self) -> int:
        counted = json.loads(self.ask("GET", "stats"))["requests"]
        return sum(sum(by_status.values()) for by_status in counted.values())

    def outbox(self) -> int:
        """How many notices wait in the store."""
        with contextlib.closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM outbox").fetchone()[0]

    def sync(self) -> subprocess.Popen:
        """Start the command."""
        command = [sys.executable, "-m", "flowmate_async", "sync", "--all-users"]
        with self._said.open("wb") as said:  # not a pipe, which nobody would read meanwhile
            return subprocess.Popen(command, env=self._environ(), stdout=said, stderr=said)

    def finish(self) -> None:
        """Run the command to its end."""
        with self.sync() as process:
            process.wait()
        said = self._said.read_text()
        assert process.returncode in (0, 1), said
        assert "wait for the next run" not in said, said

    def kill_when(self, reached) -> None:
        """Run the command, and kill it as soon as this is so, or else at its first message."""
        with self.sync() as process:
            self.receiver.kill_at(1, process, saves=False)
            while not reached() and process.poll() is None:
                time.sleep(0.001)
            process.kill()
            self._was_killed(process)
        self.receiver.spare()

    def kill_at_message(self, number: int, *, saves: bool) -> None:
        """Run the command, and kill it when it delivers its n-th message."""
        with self.sync() as process:
            self.receiver.kill_at(number, process, saves=saves)
            self._was_killed(process)

    def _was_killed(self, process: subprocess.Popen) -> None:
        process.wait()
        assert process.returncode == -signal.SIGKILL, self._said.read_text()
        self.kills += 1

    def _environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMATE_")}
        return kept | {
            "PYTHONPATH": str(Path(__file__).with_name("shifted_time")),
            "SHIFTED_TIME_FILE": str(self._time),
            "FLOWMATE_BASE_URL": self.tenant.get("url", ""),
            "FLOWMATE_ADMIN_TOKEN": self.tenant.get("admin_token", ""),
            "FLOWMATE_RATE": "0",
            "FLOWMATE_STORE": f"sqlite:///{self.store}",
            "FLOWMATE_STORE_KEY": STORE_KEY.encoded(),
            "FLOWMATE_NOTIFY": self.receiver.url,
            "FLOWMATE_NOTIFY_KEY": KEY_TEXT,
        }


async def reject(nights: Nights, names: list[str]) -> None:
    """Apps reject these users' keys three times over some hours, each time in another worker."""
    async with open_store(f"sqlite:///{nights.store}", key=STORE_KEY) as store:
        for _ in range(3):
            async with FlowMate(
                admin_token=nights.tenant["admin_token"],
                base_url=nights.tenant["url"],
                health_store=store,
                clock=nights.clock,
            ) as fm:
                for name in names:
                    with pytest.raises(CredentialRejectedError):
                        async with fm.lease(name, nights.tenant["keys"][name]) as lease:
                            await lease.reject()
            nights.pass_night(3600)


async def states(nights: Nights) -> Counter[tuple[str, str]]:
    async with open_store(f"sqlite:///{nights.store}", key=STORE_KEY) as store:
        return Counter([(one.username, one.health.state.value) async for one in store.health()])


@pytest.mark.parametrize(
    ("users", "bad"), [(150, (8, 4, 3)), pytest.param(2000, (40, 10, 5), marks=pytest.mark.long)]
)
async def test_three_nights_with_kills(tmp_path, users, bad):
    nights = Nights(tmp_path, users=users)
    broken, unreadable, rejected = bad
    with nights.running():
        told = nights.receiver.told
        names = list(nights.tenant["tokens"])
        down, up = names[7::10], [name for place, name in enumerate(names) if place % 10 != 7]
        revoked = up[:: len(up) // broken][:broken]
        others = [name for name in up if name not in revoked]
        masked = others[:: len(others) // unreadable][:unreadable]
        keys = [name for name in others if name in nights.tenant["keys"] and name not in masked][:rejected]
        back, gone = revoked[::4], [name for name in revoked if name not in revoked[::4]]

        nights.each(revoked, "break")
        nights.ask("POST", "clients/client-7/break")
        for name in masked:
            nights.ask("PATCH", f"users/{name}", {"raw_read": False})
        before = nights.requests()
        nights.kill_when(lambda: nights.requests() > before + users / 2)
        nights.kill_when(lambda: nights.requests() > before + users * 2)
        nights.kill_when(nights.outbox)
        nights.kill_at_message(2, saves=False)
        nights.kill_at_message(3, saves=True)
        nights.finish()
        assert told("broken") == Counter(revoked)
        assert told("unreadable") == Counter(masked)
        assert told("recovered") == Counter()

        nights.ask("POST", "clients/client-7/heal")
        nights.each(back, "heal")
        await reject(nights, keys)
        nights.pass_night()
        nights.kill_at_message(1, saves=True)
        nights.finish()
        assert told("broken") == Counter([*revoked, *keys])
        assert told("recovered") == Counter(back)

        for name in masked:
            nights.ask("PATCH", f"users/{name}", {"raw_read": True})
        nights.pass_night()
        nights.kill_when(nights.outbox)
        nights.finish()
    assert told("broken") == Counter([*revoked, *keys]), "each told once"
    assert told("unreadable") == Counter(masked)
    assert told("recovered") == Counter([*back, *masked])
    assert not told("broken").keys() & set(down), "told because of an outage"
    assert nights.kills == 7
    assert nights.receiver.repeated == 2, "saved, and killed before the answer: the same id again"
    assert nights.outbox() == 0
    assert await states(nights) == Counter((name, "broken") for name in [*gone, *keys])
