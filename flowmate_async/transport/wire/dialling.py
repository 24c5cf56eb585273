"""Making connections: addresses from the loop, raced by aiohappyeyeballs, then TLS by ``ssl``."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import aiohappyeyeballs

from flowmate_async.transport.base import TransportError
from flowmate_async.transport.response_rules import not_connected, not_connected_in_time
from flowmate_async.transport.wire.connection import Connection

ADDRESSES_SECONDS = 10.0
"""How long addresses are used before they are looked up again."""

_HEAD_START_SECONDS = 0.25
"""Before the next address is tried as well (RFC 8305 § 5)."""


class Dialler(Protocol):
    """Makes the connections of one pool."""

    async def dial(self, factory: Callable[[], Connection], *, seconds: float) -> Connection:
        """Return a connection that is ready for a request.

        Args:
            factory: makes its protocol.
            seconds: how long it may take, if less than the dialler's own limit.

        Raises:
            TransportError: ``connect`` or ``tls``; nothing was sent.
        """
        ...

    async def aclose(self) -> None:
        """Release what it holds; every connection is closed by then."""
        ...


class DirectDialler:
    """Happy eyeballs (RFC 8305) to one origin, by aiohappyeyeballs, since uvloop has none of its own.

    Args:
        host: a name or an address.
        port: its port.
        tls: the context, or ``None`` for plain TCP.
        connect_seconds: bounds DNS, TCP and TLS together.
    """

    __slots__ = ("_addresses", "_asked_at", "_asking", "_connect_seconds", "_host", "_port", "_tls")

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None, connect_seconds: float) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._asking = asyncio.Lock()
        self._addresses: Sequence[Any] = ()
        self._asked_at = 0.0

    async def dial(self, factory: Callable[[], Connection], *, seconds: float) -> Connection:
        """See :class:`Dialler`."""
        try:
            async with asyncio.timeout(min(seconds, self._connect_seconds)):
                return await self._connected(factory)
        except TimeoutError:
            failure = not_connected_in_time()
        except (OSError, RuntimeError, ValueError) as error:  # uvloop: RuntimeError for some of the socket's
            failure = not_connected(error) if isinstance(error, OSError) else _unconnectable(error)
        self._addresses = ()  # they may have moved
        raise failure

    async def aclose(self) -> None:
        """See :class:`Dialler`."""

    async def _connected(self, factory: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        open_socket: socket.socket | None = None
        try:
            open_socket = await aiohappyeyeballs.start_connection(
                await self._resolved(), happy_eyeballs_delay=_HEAD_START_SECONDS
            )
            host = self._host if self._tls is not None else None
            _, connection = await loop.create_connection(
                factory, sock=open_socket, ssl=self._tls, server_hostname=host
            )
            open_socket = None
            return connection
        finally:
            if open_socket is not None:
                open_socket.close()

    async def _resolved(self) -> Sequence[Any]:
        """Return the origin's addresses. Connections made at the same time share one look-up."""
        async with self._asking:
            if not self._addresses or time.monotonic() - self._asked_at > ADDRESSES_SECONDS:
                self._addresses = ()
                loop = asyncio.get_running_loop()
                self._addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._asked_at = time.monotonic()
            return self._addresses


def _unconnectable(error: Exception) -> TransportError:
    return TransportError("connect", type(error).__name__)
