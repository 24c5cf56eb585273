"""A server that sends exactly the given bytes, valid or not, and records its requests.

For tests of transports: it knows just enough HTTP to tell where a request ends.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

import msgspec

__all__ = [
    "SILENCE",
    "Answer",
    "Ending",
    "ScriptedServer",
    "chunked",
    "http",
    "split",
]

Ending = Literal["stay", "close", "reset"]
"""What happens to the connection after an answer: it stays open, is closed, or is reset."""


class Answer(msgspec.Struct, frozen=True):
    """One answer: its bytes in pieces, each sent separately, and what happens after the last.

    Attributes:
        pieces: the bytes.
        then: see :data:`Ending`.
        pause_seconds: between two pieces.
    """

    pieces: tuple[bytes, ...]
    then: Ending = "stay"
    pause_seconds: float = 0.0


SILENCE = Answer(())
"""Return no answer, on a connection that stays open."""


def http(
    body: bytes = b"{}",
    status: str = "200 OK",
    *headers: str,
    length: int | None = None,
    version: str = "HTTP/1.1",
    then: Ending = "stay",
) -> Answer:
    """Return an answer with the body's ``Content-Length`` or another; without one if it is negative."""
    lines = [f"{version} {status}", "Content-Type: application/json", *headers]
    length = len(body) if length is None else length
    if length >= 0:
        lines.append(f"Content-Length: {length}")
    return Answer((("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body,), then)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", then: Ending = "stay") -> Answer:
    """Return a chunked answer with the given end."""
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return http(framed + end, "200 OK", "Transfer-Encoding: chunked", length=-1, then=then)


def split(answer: Answer, size: int = 1, *, pause_seconds: float = 0.0) -> Answer:
    """Return the same answer in pieces of that many bytes."""
    data = b"".join(answer.pieces)
    pieces = tuple(data[at : at + size] for at in range(0, len(data), size))
    return Answer(pieces, answer.then, pause_seconds)


class ScriptedServer:
    """Answers every request with the next answer of its script; after the last, it stays silent.

    Use it as ``async with ScriptedServer(http(), ...) as server``.

    Args:
        answers: the script.
        tls: serve HTTPS with this context.

    Attributes:
        url: where it listens: on loopback, on a free port.
        requests: the bytes of every request, as received.
        connections: how many connections were made to it.
        asked: set with the first request.
        writers: of the connections made to it.
    """

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answers: list[Answer] = list(answers)
        self.requests: list[bytes] = []
        self.connections: int = 0
        self.asked: asyncio.Event = asyncio.Event()
        self.url: str = ""
        self._tls = tls
        self.writers: list[asyncio.StreamWriter] = []
        self._ended: list[asyncio.Event] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        for ended in self._ended:
            await ended.wait()

    @property
    def heads(self) -> list[str]:
        """Return the requests as lower-case text."""
        return [request.decode("latin-1").lower() for request in self.requests]

    async def say(self, data: bytes, *, connection: int = -1) -> None:
        """Send unsolicited bytes."""
        self.writers[connection].write(data)
        await self.writers[connection].drain()

    def hang_up(self, *, connection: int = -1) -> None:
        """Close a connection."""
        self.writers[connection].close()

    async def gone(self, *, connection: int = -1, seconds: float = 3.0) -> None:
        """Wait until the client has closed a connection.

        Raises:
            TimeoutError: it was not closed within that time.
        """
        async with asyncio.timeout(seconds):
            await self._ended[connection].wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        ended = asyncio.Event()
        self._ended.append(ended)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
                while await self._answer(reader, writer) == "stay":
                    pass
            writer.close()
        finally:
            ended.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Ending:
        self.requests.append(await _read_request(reader))
        self.asked.set()
        answer = self.answers.pop(0) if self.answers else SILENCE
        await _send(answer.pieces, writer, answer.pause_seconds)
        if answer.then == "reset":
            writer.transport.abort()
        return answer.then


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
    return head + await reader.readexactly(sum(lengths))


async def _send(pieces: Sequence[bytes], writer: asyncio.StreamWriter, pause_seconds: float) -> None:
    for piece in pieces:
        if writer.transport.is_closing():
            raise ConnectionResetError("the client has gone")  # uvloop would say it in a RuntimeError
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause_seconds)
