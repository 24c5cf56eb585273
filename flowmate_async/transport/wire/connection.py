"""One connection: a request out, its answer in, one at a time."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from flowmate_async.transport.base import Response, TransportError
from flowmate_async.transport.unread import unread_on
from flowmate_async.transport.wire.framing import AnswerReader

Outcome = Response | TransportError
"""How an exchange ended. A value, since an exception would carry the frames it came through."""

Then = Callable[[Outcome], object]
"""Is told once how an exchange ended."""


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def released(self, connection: "Connection", response: Response) -> None:
        """It has brought a whole answer and can carry another request."""

    def unusable(self, connection: "Connection") -> None:
        """It must not be handed out any more."""

    def stale(self) -> None:
        """A connection was found closed by the server when it was used again."""

    def lost(self, connection: "Connection") -> None:
        """Its socket is closed."""


class Connection(asyncio.Protocol):
    """The protocol of one connection; never two requests at a time (no pipelining).

    Back-pressure needs no code: the write buffer holds one request at most, since the next is written only
    after the answer; the answer is read into a body that has a cap.

    Args:
        owner: told what becomes of this connection.
        loop: the loop it lives on.

    Attributes:
        has_unread: whether something waits that the loop has not looked at.
        due: when this connection is overdue, in seconds of ``time.monotonic``: the deadline of its
            exchange, or the end of its idle time.
    """

    __slots__ = ("_loop", "_owner", "_reader", "_reused", "_then", "_transport", "due", "has_unread")

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._then: Then | None = None
        self._reused = False
        self.due: float = 0.0
        self.has_unread = unread_on(None)

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def exchange(self, request: bytes, *, head_only: bool, cap: int, then: Then) -> None:
        """Write a request.

        Args:
            request: all its bytes.
            head_only: it is a HEAD.
            cap: most bytes of the answer's body.
            then: told how the exchange ends, after this has returned; :meth:`abandon` it, and it is not.
        """
        self._then = then
        self._reader.expect(head_only=head_only, cap=cap)
        try:
            self._transport.write(request)  # type: ignore[union-attr]
        except Exception:  # noqa: BLE001 - uvloop raises on a closed socket; this frame holds the request
            self._loop.call_soon(self._finish, self._broken())

    def abandon(self, then: Then) -> None:
        """Close the connection if it is still at this exchange: the rest of its answer is for nobody."""
        if self._then is then:
            self.close()

    def overdue(self) -> None:
        """Its time is over: the exchange ends with ``timeout``; an idle connection is closed."""
        if self._then is None:
            self.close()
        else:
            self._finish(TransportError("timeout", ""))

    def close(self, outcome: Outcome | None = None) -> None:
        """Close at once; nothing that is still to be written is worth a wait.

        Args:
            outcome: how a pending exchange ends.
        """
        then, self._then = self._then, None
        self._owner.unusable(self)
        if self._transport is not None:
            self._transport.abort()
        if then is not None and outcome is not None:
            then(outcome)

    # What the event loop reports.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected, and the TLS handshake is done."""
        self._transport = cast("asyncio.Transport", transport)
        self.has_unread = unread_on(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer; or of nothing that was asked for, and then never of the next answer."""
        if self._then is None:
            self.close()
            return
        outcome = self._reader.feed(data)
        if outcome is not None:
            self._finish(outcome)

    def eof_received(self) -> None:
        """The server will send nothing more."""
        if self._then is None:
            self.close()
        else:
            self._finish((self._reader.end() if self._ended_by_the_server() else None) or self._broken())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's
        """The socket is closed."""
        if self._then is not None:
            self._finish(self._broken())
        self._transport = None
        self._reader.close()
        self._owner.lost(self)

    def _ended_by_the_server(self) -> bool:
        """Whether the end can be believed: anybody on the way can end TCP, but not TLS."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if tls is None:
            return True
        try:
            return not tls.read(1)  # after the server's end of TLS; else there would be more to wait for
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def _finish(self, outcome: Outcome) -> None:
        if not self._reader.keep_alive or type(outcome) is not Response:
            self.close(outcome)
            return
        then, self._then = self._then, None
        self._reused = True
        self._owner.released(self, outcome)
        if then is not None:
            then(outcome)

    def _broken(self) -> TransportError:
        if self._reader.started:
            return TransportError("interrupted", "the answer ended early")
        if self._reused:
            self._owner.stale()
            return TransportError("stale", "the server closed the connection before it answered")
        return TransportError("interrupted", "the connection was closed before the answer")
