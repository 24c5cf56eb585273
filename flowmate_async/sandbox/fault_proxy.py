"""Fault proxy: raw TCP in front of any upstream; it cuts, stalls, splits and delays the bytes.

It knows nothing about HTTP, so it finds mistakes that a server's own faults cannot: an answer in one-byte
segments, a cut anywhere. Whether the upstream processed a request that was cut is random.

    async with FaultProxy(sandbox.url, ProxyOptions(seed=7, split_bytes=2000)) as proxy:
        print(proxy.url)
"""

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from random import Random
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

_HOST = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024
_LINGER_NOT = struct.pack("ii", 1, 0)
_NEVER = -1
_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the proxy does. With the same seed, the n-th connection gets the same faults in each direction."""

    seed: int = 0
    """The same seed makes the same random choices."""

    cut_share: float = 0.0
    """Share of connections that are reset, in one of the two directions."""

    cut_within_bytes: int = 2000
    """A cut comes after a random number of bytes below this."""

    stall_share: float = 0.0
    """Share of connections that stop once, in one of the two directions."""

    stall_seconds: float = 1.0
    """How long such a connection stops."""

    stall_within_bytes: int = 2000
    """It stops after a random number of bytes below this."""

    split_bytes: int = 0
    """The number of first bytes of each direction that are sent one by one, each in its own segment."""

    up_delay_seconds: float = 0.0
    """Mean delay of each chunk towards the upstream, exponential: timing is reordered."""

    down_delay_seconds: float = 0.0
    """The same on the way back."""

    max_connections: int = 1000
    """Further connections are closed at once."""


class ProxyStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy has done so far.

    Attributes:
        connections: accepted connections.
        open: currently open connections.
        turned_away: connections above ``max_connections``.
        cuts: connections it reset.
        stalls: connections it stopped once.
        bytes_up: bytes it passed to the upstream.
        bytes_down: bytes it passed back.
    """

    connections: int = 0
    open: int = 0
    turned_away: int = 0
    cuts: int = 0
    stalls: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class FaultProxy:
    """TCP proxy on loopback, for ``async with``; leaving the block resets what is open.

    Args:
        target: URL of the upstream behind it.
        options: what it does; by default it only passes bytes on.
    """

    def __init__(self, target: str, options: ProxyOptions | None = None) -> None:
        parts = urlsplit(target)
        self._scheme = parts.scheme
        self._target = (parts.hostname or _HOST, parts.port or _DEFAULT_PORTS[parts.scheme])
        self._options = options or ProxyOptions()
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._counted = Counter[str]()

    @property
    def url(self) -> str:
        """Where the proxy listens, with the scheme of its target; known once it runs."""
        assert self._server is not None, "the proxy does not run"  # noqa: S101 - a mistake of the caller
        return f"{self._scheme}://{_HOST}:{self._server.sockets[0].getsockname()[1]}"

    def stats(self) -> ProxyStats:
        """Return the counters."""
        return ProxyStats(open=len(self._running), **self._counted)

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, _HOST, 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and reset every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        # An aborted transport releases its socket two loop iterations later.
        for _ in range(3):
            await asyncio.sleep(0)
        self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._running) >= self._options.max_connections:
            self._counted["turned_away"] += 1
            _reset(writer)
            return
        number = self._counted["connections"]
        self._counted["connections"] += 1
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server made it
        self._running.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._carry(number, reader, writer)
        finally:
            # After an orderly close nothing is left to reset.
            _reset(writer)
            self._running.discard(task)

    async def _carry(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_upstream, to_upstream = await asyncio.open_connection(*self._target)
        up, down = self._lanes(number)
        carrying = (
            asyncio.create_task(up.carry(reader, to_upstream)),
            asyncio.create_task(down.carry(from_upstream, writer)),
        )
        try:
            await asyncio.gather(*carrying)
            for end in (writer, to_upstream):
                end.close()
                await end.wait_closed()
        finally:
            # Before the wait, which closing the proxy may interrupt.
            _reset(to_upstream)
            for task in carrying:
                task.cancel()
            await asyncio.wait(carrying)

    def _lanes(self, number: int) -> tuple["_Lane", "_Lane"]:
        """Choose everything that will happen to the n-th connection, before its first byte."""
        options = self._options
        rng = Random(f"{options.seed}/{number}")  # noqa: S311 - repeatable on purpose
        up = _Lane(rng.random(), options, self._counted, "bytes_up", options.up_delay_seconds)
        down = _Lane(rng.random(), options, self._counted, "bytes_down", options.down_delay_seconds)
        cut, stall = rng.random() < options.cut_share, rng.random() < options.stall_share
        cut_lane, stall_lane = rng.choice((up, down)), rng.choice((up, down))
        cut_at, stall_at = rng.randrange(options.cut_within_bytes), rng.randrange(options.stall_within_bytes)
        if cut:
            cut_lane.cut_at = cut_at
        if stall:
            stall_lane.stall_at = stall_at
        return up, down


class _Lane:
    """One direction of one connection."""

    __slots__ = ("_counted", "_delay_seconds", "_name", "_options", "_rng", "_sent", "cut_at", "stall_at")

    def __init__(
        self, seed: float, options: ProxyOptions, counted: Counter[str], name: str, delay_seconds: float
    ) -> None:
        self._rng = Random(seed)  # noqa: S311 - repeatable on purpose
        self._options = options
        self._counted = counted
        self._name = name
        self._delay_seconds = delay_seconds
        self._sent = 0
        self.cut_at = self.stall_at = _NEVER

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes until the end of the stream; raise ``ConnectionResetError`` for a cut."""
        while chunk := await reader.read(_CHUNK_BYTES):
            if self._delay_seconds:
                await asyncio.sleep(self._rng.expovariate(1 / self._delay_seconds))
            rest = memoryview(chunk)
            while rest:
                await self._obey_faults()
                size = self._piece_bytes(len(rest))
                writer.write(bytes(rest[:size]))
                await writer.drain()
                self._sent += size
                self._counted[self._name] += size
                rest = rest[size:]
        writer.write_eof()

    async def _obey_faults(self) -> None:
        if self._sent == self.stall_at:
            self.stall_at = _NEVER
            self._counted["stalls"] += 1
            await asyncio.sleep(self._options.stall_seconds)
        if self._sent == self.cut_at:
            self._counted["cuts"] += 1
            raise ConnectionResetError("cut by the fault proxy")
        if 0 < self._sent <= self._options.split_bytes:
            # One loop iteration lets the previous byte leave in its own segment.
            await asyncio.sleep(0)

    def _piece_bytes(self, available: int) -> int:
        if self._sent < self._options.split_bytes:
            return 1
        stops = (place - self._sent for place in (self.cut_at, self.stall_at) if place > self._sent)
        return min(available, *stops, available)


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
