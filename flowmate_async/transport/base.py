"""The interface between the library and HTTP: one method, one answer, one error.

A transport moves one request to the origin it was made for and brings the whole answer back. It does not
retry, does not wait for a rate, does not know FlowMate's endpoints.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import ClassVar, Literal, Protocol, Self, runtime_checkable

import msgspec

from flowmate_async.redaction import Headers, Redacted

Breakage = Literal["connect", "tls", "stale", "interrupted", "timeout", "too_large", "malformed"]
"""How an exchange failed.

``connect``, ``tls``: nothing was sent. ``stale``: a reused connection was closed before the first byte of
the answer. ``interrupted``: a connection broke once the request may have been read. ``timeout``: no complete
answer in time. ``too_large``: the body is over its cap. ``malformed``: not HTTP, or a broken framing.
"""


KEEP_ALIVE_SECONDS = 4.0
"""How long an idle connection is kept: below the server's five (docs/contract/OBSERVED.md § Connections)."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one exchange.

    Attributes:
        timeout_seconds: from sending to the last byte; waiting for the rate limiter is not part of it.
        max_body_bytes: the largest body that is read.
    """

    timeout_seconds: float
    max_body_bytes: int


class Response(Redacted, frozen=True):
    """A complete answer.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name; repeated ones are joined. A transport may decode a value when it is read.
        body: all of it, in bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    __shown__: ClassVar[tuple[str, ...]] = ("status",)


class TransportError(Exception):
    """An exchange that brought no complete answer.

    Args:
        failure: how it failed. ``connect``, ``tls``: nothing was sent. ``stale``: a reused connection was
            closed before the first byte of the answer. ``interrupted``: the request may have been read.
            ``timeout``: no complete answer in time. ``too_large``: the body is over its cap. ``malformed``:
            not HTTP. What may be sent again depends on it (docs/contract/OBSERVED.md § Connections).
        detail: a few words for the reader, without anything of the request or the body.
    """

    def __init__(self, failure: Breakage, detail: str) -> None:
        super().__init__(f"{failure}: {detail}")
        self.failure = failure
        self.detail = detail


class Transport(Protocol):
    """Anything that can carry requests to one origin."""

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        """Send one request and read its whole answer.

        Args:
            method: ``GET`` or ``POST``.
            path: path and query below the base URL, starting with a slash.
            headers: sent besides the transport's own.
            body: sent as JSON when not ``None``.
            limits: the bounds of this exchange.

        Raises:
            TransportError: no complete answer was received.
        """
        ...

    async def __aenter__(self) -> Self:
        """Open what the transport needs."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        ...


OnDone = Callable[[Response | Exception], object]
"""Called once with how an exchange ended. An exception other than :class:`TransportError` is a bug."""


@runtime_checkable
class ImmediateTransport(Transport, Protocol):
    """A transport that can also send without being awaited: it takes a request and calls back once.

    The caller then needs no task of its own, nor that task's turns of the event loop. Both transports of the
    library are immediate; a custom transport need not be.
    """

    def send_at_once(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | None,
        limits: Limits,
        *,
        then: OnDone,
    ) -> bool:
        """Take one request to send; arguments are those of :meth:`Transport.send`.

        The library's own transports take every request that may be sent while they are entered, and make a
        connection first if none is idle.

        Args:
            method: see there.
            path: see there.
            headers: see there.
            body: see there.
            limits: see there.
            then: called once with the outcome, after this has returned; it does not raise.

        Returns:
            Whether it was taken. If not, ``then`` is never called, and :meth:`Transport.send` sends it or
            says why it cannot be sent.
        """
        ...
