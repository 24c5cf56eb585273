"""A running sandbox and a plain HTTP caller; nothing of the client is used in this folder."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from flowmate_async.sandbox import Sandbox, SandboxOptions


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker by which a test claims lines of the contract (test_observed.py)."""
    config.addinivalue_line("markers", "observes(section, *beginnings): the lines of OBSERVED.md it proves")


class Reply(msgspec.Struct, frozen=True):
    """One answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode the body."""
        return msgspec.json.decode(self.body)


class Caller:
    """Raw requests to one sandbox."""

    def __init__(self, session: aiohttp.ClientSession, sandbox: Sandbox) -> None:
        self._session = session
        self._sandbox = sandbox

    async def send(self, method: str, path: str, token: str | None = None, **options: Any) -> Reply:
        """Send one request; header names of the reply are in lower case."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        headers |= options.pop("headers", {})
        # `encoded` keeps the target as it is written: brackets are part of what is tested.
        target = URL(self._sandbox.url + path, encoded=True)
        async with self._session.request(method, target, headers=headers, **options) as response:
            lower = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, lower, await response.read())

    async def get(self, path: str, token: str | None = None, **options: Any) -> Reply:
        """GET."""
        return await self.send("GET", path, token, **options)

    async def impersonate(self, username: str) -> str:
        """Return a token of the user."""
        reply = await self.send(
            "POST", "/impersonate", self._sandbox.admin_token, json={"username": username}
        )
        assert reply.status == 200, reply
        token: str = reply.json()["token"]
        return token

    async def admin(self, method: str, errand: str, **options: Any) -> Reply:
        """Ask one of the sandbox's own routes."""
        return await self.send(method, f"/_sandbox/{errand}", self._sandbox.admin_token, **options)


class Line:
    """One connection, spoken by hand: what a broken answer looks like byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def ask(self, path: str, token: str | None = None, *, method: str = "GET", body: bytes = b"") -> None:
        """Send a whole request."""
        head = f"{method} {path} HTTP/1.1\r\nHost: sandbox\r\nContent-Length: {len(body)}\r\n"
        if token is not None:
            head += f"Authorization: Bearer {token}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)

    async def rest(self) -> tuple[bytes, str]:
        """Read to the end of the stream: what came, and whether it was "closed" or "reset"."""
        came = b""
        async with asyncio.timeout(10):
            try:
                while some := await self._reader.read(65536):
                    came += some
            except ConnectionResetError:
                return came, "reset"
        return came, "closed"

    async def come(self, size: int) -> bytes:
        """Read exactly so many bytes."""
        async with asyncio.timeout(10):
            return await self._reader.readexactly(size)

    async def reply(self) -> Reply:
        """Read one whole answer as `Content-Length` has it."""
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(first.split()[1]), headers, body)

    def close(self) -> None:
        """Close this end."""
        self._writer.close()


@pytest.fixture
async def dial() -> AsyncIterator[Callable[[str], Awaitable[Line]]]:
    """Connect to a URL; the connections are closed after the test."""
    lines: list[Line] = []

    async def connect(url: str) -> Line:
        parts = URL(url)
        lines.append(Line(*await asyncio.open_connection(parts.host, parts.port)))
        return lines[-1]

    yield connect
    for line in lines:
        line.close()


Running = Callable[..., AbstractAsyncContextManager[tuple[Sandbox, Caller]]]


@pytest.fixture
def running() -> Running:
    """Return a context manager of a sandbox and somebody to call it; it takes the sandbox's options."""
    return _running


@asynccontextmanager
async def _running(**options: Any) -> AsyncIterator[tuple[Sandbox, Caller]]:
    async with (
        Sandbox(SandboxOptions(**options)) as sandbox,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield sandbox, Caller(session, sandbox)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Give way until a condition holds; fail when it never does."""
    return _until


async def _until(condition: Callable[[], object]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came about")


@pytest.fixture
def quick() -> dict[str, Any]:
    """The upstream's lock times, ten times faster: 1 s there is 0.1 s here."""
    return {"lock_seconds": 1.0, "lock_wait_seconds": (0.1, 0.14)}


class Clock:
    """A wall clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.instant = 1_800_000_000.0

    def __call__(self) -> float:
        return self.instant

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.instant += seconds


@pytest.fixture
def clock() -> Clock:
    """A clock to move by hand."""
    return Clock()
