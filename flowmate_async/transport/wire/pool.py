"""The connection pool of one transport (LIFO): the most recently used is reused, idle ones are closed."""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial

from flowmate_async.transport.base import TransportError
from flowmate_async.transport.deadlines import Sweeper
from flowmate_async.transport.wire.connection import Connection, ReadBuffer
from flowmate_async.transport.wire.dialling import Dialler

_CLOSE_SECONDS = 1.0
_SHARE_OF_TIMEOUT = 0.8
"""Share of the server's own keep-alive for which a connection is kept; the rest is for the way there."""


Use = Callable[[Connection | BaseException], object]
"""Called with a connection or the error."""


class Pool:
    """A stack of idle connections. It has no limit: the sender decides how many are in use.

    Args:
        dialler: makes connections.
        keep_alive_seconds: how long an idle connection is kept, if the server does not keep it for less.
    """

    __slots__ = (
        "_buffer",
        "_closed",
        "_connections",
        "_dialler",
        "_dialling",
        "_idle",
        "_keep_alive_seconds",
        "_loop",
        "_sweeper",
    )

    def __init__(self, dialler: Dialler, *, keep_alive_seconds: float) -> None:
        self._dialler = dialler
        self._keep_alive_seconds = keep_alive_seconds
        self._loop = asyncio.get_running_loop()
        self._sweeper = Sweeper(self._sweep, self._loop)
        self._buffer = ReadBuffer()
        self._dialling: set[asyncio.Task[Connection]] = set()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._closed: asyncio.Event | None = None

    def take(self, now: float, due: float) -> Connection | None:
        """Return the idle connection that was used last, now due by then; ``None`` if there is none."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.due > now and not connection.is_closing() and not connection.has_unread():
                connection.due = due
                if due < self._sweeper.armed_for:
                    self._sweeper.arm(due)
                return connection
            connection.close()
        return None

    async def make(self, *, now: float, due: float) -> Connection:
        """Return a new connection, for an exchange that is due by then.

        Raises:
            TransportError: ``connect`` or ``tls``.
        """
        connection = await self._dialler.dial(self._connection, seconds=due - now)
        if self._closed is not None:
            connection.close()
            raise TransportError("connect", "the transport was closed meanwhile")
        if connection.is_closing():
            raise TransportError("connect", "the connection was closed as soon as it was made")
        self._connections.add(connection)
        connection.due = due
        self._sweeper.arm(due)
        return connection

    def make_for(self, use: Use, *, now: float, due: float) -> None:
        """Make a connection without being awaited; see :meth:`make`.

        Args:
            use: called once, with the connection or with why there is none.
            now: the time.
            due: when the exchange is due.
        """
        dialling = self._loop.create_task(self.make(now=now, due=due))
        self._dialling.add(dialling)
        dialling.add_done_callback(partial(self._made, use))

    def _made(self, use: Use, dialling: asyncio.Task[Connection]) -> None:
        self._dialling.discard(dialling)
        if dialling.cancelled():
            use(TransportError("connect", "the transport was closed meanwhile"))
        elif (error := dialling.exception()) is not None:
            use(error.with_traceback(None))
        else:
            use(dialling.result())

    def _connection(self) -> Connection:
        return Connection(self, self._loop, self._buffer)

    async def aclose(self) -> None:
        """Close every connection, and wait until their sockets are."""
        self._closed = asyncio.Event()
        self._sweeper.stop()
        for dialling in self._dialling:
            dialling.cancel()
        if self._dialling:
            await asyncio.wait(self._dialling)
        for connection in list(self._connections):
            connection.close(TransportError("interrupted", "the transport was closed"))
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._closed.wait()
        await self._dialler.aclose()

    # What connections report.

    def released(self, connection: Connection, keep_alive_hint: bytes | None) -> None:
        """See :class:`flowmate_async.transport.wire.connection.ConnectionListener`."""
        seconds = self._keep_alive_seconds
        if keep_alive_hint is not None:
            seconds = min(seconds, _hinted_seconds(keep_alive_hint))
        connection.due = due = time.monotonic() + seconds
        self._idle.append(connection)
        if due < self._sweeper.armed_for:
            self._sweeper.arm(due)

    def unusable(self, connection: Connection) -> None:
        """See :class:`flowmate_async.transport.wire.connection.ConnectionListener`."""
        if connection in self._idle:
            self._idle.remove(connection)

    def stale(self) -> None:
        """Close all idle connections: if one was found closed, the others probably are as well."""
        for connection in self._idle[::-1]:
            connection.close()

    def lost(self, connection: Connection) -> None:
        """See :class:`flowmate_async.transport.wire.connection.ConnectionListener`."""
        self.unusable(connection)
        self._connections.discard(connection)
        if self._closed is not None and not self._connections:
            self._closed.set()

    def _sweep(self, now: float) -> float:
        for connection in [one for one in self._connections if one.due <= now]:
            connection.overdue()
        return min((one.due for one in self._connections if not one.is_closing()), default=math.inf)


@lru_cache(maxsize=64)
def _hinted_seconds(keep_alive: bytes) -> float:
    """Return how long to keep an idle connection of a server that says ``Keep-Alive: timeout=5``."""
    for parameter in keep_alive.split(b","):
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"timeout" and value.strip().isdigit():
            return int(value.strip()[:9]) * _SHARE_OF_TIMEOUT
    return math.inf
