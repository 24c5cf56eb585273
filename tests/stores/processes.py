"""Servers for the tests as processes that end with this one, however it ends."""

import contextlib
import ctypes
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def popen(command: list[str | Path], *, stop: signal.Signals = signal.SIGTERM, **options) -> subprocess.Popen:
    """Start a program; the system sends it ``stop`` when this process ends, also by SIGKILL."""

    def die_along() -> None:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, stop)

    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_along,  # noqa: PLW1509 - before any thread
        **options,
    )


@contextlib.contextmanager
def running(
    command: list[str | Path],
    answers: Callable[[], bool],
    *,
    stop: signal.Signals = signal.SIGTERM,
    **options,
) -> Iterator[subprocess.Popen]:
    """A server that answers; it ends with the block."""
    process = popen(command, stop=stop, **options)
    try:
        deadline = time.monotonic() + 60
        while not answers():
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} did not start"
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(stop)
        process.wait(timeout=30)


def free_port() -> int:
    """Return a loopback port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
