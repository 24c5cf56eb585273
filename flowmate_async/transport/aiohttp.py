"""The aiohttp transport: aiohttp's connector makes the connections, proxies included.

The wire transport handles requests and answers, so that both transports accept and refuse the same answers.
aiohttp's own client costs four times as much per request, parses more leniently, and retries GETs by itself.
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Headers
from flowmate_async.transport.base import KEEP_ALIVE_SECONDS, Limits, OnDone, Response, TransportError
from flowmate_async.transport.origin import Origin
from flowmate_async.transport.proxies import proxy_of
from flowmate_async.transport.response_rules import not_connected, not_connected_in_time, not_trusted
from flowmate_async.transport.wire.connection import Connection
from flowmate_async.transport.wire.dialling import ADDRESSES_SECONDS
from flowmate_async.transport.wire.transport import WireOptions, WireTransport


class AiohttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of :class:`AiohttpTransport`.

    Attributes:
        connect_seconds: for DNS, the proxy, TCP and TLS together, within the exchange's own limit.
        keep_alive_seconds: how long an idle connection is kept, if the server does not keep it for less.
        proxy: an explicit ``http://`` proxy.
        trust_env: take the proxy from the environment; off by default.
    """

    connect_seconds: float = 10.0
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    proxy: str | None = None
    trust_env: bool = False


class AiohttpTransport:
    """The wire transport over connections of ``aiohttp.TCPConnector``, entered once.

    Args:
        base_url: scheme, host and port, with an optional path prefix.
        user_agent: the ``User-Agent`` header.
        tls: the TLS context of all connections.
        options: see :class:`AiohttpOptions`.

    Raises:
        ConfigurationError: the base URL cannot stand in a request, or is plain http behind a proxy.
    """

    def __init__(
        self, base_url: str, *, user_agent: str, tls: ssl.SSLContext, options: AiohttpOptions | None = None
    ) -> None:
        options = options or AiohttpOptions()
        proxy = _Proxy.of(options.proxy or (proxy_of(base_url) if options.trust_env else None))
        if proxy is not None and not base_url.startswith("https:"):
            raise ConfigurationError("a proxy of a plain http base URL would read the tokens")
        self._wire = WireTransport(
            base_url,
            user_agent=user_agent,
            tls=tls,
            options=WireOptions(keep_alive_seconds=options.keep_alive_seconds),
            dialler=partial(AiohttpDialler, tls=tls, proxy=proxy, connect_seconds=options.connect_seconds),
        )

    async def __aenter__(self) -> Self:
        await self._wire.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.__aexit__(kind, error, trace)

    async def send(
        self, method: str, path: str, headers: Headers, body: bytes | None, limits: Limits
    ) -> Response:
        """See :meth:`flowmate_async.transport.Transport.send`."""
        sending = self._wire.send(method, path, headers, body, limits)
        del method, path, headers, body
        return await sending

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
        return self._wire.send_at_once(method, path, headers, body, limits, then=then)


class _Proxy:
    """A proxy. ``repr`` shows nothing of it: the environment's may have a password."""

    __slots__ = ("auth", "url")

    def __init__(self, url: URL) -> None:
        self.auth: aiohttp.BasicAuth | None = aiohttp.BasicAuth.from_url(url)
        self.url: URL = url.with_user(None)

    @classmethod
    def of(cls, url: str | None) -> Self | None:
        return cls(URL(url)) if url else None


class AiohttpDialler:
    """Takes connections out of an ``aiohttp.TCPConnector``: its DNS, happy eyeballs, TLS and CONNECT.

    The connection's protocol is replaced, so that aiohttp neither reads nor pools it; when its socket is
    closed, aiohttp is told.

    Args:
        origin: where to.
        tls: the context.
        proxy: through which to go.
        connect_seconds: bounds DNS, TCP and TLS together.
    """

    def __init__(
        self, origin: Origin, *, tls: ssl.SSLContext, proxy: _Proxy | None, connect_seconds: float
    ) -> None:
        self._seconds = connect_seconds
        self._connector = aiohttp.TCPConnector(
            limit=0, ssl=tls, force_close=True, ttl_dns_cache=int(ADDRESSES_SECONDS)
        )
        self._session = aiohttp.ClientSession(connector=self._connector)
        self._unbounded = aiohttp.ClientTimeout(total=None, sock_connect=None)  # dial() is bounded
        self._request = aiohttp.ClientRequest(
            hdrs.METH_GET,
            URL.build(
                scheme="https" if origin.secure else "http", host=origin.host, port=origin.port, path="/"
            ),
            loop=asyncio.get_running_loop(),
            session=self._session,
            ssl=tls,
            proxy=None if proxy is None else proxy.url,
            proxy_auth=None if proxy is None else proxy.auth,
        )

    async def dial(self, factory: Callable[[], Connection], *, seconds: float) -> Connection:
        """See :class:`flowmate_async.transport.wire.dialling.Dialler`."""
        outcome = await self._outcome(factory, min(seconds, self._seconds))
        if isinstance(outcome, Connection):
            return outcome
        raise outcome

    async def aclose(self) -> None:
        """See :class:`flowmate_async.transport.wire.dialling.Dialler`."""
        await self._session.close()

    async def _outcome(self, factory: Callable[[], Connection], seconds: float) -> Connection | BaseException:
        """Return a connection, or an error without the frames it came through: they hold the proxy."""
        try:
            async with asyncio.timeout(seconds):
                return await self._connected(factory)
        except TransportError as error:
            failure: BaseException = error
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError, ValueError) as error:
            failure = _translated(error)
        except BaseException as error:  # noqa: BLE001 - nor may a cancellation bring those frames along
            failure = error
        failure.__context__ = failure.__cause__ = None
        return failure.with_traceback(None)

    async def _connected(self, factory: Callable[[], Connection]) -> Connection:
        lease = await self._connector.connect(self._request, traces=[], timeout=self._unbounded)
        handler, transport = lease.protocol, lease.transport
        if handler is None or transport is None or handler.should_close or transport.is_closing():
            lease.close()
            raise TransportError("connect", "the connection was closed as soon as it was made")
        connection = factory()
        connection.on_lost = partial(_give_back, lease, handler)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        return connection


def _give_back(
    lease: aiohttp.connector.Connection, handler: ResponseHandler, error: Exception | None
) -> None:
    """Tell aiohttp that one of its connections is lost."""
    handler.connection_lost(error)
    lease.close()


def _translated(error: Exception) -> TransportError:
    """Return the seam's error for aiohttp's."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return not_trusted(error.certificate_error)
        case aiohttp.ClientSSLError():
            return not_trusted(error.os_error)
        case TimeoutError():
            return not_connected_in_time()
        case aiohttp.ClientConnectorError():
            return not_connected(error.os_error)
        case aiohttp.ClientHttpProxyError():
            return TransportError("connect", f"the proxy answered {error.status}")
        case OSError() if not isinstance(error, aiohttp.ClientError):
            return not_connected(error)
        case _:
            return TransportError("connect", type(error).__name__)
