"""Listener: the listening socket, which can refuse connections for a moment and keeps its port."""

import asyncio
import socket
import ssl

import anyio
from aiohttp import web

_HOST = "127.0.0.1"
_BACKLOG = 1024
_REBIND_SECONDS = 0.005
_ACCEPTING_TURNS = 3


class Listener:
    """Loopback listener in front of a runner's server."""

    __slots__ = ("_bound", "_opening", "_runner", "_site", "_ssl_context", "port")

    def __init__(self, runner: web.ServerRunner, ssl_context: ssl.SSLContext | None) -> None:
        self._runner = runner
        self._ssl_context = ssl_context
        self._site: web.SockSite | None = None
        self._bound: socket.socket | None = None
        self._opening: asyncio.Task[None] | None = None
        self.port: int = 0

    async def open(self, port: int) -> None:
        """Listen on a port of loopback, 0 for a free one."""
        bound = _bound(port)
        self.port = int(bound.getsockname()[1])
        await self._listen(bound)

    def refuse(self, seconds: float) -> None:
        """Refuse connections for some seconds; an active refusal is not prolonged."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._pause(seconds))

    async def close(self) -> None:
        """End an active refusal; the runner itself stops listening."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])

    async def _pause(self, seconds: float) -> None:
        if self._site is not None and self._bound is not None:
            # A connection that is being accepted while its server closes is left open by the event loop
            # (CPython 3.11), so the last ones are let in first.
            asyncio.get_running_loop().remove_reader(self._bound)
            for _ in range(_ACCEPTING_TURNS):
                await asyncio.sleep(0)
            await self._site.stop()
            self._site = self._bound = None
        bound = await _bound_again(self.port)
        try:
            # Bound but not listening: connections are refused, and no other process gets the port.
            await anyio.sleep(seconds)
            await self._listen(bound)
        except BaseException:
            asyncio.get_running_loop().remove_reader(bound)
            bound.close()
            raise

    async def _listen(self, bound: socket.socket) -> None:
        site = web.SockSite(self._runner, bound, ssl_context=self._ssl_context, backlog=_BACKLOG)
        await site.start()
        self._site, self._bound = site, bound


async def _bound_again(port: int) -> socket.socket:
    # The loop may need an iteration to release the old socket.
    with anyio.fail_after(5):
        while True:
            try:
                return _bound(port)
            except OSError:
                await anyio.sleep(_REBIND_SECONDS)


def _bound(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)  # noqa: FBT003 - the standard library's signature
        made.bind((_HOST, port))
    except BaseException:
        made.close()
        raise
    return made
