"""An HTTP proxy on loopback that tunnels (CONNECT), and remembers what it was asked."""

import asyncio
import contextlib


class ConnectProxy:
    """Use it as ``async with ConnectProxy() as proxy``.

    Args:
        status: what it answers; it tunnels if that is 200.

    Attributes:
        url: where it listens.
        heads: what it was asked, in lower case.
    """

    def __init__(self, status="200 Connection established"):
        self.heads = []
        self._status = status
        self._tunnels = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for tunnel in self._tunnels:
            tunnel.cancel()
        await asyncio.gather(*self._tunnels, return_exceptions=True)

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head.lower())
        writer.write(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
        if not self._status.startswith("200"):
            writer.close()
            return
        host, _, port = head.split(" ")[1].rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            tunnel = asyncio.ensure_future(pump(source, sink))
            self._tunnels.add(tunnel)
            tunnel.add_done_callback(self._tunnels.discard)


async def pump(source, sink):
    """Copy bytes until either side ends."""
    with contextlib.suppress(OSError, RuntimeError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
