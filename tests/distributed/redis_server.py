"""A real Redis for the tests: on a free port, with one user and a password, gone with the process."""

import contextlib
import ctypes
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PASSWORD = "the-password-of-redis"
USER = "flowmate-tester"


class RedisServer:
    """A server that can be killed and started again; what it acknowledged it still has then.

    Its default user may do nothing; ``USER`` with ``PASSWORD`` may do everything.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.port = _free_port()
        self.process: subprocess.Popen | None = None
        (folder / "users.acl").write_text(f"user default off\nuser {USER} on >{PASSWORD} ~* &* +@all\n")

    @property
    def url(self) -> str:
        """Its URL, with user and password."""
        return f"redis://{USER}:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.start_only()
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)

    def start_only(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [
                self.program,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
                *("--aclfile", str(self.folder / "users.acl")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing but a system call
        )

    def kill(self) -> None:
        """End it without warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        """Let it accept connections and commands, and answer nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a hang: it carries out what it was sent meanwhile."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def keys(self, pattern: str) -> list[str]:
        """Return the names of what it holds."""
        return re.findall(r"^flowmate:\S+", self.ask("KEYS", pattern), re.MULTILINE)

    def ask(self, *command: str) -> str:
        """What it answers to a command, as its protocol has it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(_line("AUTH", USER, PASSWORD) + _line(*command) + _line("QUIT"))
            said = b""
            while piece := connection.recv(65536):
                said += piece
        return said.decode("utf-8", "backslashreplace")

    def everything(self) -> bytes:
        """Return everything that Redis ever persisted, including current names and values."""
        return b"".join(file.read_bytes() for file in sorted(self.folder.rglob("*.aof")))

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return "PONG" in self.ask("PING")
        return False


@contextlib.contextmanager
def redis_server(program: Path) -> Iterator[RedisServer]:
    """A running Redis with an empty database."""
    folder = Path(tempfile.mkdtemp(prefix="flowmate-redis-"))
    server = RedisServer(program, folder)
    try:
        server.start()
        yield server
    finally:
        with contextlib.suppress(AssertionError):
            server.kill()
        shutil.rmtree(folder)


def _line(*parts: str) -> bytes:
    encoded = [part.encode() for part in parts]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in encoded)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
