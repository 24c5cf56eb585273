"""The default transport: one pooled aiohttp session to one origin.

Does everything (TLS, proxies, both loops). Follows no redirect, keeps no cookie, reads no netrc, decompresses
nothing, and does not repeat a request behind the library's back.
"""

import asyncio
import math
import ssl
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from flowmate_async.redaction import Headers
from flowmate_async.transport.answers import (
    ACCEPT,
    BODILESS,
    BODY_TYPE,
    NOT_CHUNKED,
    announced_too_large,
    grown_too_large,
    lowered,
    not_connected,
    not_connected_in_time,
    not_trusted,
    refusal,
)
from flowmate_async.transport.base import KEEP_ALIVE_SECONDS, Limits, OnDone, Response, TransportError
from flowmate_async.transport.deadlines import Sweeper
from flowmate_async.transport.kept import Kept
from flowmate_async.transport.proxies import proxy_of
from flowmate_async.transport.request_rules import NOT_SENDABLE, are_fields, is_method, is_target
from flowmate_async.transport.unread import unread_on

_CHUNK_BYTES = 64 * 1024
_OVERDUE = -math.inf
_VERSIONS = {aiohttp.HttpVersion11: "1.1", aiohttp.HttpVersion10: "1.0"}


class AiohttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of :class:`AiohttpTransport`.

    Attributes:
        connect_seconds: for DNS, TCP and TLS together with the exchange's own limit.
        keep_alive_seconds: how long an idle connection is kept.
        proxy: an explicit ``http://`` proxy.
        trust_env: take proxies from the environment; off by default.
    """

    connect_seconds: float = 10.0
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    proxy: str | None = None
    trust_env: bool = False


class AiohttpTransport:
    """A connection pool over ``aiohttp.ClientSession``, entered once.

    The pool has no limit of its own: whoever sends decides how many requests are in flight, so that a
    deadline never counts time spent waiting for a free connection.

    Args:
        base_url: scheme, host and port, with an optional path prefix.
        user_agent: the ``User-Agent`` header.
        tls: the TLS context of all connections.
        options: see :class:`AiohttpOptions`.
    """

    def __init__(
        self, base_url: str, *, user_agent: str, tls: ssl.SSLContext, options: AiohttpOptions | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._user_agent = user_agent
        self._tls = tls
        self._options = options or AiohttpOptions()
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._untimed = aiohttp.ClientTimeout(total=None, sock_connect=self._options.connect_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._fields = Kept(_fields)
        self._sweeper: Sweeper | None = None
        self._due: dict[asyncio.Task[None], float] = {}

    async def __aenter__(self) -> Self:
        self._sweeper = Sweeper(self._sweep, asyncio.get_running_loop())
        connector = _Connector(limit=0, ssl=self._tls, keepalive_timeout=self._options.keep_alive_seconds)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={hdrs.USER_AGENT: self._user_agent, hdrs.ACCEPT: ACCEPT},
            skip_auto_headers=(hdrs.CONTENT_TYPE,),
            auto_decompress=False,
            proxy=self._options.proxy or (proxy_of(self._base_url) if self._options.trust_env else None),
            middlewares=(_send_once,),
            read_bufsize=_CHUNK_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        self._fields.forget()
        if self._sweeper is not None:
            self._sweeper.stop()
        for exchange in self._due:
            exchange.cancel()
        try:
            if self._due:
                await asyncio.wait(self._due)
        finally:
            if session is not None:
                await session.close()

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        """See :meth:`flowmate_async.transport.Transport.send`."""
        timeout = self._timeout(limits.timeout_seconds)
        exchange = self._exchange(method, path, headers, body, limits.max_body_bytes, timeout)
        outcome = await _outcome_of(exchange)
        if isinstance(outcome, Response):
            return outcome
        # Raised out here, the error brings no frame of aiohttp along, whose locals are the request.
        del method, path, headers, body
        raise outcome

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
        """See :meth:`flowmate_async.ImmediateTransport.send_at_once`."""
        if self._session is None or self._sweeper is None:
            return False
        due = time.monotonic() + limits.timeout_seconds
        report = self._report(method, path, headers, body, limits.max_body_bytes, then)
        reporting = asyncio.get_running_loop().create_task(report)
        if not reporting.done():  # as an eager task may be
            self._due[reporting] = due
            reporting.add_done_callback(partial(self._reported, then))
            if due < self._sweeper.armed_for:
                self._sweeper.arm(due)
        return True

    async def _report(  # noqa: PLR0917 - a request and who is told of its end
        self, method: str, path: str, headers: Headers, body: bytes | None, cap: int, then: OnDone
    ) -> None:
        exchange = self._exchange(method, path, headers, body, cap, self._untimed)
        outcome = await _outcome_of(exchange)
        if isinstance(outcome, asyncio.CancelledError):
            outcome = _why_cancelled(self._due.get(asyncio.current_task()))  # type: ignore[arg-type]
        if not isinstance(outcome, Response | Exception):
            raise outcome
        then(outcome)

    def _reported(self, then: OnDone, reporting: asyncio.Task[None]) -> None:
        due = self._due.pop(reporting)
        if reporting.cancelled():  # before it began, so that it could tell nobody
            then(_why_cancelled(due))

    def _sweep(self, now: float) -> float:
        """End what is overdue: one timer for all, since aiohttp's own takes a fourteenth of an exchange."""
        for exchange in [task for task, due in self._due.items() if _OVERDUE < due <= now]:
            self._due[exchange] = _OVERDUE
            exchange.cancel()
        return min((due for due in self._due.values() if due > _OVERDUE), default=math.inf)

    async def _exchange(  # noqa: PLR0917 - a request and its bounds
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes | None,
        cap: int,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own
    ) -> Response:
        if self._session is None:
            raise RuntimeError("the transport is used before it is entered, or after it is closed")
        fields = self._fields.of(headers)
        if fields is None or not is_method(method) or not is_target(path):
            raise TransportError("malformed", NOT_SENDABLE)
        answer = await self._session.request(
            method,
            URL(self._base_url + path, encoded=True),
            headers=fields if body is None else [*fields, (hdrs.CONTENT_TYPE, BODY_TYPE)],
            data=body,
            timeout=timeout,
            allow_redirects=False,
        )
        try:
            received = lowered(answer.headers.items())
            if reason := refusal(_version(answer.version), answer.status, received):
                raise TransportError("malformed", reason)  # noqa: TRY301 - to where the connection is closed
            return Response(answer.status, received, await _body(answer, cap))
        except BaseException:
            answer.close()
            raise
        finally:
            answer.release()

    def _timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get(seconds)
        if timeout is None:
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=self._options.connect_seconds)
            self._timeouts[seconds] = timeout
        return timeout


def _why_cancelled(due: float | None) -> TransportError:
    if due == _OVERDUE:
        return TransportError("timeout", "")
    return TransportError("interrupted", "the transport was closed")


async def _outcome_of(exchange: Coroutine[Any, Any, Response]) -> Response | BaseException:
    """How an exchange ended, as a value: an error without the frames it came through."""
    try:
        return await exchange
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        failure: BaseException = _translated(error)
    except BaseException as error:  # noqa: BLE001 - a cancellation must not bring those frames along either
        failure = error.with_traceback(None)
    failure.__context__ = failure.__cause__ = None
    return failure


def _fields(headers: Headers) -> list[tuple[str, str]] | None:
    """These headers as they are given to aiohttp, if they may be sent."""
    return [*headers.pairs, (hdrs.ACCEPT_ENCODING, "identity")] if are_fields(headers) else None


def _version(version: aiohttp.HttpVersion | None) -> str:
    return "" if version is None else _VERSIONS.get(version, "another")


class _Connector(aiohttp.TCPConnector):
    """Hands out no idle connection on which bytes wait that nobody asked for.

    aiohttp puts a connection back at the end of a body, before it has looked at what came behind: that would
    be read as the answer to the next request, which may be another user's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._unread: WeakKeyDictionary[asyncio.Protocol, Callable[[], bool]] = WeakKeyDictionary()

    async def connect(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        while True:  # until there is a good one, or no idle one left
            connection = await super().connect(*args, **options)
            protocol = connection.protocol
            if protocol is None or not self._is_poisoned(protocol):
                return connection
            connection.close()

    def _is_poisoned(self, protocol: ResponseHandler) -> bool:
        has_unread = self._unread.get(protocol)
        if has_unread is None:
            # New, and its answer will be its first one; what waits on it may be TLS' session tickets.
            self._unread[protocol] = unread_on(protocol.transport)
            return False
        return protocol.should_close or has_unread()


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET on its own: that GET may be refreshing a credential upstream."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent, and aiohttp does not repeat it
    except aiohttp.ServerDisconnectedError:
        raise TransportError("stale", "the server closed the connection before it answered") from None
    except aiohttp.ClientOSError:
        raise TransportError("interrupted", "the connection was reset before the answer") from None


async def _body(answer: aiohttp.ClientResponse, cap: int) -> bytes:
    """The body, refused as soon as it is known to be over the cap."""
    if answer.status in BODILESS or answer.method == hdrs.METH_HEAD:
        return await answer.read()
    _end_with_connection(answer)
    announced = answer.content_length
    if announced is not None and announced > cap:
        answer.close()
        raise announced_too_large(announced, cap)
    if announced is not None:
        return await answer.read()
    received, in_chunks = bytearray(), False
    async for piece, ends_chunk in answer.content.iter_chunks():
        received += piece
        in_chunks = in_chunks or ends_chunk
        if len(received) > cap:
            answer.close()
            raise grown_too_large(cap)
    if received and not in_chunks and hdrs.TRANSFER_ENCODING in answer.headers:
        raise TransportError("malformed", NOT_CHUNKED)  # as llhttp saw it, which aiohttp does not show
    return bytes(received)


def _end_with_connection(answer: aiohttp.ClientResponse) -> None:
    """Have a body that is still to come fail when its connection closes.

    When a later chunk is garbled, aiohttp closes the connection and tells nobody: the reader would wait until
    its deadline.
    """
    connection = answer.connection
    if connection is None or connection.protocol is None:
        return  # the body is all here already
    body, closed = answer.content, connection.protocol.closed

    def end(_closed: asyncio.Future[None] | None) -> None:
        if not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError())

    def forget() -> None:
        if closed is not None:
            closed.remove_done_callback(end)

    if closed is None:
        end(None)
    else:
        closed.remove_done_callback(_look_at)  # once a connection, however many answers it carries
        closed.add_done_callback(_look_at)
        closed.add_done_callback(end)
        body.on_eof(forget)


def _look_at(closed: asyncio.Future[None]) -> None:
    """An exception that nobody looked at would be logged."""
    if not closed.cancelled():
        closed.exception()


def _translated(error: Exception) -> TransportError:
    """Aiohttp's error in the seam's words."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return not_trusted(error.certificate_error)
        case aiohttp.ClientSSLError():
            return not_trusted(error.os_error)
        case aiohttp.ConnectionTimeoutError():
            return not_connected_in_time()
        case aiohttp.ClientConnectorError():
            return not_connected(error.os_error)
        case aiohttp.ClientHttpProxyError():
            return TransportError("connect", f"the proxy answered {error.status}")
        case TimeoutError():
            return TransportError("timeout", "")
        case aiohttp.ClientPayloadError():
            return TransportError("interrupted", "the answer ended early")
        case aiohttp.ClientOSError() | OSError():
            return TransportError("interrupted", "the connection was reset")
        case _:
            return TransportError("malformed", type(error).__name__)
