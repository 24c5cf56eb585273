"""The command line under test: run in this process, or as a separate process, against a sandbox."""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

from flowmate_async import BreakerPolicy, RetryPolicy, wiring
from flowmate_async.cli.app import run
from flowmate_async.sandbox import Sandbox, SandboxOptions, faults_from_text

FLOWMATE = (sys.executable, "-m", "flowmate_async")


@dataclass
class Twin:
    """A running ``flowmate sandbox``."""

    url: str
    admin_token: str

    def ask(self, path: str, body: dict | None = None, *, method: str | None = None) -> bytes:
        """Return what one of its endpoints answers."""
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Authorization", f"Bearer {self.admin_token}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def stats(self) -> dict:
        """Its counters."""
        return msgspec.json.decode(self.ask("/_sandbox/stats"))

    def total(self) -> int:
        """How many requests it has answered."""
        return sum(sum(by_status.values()) for by_status in self.stats()["requests"].values())

    def truth(self) -> dict[tuple[str, str], tuple[str, dict]]:
        """Every credential as it is upstream: ``(username, id) -> (type, value)``."""
        lines = map(msgspec.json.decode, self.ask("/_sandbox/truth").splitlines())
        return {
            (line["username"], line["secret_id"]): (line["type"], present(line["value"])) for line in lines
        }


def present(value: dict) -> dict:
    """A value without the fields that upstream left empty."""
    return {name: part for name, part in value.items() if part is not None}


@contextlib.contextmanager
def twin_process(*flags: str) -> Iterator[Twin]:
    """A sandbox in a separate process, ended with the test."""
    process = subprocess.Popen(
        [*FLOWMATE, "sandbox", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = [process.stdout.readline().strip() for _ in range(2)]
        url, admin_token = (line.partition("=")[2] for line in lines)
        assert url, "the twin did not start"
        yield Twin(url, admin_token)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


@contextlib.contextmanager
def twin_thread(*, users: int, seed: int = 7, faults: str = "", **options: Any) -> Iterator[Twin]:
    """A sandbox in a thread of this process: starting a process takes longer than most tests of a sandbox."""
    chosen = SandboxOptions(users=users, seed=seed, faults=faults_from_text(faults, seed=seed), **options)
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(Sandbox(chosen)) as running,
    ):
        yield Twin(running.url, running.admin_token)


@pytest.fixture(scope="session")
def twin() -> Iterator[Twin]:
    """A small sandbox that no test changes for the others."""
    with twin_thread(users=12) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own and no ``FLOWMATE_*`` variable."""
    for name in [name for name in os.environ if name.startswith("FLOWMATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """Return the only error on stderr, which says what is wrong."""
        assert "Traceback" not in self.err
        assert len(self.complaints) == 1, self.err
        return self.complaints[0]

    @property
    def complaints(self) -> list[str]:
        """Return the warnings and errors on stderr, of lines of text or of a JSON log."""
        return [text for text in map(complaint_of, self.err.splitlines()) if text is not None]

    @property
    def events(self) -> list[dict]:
        """Return the lines of stderr, which are all JSON."""
        return [msgspec.json.decode(line) for line in self.err.splitlines()]


def complaint_of(line: str) -> str | None:
    if line.startswith("{"):
        found = msgspec.json.decode(line)
        return found["message"] if found["level"] == "error" else None
    return line.removeprefix("flowmate: ") if line.startswith("flowmate: ") else None


@pytest.fixture
def flowmate(home: Path, capsys: pytest.CaptureFixture[str]):
    """Run a command in this process."""

    def command(*arguments: str) -> Ended:
        capsys.readouterr()
        code = run(list(arguments))
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return command


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command in this process try again soon, where upstream stays unavailable."""
    monkeypatch.setattr(wiring, "RetryPolicy", partial(RetryPolicy, base_seconds=0.01))
    soon = partial(BreakerPolicy, open_seconds=0.1, max_open_seconds=0.1)
    monkeypatch.setattr(wiring, "BreakerPolicy", soon)


@pytest.fixture
def connected(twin: Twin, monkeypatch: pytest.MonkeyPatch, home: Path) -> Twin:
    """The sandbox, named by the environment, and a store with its key."""
    connect(twin, monkeypatch, home)
    return twin


def connect(twin: Twin, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Name a sandbox and a store by the environment."""
    monkeypatch.setenv("FLOWMATE_BASE_URL", twin.url)
    monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", twin.admin_token)
    monkeypatch.setenv("FLOWMATE_RATE", "0")
    monkeypatch.setenv("FLOWMATE_STORE", f"sqlite:///{home / 'credentials.db'}")
    monkeypatch.setenv("FLOWMATE_STORE_KEY", "5a" * 32)


@contextlib.contextmanager
def answering(raw: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that answers every connection with these bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                connection.settimeout(5)
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                connection.recv(65536)
                connection.sendall(raw)
            except OSError:
                pass
            finally:
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        host, port = listener.getsockname()
        yield f"{'https' if tls else 'http'}://{host}:{port}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=10)


def http(
    body: bytes, *, status: str = "200 OK", kind: str = "application/json", length: int | None = None
) -> bytes:
    announced = len(body) if length is None else length
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {announced}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
