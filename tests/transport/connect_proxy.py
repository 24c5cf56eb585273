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
        self._serving = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._serving.add(asyncio.current_task())
        async with closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head.lower())
            writer.write(f"HTTP/1.1 {self._status}\r\n\r\n".encode())
            await writer.drain()
            if self._status.startswith("200"):
                host, _, port = head.split(" ")[1].rpartition(":")
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
                async with closing(far_writer):
                    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


@contextlib.asynccontextmanager
async def closing(writer):
    """Close a connection at once, and wait until it is closed."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()


async def pump(source, sink):
    """Copy bytes until either side ends."""
    with contextlib.suppress(OSError, RuntimeError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
