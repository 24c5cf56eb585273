"""The wire transport: the transport interface, built from the other modules of this package."""

import asyncio
import ssl
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from flowmate_async.redaction import Headers
from flowmate_async.transport.base import KEEP_ALIVE_SECONDS, Limits, OnDone, Response, TransportError
from flowmate_async.transport.origin import Origin
from flowmate_async.transport.wire.connection import Connection, Result
from flowmate_async.transport.wire.dialling import Dialler, DirectDialler
from flowmate_async.transport.wire.pool import Pool
from flowmate_async.transport.wire.serialising import Serialised, Serialiser


class WireOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of :class:`WireTransport`.

    Attributes:
        connect_seconds: for DNS, TCP and TLS together, within the exchange's own limit.
        keep_alive_seconds: how long an idle connection is kept, if the server does not keep it for less.
    """

    connect_seconds: float = 10.0
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS


class WireTransport:
    """A pool of HTTP/1.1 connections to one origin, entered once.

    Follows no redirect, keeps no cookie, decompresses nothing, pipelines nothing, and sends a request once.
    The pool has no limit of its own: the sender decides how many requests are in flight, so that a deadline
    never includes time spent waiting for a free connection.

    Args:
        base_url: scheme, host and port, with an optional path prefix.
        user_agent: the ``User-Agent`` header.
        tls: the TLS context of all connections.
        options: see :class:`WireOptions`.
        dialler: makes what makes connections, when the transport is entered; directly to the origin by
            default.

    Raises:
        ConfigurationError: the base URL cannot stand in a request, or has no host.
    """

    def __init__(
        self,
        base_url: str,
        *,
        user_agent: str,
        tls: ssl.SSLContext,
        options: WireOptions | None = None,
        dialler: Callable[[Origin], Dialler] | None = None,
    ) -> None:
        self._options = options or WireOptions()
        self._tls = tls
        self._origin = Origin.of(base_url)
        self._dialler = dialler or self._direct
        self._serialiser = Serialiser(
            host=self._origin.authority, prefix=self._origin.prefix, user_agent=user_agent
        )
        self._pool: Pool | None = None

    async def __aenter__(self) -> Self:
        dialler = self._dialler(self._origin)
        self._pool = Pool(dialler, keep_alive_seconds=self._options.keep_alive_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        self._serialiser.forget()
        if pool is not None:
            await pool.aclose()

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        """See :meth:`flowmate_async.transport.Transport.send`."""
        request = self._serialiser.serialise(method, path, headers, body)
        # From here on no local of this frame shows anything of the request, whatever is raised; once it is
        # written nothing here keeps it.
        del method, path, headers, body
        if isinstance(request, TransportError):
            raise request
        pool = self._pool
        if pool is None:
            raise RuntimeError("the transport is used before it is entered, or after it is closed")
        now = time.monotonic()
        due = now + limits.timeout_seconds
        connection = pool.take(now, due) or await pool.make(now=now, due=due)
        waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        then = partial(_settle, waiter)
        connection.exchange(request, limits.max_body_bytes, then)
        del request
        try:
            outcome = await waiter
        except BaseException:  # cancelled: the rest of the answer is not needed
            connection.abandon(then)
            raise
        if isinstance(outcome, TransportError):
            raise outcome
        return outcome

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
        """See :meth:`flowmate_async.transport.ImmediateTransport.send_at_once`."""
        pool = self._pool
        if pool is None:
            return False
        request = self._serialiser.serialise(method, path, headers, body)
        if isinstance(request, TransportError):
            return False  # send() says why
        now = time.monotonic()
        due = now + limits.timeout_seconds
        connection = pool.take(now, due)
        if connection is None:
            use = partial(_exchange, request, limits.max_body_bytes, then)
            pool.make_for(use, now=now, due=due)
        else:
            connection.exchange(request, limits.max_body_bytes, then)
        return True

    def _direct(self, origin: Origin) -> Dialler:
        return DirectDialler(
            origin.host,
            origin.port,
            tls=self._tls if origin.secure else None,
            connect_seconds=self._options.connect_seconds,
        )


def _exchange(
    request: Serialised, max_body_bytes: int, then: OnDone, connection: Connection | BaseException
) -> None:
    """Begin an exchange on a connection that was made for it."""
    if isinstance(connection, Connection):
        connection.exchange(request, max_body_bytes, then)
    else:
        then(connection if isinstance(connection, Exception) else RuntimeError("the dialling was killed"))


def _settle(waiter: "asyncio.Future[Result]", outcome: Result) -> None:
    if not waiter.done():
        waiter.set_result(outcome)
