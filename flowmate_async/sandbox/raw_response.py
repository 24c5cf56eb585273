"""Raw response: writes a script's bytes directly to the connection, valid HTTP or not."""

import asyncio
import socket
import struct
import weakref
from email.utils import formatdate
from http import HTTPStatus

import anyio
from aiohttp import web

from flowmate_async.sandbox.byte_scripts import Ending, Script

_LINGER_NOT = struct.pack("ii", 1, 0)
_LOOK_SECONDS = 0.02

UNANSWERED = 0
"""Status of a request that got no complete answer."""

StaleConnections = weakref.WeakSet[asyncio.Transport]
"""Connections whose next request is to be reset."""


class RawResponse(web.StreamResponse):
    """Response from a byte script; its status is ``UNANSWERED`` if no whole answer is sent."""

    def __init__(self, script: Script, *, stale: StaleConnections, status: int) -> None:
        super().__init__(status=status, reason="")
        self._script = script
        self._stale = stale
        self._kept = script.ending in (Ending.KEPT, Ending.STALE)

    @property
    def keep_alive(self) -> bool | None:
        """Whether the server waits for another request on this connection."""
        return self._kept

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the steps of the script."""
        for step in self._script.steps:
            if isinstance(step, bytes):
                _open_transport(request).write(step)
            else:
                await anyio.sleep(step)
        await self._end(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing more."""

    async def _end(self, request: web.BaseRequest) -> None:
        self._kept = self._kept and request.keep_alive
        match self._script.ending:
            case Ending.STALE if self._kept:
                self._stale.add(_open_transport(request))
            case Ending.RESET:
                _reset(_open_transport(request))
            case Ending.SILENT:
                await caller_gone(request, self._script.seconds)
            case _:
                pass


def head_of(response: web.Response, request: web.BaseRequest, content_length: int) -> bytes:
    """Write the head that the server would, with any ``Content-Length``."""
    status = response.status
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items() if name != "Content-Length"]
    lines.append(f"Date: {formatdate(usegmt=True)}")
    lines.append(f"Content-Length: {content_length}")
    if not request.keep_alive:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


async def caller_gone(request: web.BaseRequest, seconds: float | None) -> None:
    """Wait until the caller closes the connection, or for some seconds."""
    with anyio.move_on_after(seconds):
        # The server does not tell a running handler that its connection was closed.
        while (  # noqa: ASYNC110 - it has no event to wait for
            transport := request.transport
        ) is not None and not transport.is_closing():
            await anyio.sleep(_LOOK_SECONDS)


def _open_transport(request: web.BaseRequest) -> asyncio.Transport:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the caller is gone")
    return transport


def _reset(transport: asyncio.Transport) -> None:
    """Reset the connection (RST) instead of closing it."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()
