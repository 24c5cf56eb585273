"""A server of canned answers, for machines without nginx: minimal work per request in Python.

It trusts its clients and is for loopback only. As a process (``python -m
flowmate_async.bench.static_server``) it prints its URL, and ends with stdin.
"""

import asyncio
import importlib.util
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio

from flowmate_async.bench.canned import ANSWERS, CannedResponse
from flowmate_async.bench.rounds import Target
from flowmate_async.errors import UpstreamUnavailableError

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def _serialised(answer: CannedResponse) -> bytes:
    fields = (*answer.headers, ("Content-Length", str(len(answer.body))), ("Keep-Alive", "timeout=600"))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + answer.body


_ANSWERS = {path.encode(): _serialised(answer) for path, answer in ANSWERS.items()}


class _Connection(asyncio.Protocol):
    """One connection: answers each request as soon as it is complete."""

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end) if self._buffer.startswith(b"POST") else None
            end += 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < end:
                return
            path = self._buffer.split(b" ", 2)[1].partition(b"?")[0]
            self._buffer = self._buffer[end:]
            self._write(_ANSWERS.get(path, _NOT_FOUND))


async def _serve() -> None:
    """Listen until stdin ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await loop.run_in_executor(None, sys.stdin.read)


@contextmanager
def _cores_apart(server: int) -> Iterator[None]:
    """Pin this process and the server to different cores, if the system supports it and has two."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if len(cores) < 2:
        yield
        return
    os.sched_setaffinity(0, {cores[0]})
    os.sched_setaffinity(server, {cores[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@asynccontextmanager
async def running_server() -> AsyncIterator[Target]:
    """Run the server in its own process, on another core than this process if possible.

    Raises:
        UpstreamUnavailableError: it does not start.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "flowmate_async.bench.static_server"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        with _cores_apart(process.pid):
            yield Target(url=await _announced(process))
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _announced(process: asyncio.subprocess.Process) -> str:
    url = (await process.stdout.readline()).decode().strip() if process.stdout else ""
    if not url:
        raise UpstreamUnavailableError("the server of canned answers does not start")
    return url


if __name__ == "__main__":
    anyio.run(_serve, backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None})
