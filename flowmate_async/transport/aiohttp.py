"""The default transport: one pooled aiohttp session to one origin.

Does everything (TLS, proxies, both loops). Follows no redirect, keeps no cookie, reads no netrc, decompresses
nothing, and does not repeat a request behind the library's back.
"""

import ssl
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.connector import Connection
from yarl import URL

from flowmate_async.redaction import Headers, one_line
from flowmate_async.transport.base import Limits, Response, TransportError

_KEEP_ALIVE_SECONDS = 4.0
"""Below the server's five seconds (docs/contract/OBSERVED.md § Connections)."""

_CHUNK_BYTES = 64 * 1024


class AiohttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of :class:`AiohttpTransport`.

    Attributes:
        connect_seconds: for DNS, TCP and TLS together with the exchange's own limit.
        keep_alive_seconds: how long an idle connection is kept.
        proxy: an explicit ``http://`` proxy.
        trust_env: take proxies from the environment; off by default.
    """

    connect_seconds: float = 10.0
    keep_alive_seconds: float = _KEEP_ALIVE_SECONDS
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
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = _UnspokenConnector(
            limit=0, ssl=self._tls, keepalive_timeout=self._options.keep_alive_seconds
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={hdrs.USER_AGENT: self._user_agent, hdrs.ACCEPT: "application/json"},
            skip_auto_headers=(hdrs.CONTENT_TYPE,),
            auto_decompress=False,
            proxy=self._options.proxy or (_proxy_of(self._base_url) if self._options.trust_env else None),
            middlewares=(_send_once,),
            read_bufsize=_CHUNK_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        """See :meth:`flowmate_async.transport.Transport.send`."""
        try:
            return await self._exchange(method, path, headers, body, limits)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            failure: BaseException = _translated(error)
        except BaseException as error:  # noqa: BLE001 - a cancellation must not bring those frames along either
            failure = error.with_traceback(None)
        # Raised out here, the error brings no frame of aiohttp along, whose locals are the request.
        failure.__context__ = failure.__cause__ = None
        raise failure

    async def _exchange(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        if self._session is None:
            raise RuntimeError("the transport is used before it is entered, or after it is closed")
        pairs = [*headers.pairs, (hdrs.ACCEPT_ENCODING, "identity")]
        if body is not None:
            pairs.append((hdrs.CONTENT_TYPE, "application/json"))
        async with self._session.request(
            method,
            URL(self._base_url + path, encoded=True),
            headers=pairs,
            data=body,
            timeout=self._timeout(limits.timeout_seconds),
            allow_redirects=False,
        ) as answer:
            lowered = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, lowered, await _body(answer, limits.max_body_bytes))

    def _timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        timeout = self._timeouts.get(seconds)
        if timeout is None:
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=self._options.connect_seconds)
            self._timeouts[seconds] = timeout
        return timeout


class _UnspokenConnector(aiohttp.TCPConnector):
    """A pool that gives out no connection on which bytes came while it idled.

    aiohttp would take them for the answer to the next request, and such an answer is under no deadline.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - overridden
    ) -> Connection:
        """See :meth:`aiohttp.BaseConnector.connect`."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


def _proxy_of(base_url: str) -> str | None:
    """The environment's proxy for this origin; aiohttp's own trust_env takes passwords from netrc as well."""
    url = URL(base_url)
    return None if proxy_bypass(url.host or "") else getproxies().get(url.scheme)


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
    if answer.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise TransportError("malformed", "a compressed answer, which was not asked for")
    announced = answer.content_length
    if announced is not None and announced > cap:
        answer.close()
        raise TransportError("too_large", f"{announced} bytes announced, {cap} allowed")
    if announced is not None:
        return await answer.read()
    received = bytearray()
    async for chunk in answer.content.iter_any():
        received += chunk
        if len(received) > cap:
            answer.close()
            raise TransportError("too_large", f"more than the allowed {cap} bytes")
    return bytes(received)


def _translated(error: Exception) -> TransportError:
    """Aiohttp's error in the seam's words."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return TransportError("tls", one_line(str(error.certificate_error)))
        case aiohttp.ClientSSLError():
            return TransportError("tls", one_line(str(error.os_error)))
        case aiohttp.ConnectionTimeoutError():
            return TransportError("connect", "the connection was not made in time")
        case aiohttp.ClientConnectorError():
            return TransportError("connect", one_line(error.os_error.strerror or str(error.os_error)))
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
