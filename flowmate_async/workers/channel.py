"""A channel between two processes of one machine: length-prefixed messages over a socket pair."""

import asyncio
import socket
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar

import msgspec

M = TypeVar("M")

_PREFIX_BYTES = 4
_encoder = msgspec.msgpack.Encoder()


class Channel(Generic[M]):
    """One end of a channel; ``M`` is the type of incoming messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, incoming: Any) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(incoming)

    @classmethod
    async def over(cls, connected: socket.socket, incoming: Any) -> Self:
        """Return a channel over a connected socket, which it owns from now on."""
        reader, writer = await asyncio.open_connection(sock=connected)
        return cls(reader, writer, incoming)

    def send(self, message: object) -> None:
        """Send without waiting. If the other end is gone, the message is lost and :meth:`receive` says so."""
        data = _encoder.encode(message)
        if not self._writer.is_closing():
            self._writer.write(len(data).to_bytes(_PREFIX_BYTES, "big") + data)

    async def drained(self) -> None:
        """Wait until most of the sent data has left the buffer."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> M | None:
        """Return the next message; ``None`` if the other end is gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_PREFIX_BYTES), "big")
            return self._decoder.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def aclose(self) -> None:
        """Close this end."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
