"""One connection: it sends one request at a time and reads the answer."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from flowmate_async.transport.base import Response, TransportError
from flowmate_async.transport.stale_check import nothing_unread, unread_on
from flowmate_async.transport.wire.framing import MAX_HEAD_BYTES, AnswerReader
from flowmate_async.transport.wire.serialising import Serialised

Result = Response | TransportError
"""The outcome of an exchange. A value, since a raised exception would carry frames."""

Then = Callable[[Result], object]
"""Called once with the outcome of an exchange."""


class ReadBuffer:
    """The memory into which the connections of one event loop read, one after another.

    The loop asks for it, reads and reports in one step, so that connections can share it. What was read is
    overwritten in the same step.

    Attributes:
        view: the memory.
        blank: what it is overwritten with.
    """

    __slots__ = ("blank", "view")

    def __init__(self) -> None:
        self.view: memoryview = memoryview(bytearray(MAX_HEAD_BYTES))
        self.blank: memoryview = memoryview(bytes(MAX_HEAD_BYTES))


class ConnectionListener(Protocol):
    """Receives the events of connections; usually the pool."""

    def released(self, connection: "Connection", keep_alive_hint: bytes | None) -> None:
        """Note that a connection has received a complete answer and can carry another request.

        Args:
            connection: the connection.
            keep_alive_hint: the answer's ``Keep-Alive`` header.
        """

    def unusable(self, connection: "Connection") -> None:
        """Note that a connection must not be used any more."""

    def stale(self) -> None:
        """Note that the server had closed a connection when it was used again."""

    def lost(self, connection: "Connection") -> None:
        """Note that a connection's socket is closed."""


class Connection(asyncio.BufferedProtocol):
    """The protocol of one connection; never two requests at a time (no pipelining).

    Back-pressure needs no code: the write buffer holds one request at most, since the next is written only
    after the answer; the answer is read into a body that has a cap.

    Args:
        listener: receives the events of this connection.
        loop: the loop it lives on.
        buffer: where the loop reads to.

    Attributes:
        has_unread: returns whether something waits that the loop has not looked at.
        is_closing: returns whether the socket is closed, or about to be.
        due: when this connection is overdue, in seconds of ``time.monotonic``: the deadline of its
            exchange, or the end of its idle time.
        on_lost: told when the socket is closed, and with which error.
    """

    __slots__ = (
        "_buffer",
        "_listener",
        "_loop",
        "_reader",
        "_reused",
        "_then",
        "_transport",
        "due",
        "has_unread",
        "is_closing",
        "on_lost",
    )

    def __init__(
        self, listener: ConnectionListener, loop: asyncio.AbstractEventLoop, buffer: ReadBuffer
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._buffer = buffer
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._then: Then | None = None
        self._reused = False
        self.due: float = 0.0
        self.has_unread: Callable[[], object] = nothing_unread
        self.is_closing: Callable[[], bool] = _not_open
        self.on_lost: Callable[[Exception | None], object] | None = None

    def exchange(self, request: Serialised, max_body_bytes: int, then: Then) -> None:
        """Write a request.

        Args:
            request: what to write.
            max_body_bytes: maximum bytes of the answer's body.
            then: told how the exchange ends, after this has returned; never if it is abandoned.
        """
        self._then = then
        reader = self._reader
        reader.max_body_bytes = max_body_bytes
        reader.head_only = request.head_only
        try:
            self._transport.write(request.data)  # type: ignore[union-attr]
        except Exception:  # noqa: BLE001 - uvloop raises on a closed socket; this frame holds the request
            self._loop.call_soon(self.close, self._broken())

    def abandon(self, then: Then) -> None:
        """Close the connection if it is still at this exchange: the rest of the answer is not needed."""
        if self._then is then:
            self.close()

    def overdue(self) -> None:
        """End the exchange with ``timeout``, or close the idle connection."""
        if self._then is None:
            self.close()
        else:
            self.close(TransportError("timeout", ""))

    def close(self, outcome: Result | None = None) -> None:
        """Close immediately, without waiting for pending writes.

        Args:
            outcome: how a pending exchange ends.
        """
        then, self._then = self._then, None
        self._listener.unusable(self)
        if self._transport is not None:
            self._transport.abort()
        if then is not None and outcome is not None:
            then(outcome)

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected, and the TLS handshake is done."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_closing = transport.is_closing
        self.has_unread = unread_on(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's
        """Lend the shared memory until :meth:`buffer_updated`, which follows in the same step."""
        return self._buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        """Read the answer. Unrequested bytes close the connection: they must not answer a later request."""
        buffer, reader, then = self._buffer, self._reader, self._then
        data = buffer.view[:nbytes]
        outcome = None if then is None else reader.feed(data)
        data[:] = buffer.blank[:nbytes]
        if then is None:
            self.close()
        elif type(outcome) is Response and reader.keep_alive:
            self._then = None
            self._reused = True
            self._listener.released(self, reader.keep_alive_hint)
            then(outcome)
        elif outcome is not None:
            self.close(outcome)

    def eof_received(self) -> None:
        """The server will send nothing more."""
        if self._then is None:
            self.close()
        else:
            self.close((self._reader.end() if self._ended_by_the_server() else None) or self._broken())

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if self._then is not None:
            self.close(self._broken())
        self._transport = None
        self.is_closing = _not_open
        self._reader.close()
        if self.on_lost is not None:
            self.on_lost(exc)
        self._listener.lost(self)

    def _ended_by_the_server(self) -> bool:
        """Return whether the server itself ended the connection: others on the path can end TCP, not TLS."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if tls is None:
            return True
        try:
            return not tls.read(1)  # after the server's end of TLS; else there would be more to wait for
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def _broken(self) -> TransportError:
        if self._reader.started:
            return TransportError("interrupted", "the answer ended early")
        if self._reused:
            self._listener.stale()
            return TransportError("stale", "the server closed the connection before it answered")
        return TransportError("interrupted", "the connection was closed before the answer")


def _not_open() -> bool:
    return True
