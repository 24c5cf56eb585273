"""The connections of one transport: the one used last is used next, the others age and are closed."""

import asyncio
import math
import time
from contextlib import suppress
from functools import lru_cache

from flowmate_async.transport.base import Response, TransportError
from flowmate_async.transport.deadlines import Sweeper
from flowmate_async.transport.wire.connection import Connection
from flowmate_async.transport.wire.dialling import Dialler

_CLOSE_SECONDS = 1.0
_SHARE_OF_TIMEOUT = 0.8
"""How much of the server's own keep-alive an idle connection is kept for; the rest is for the way there."""


class Pool:
    """A stack of idle connections. It has no limit: whoever sends decides how many are in use.

    Args:
        dialler: makes connections.
        keep_alive_seconds: how long an idle connection is kept, if the server does not keep it for less.
    """

    __slots__ = ("_closed", "_connections", "_dialler", "_idle", "_keep_alive_seconds", "_loop", "_sweeper")

    def __init__(self, dialler: Dialler, *, keep_alive_seconds: float) -> None:
        self._dialler = dialler
        self._keep_alive_seconds = keep_alive_seconds
        self._loop = asyncio.get_running_loop()
        self._sweeper = Sweeper(self._sweep, self._loop)
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._closed: asyncio.Event | None = None

    def take(self, *, now: float, due: float) -> Connection | None:
        """The idle connection that was used last, now due by then; ``None`` when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.due > now and connection.usable and not connection.has_unread():
                connection.due = due
                if due < self._sweeper.armed_for:
                    self._sweeper.arm(due)
                return connection
            connection.close()
        return None

    async def make(self, *, now: float, due: float) -> Connection:
        """A new connection, for an exchange that is due by then.

        Raises:
            TransportError: ``connect`` or ``tls``.
        """
        connection = await self._dialler.dial(lambda: Connection(self, self._loop), seconds=due - now)
        if self._closed is not None:
            connection.close()
            raise TransportError("connect", "the transport was closed meanwhile")
        if not connection.usable:
            raise TransportError("connect", "the connection was closed as soon as it was made")
        self._connections.add(connection)
        connection.due = due
        self._sweeper.arm(due)
        return connection

    async def aclose(self) -> None:
        """Close every connection, and wait until their sockets are."""
        self._closed = asyncio.Event()
        self._sweeper.stop()
        for connection in list(self._connections):
            connection.close(TransportError("interrupted", "the transport was closed"))
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._closed.wait()

    # What connections report.

    def released(self, connection: Connection, response: Response) -> None:
        """See :class:`flowmate_async.transport.wire.connection.Owner`."""
        seconds = self._keep_alive_seconds
        if (hint := response.headers.get("keep-alive")) is not None:
            seconds = min(seconds, _hinted_seconds(hint))
        connection.due = due = time.monotonic() + seconds
        self._idle.append(connection)
        if due < self._sweeper.armed_for:
            self._sweeper.arm(due)

    def unusable(self, connection: Connection) -> None:
        """See :class:`flowmate_async.transport.wire.connection.Owner`."""
        if connection in self._idle:
            self._idle.remove(connection)

    def stale(self) -> None:
        """Close what is idle: where one connection was found closed, its neighbours are no better."""
        for connection in self._idle[::-1]:
            connection.close()

    def lost(self, connection: Connection) -> None:
        """See :class:`flowmate_async.transport.wire.connection.Owner`."""
        self.unusable(connection)
        self._connections.discard(connection)
        if self._closed is not None and not self._connections:
            self._closed.set()

    def _sweep(self, now: float) -> float:
        for connection in [one for one in self._connections if one.due <= now]:
            connection.overdue()
        return min((one.due for one in self._connections if one.usable), default=math.inf)


@lru_cache(maxsize=64)
def _hinted_seconds(keep_alive: str) -> float:
    """How long to keep an idle connection of a server that says ``Keep-Alive: timeout=5``."""
    for parameter in keep_alive.split(","):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "timeout" and value.strip().isdecimal():
            return int(value.strip()[:9]) * _SHARE_OF_TIMEOUT
    return math.inf
