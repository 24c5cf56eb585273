"""FlowMateTransport and FlowMateAuth: a user's credential on an httpx client's requests. Extra ``httpx``.

httpx follows redirects below its ``auth`` and above its ``transport``, and strips only ``Authorization`` from
a hop to another origin. So the transport attaches the credential per hop and is the recommended one. The auth
is for clients that already have a transport, and refuses every other header.
"""

import os
import ssl
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any, Self

try:
    import httpx
except ImportError:
    raise ImportError(
        "flowmate_async.integrations.httpx needs the extra 'httpx': pip install 'flowmate-async[httpx]'",
        name="httpx",
    ) from None

from flowmate_async.errors import ConfigurationError
from flowmate_async.integrations.binding import Binding, has_newer
from flowmate_async.integrations.lender import Lender
from flowmate_async.integrations.origins import GivenOrigins, Origin, origin_of
from flowmate_async.redaction import Headers
from flowmate_async.system.driver_boundary import DriverBoundary, forget_frames
from flowmate_async.transport.tls import client_context
from flowmate_async.values.secrets import Secret

__all__ = [
    "FlowMateAuth",
    "FlowMateTransport",
]

_AUTHORIZATION = "Authorization"
_SHOWN = "[secure]"
_INSTEAD = "Use FlowMateTransport, which attaches the credential hop by hop"


class FlowMateTransport(httpx.AsyncBaseTransport):
    """Transport that presents one credential to its app only.

    Use it as ``httpx.AsyncClient(transport=FlowMateTransport(...))``. Every hop of a redirect passes through
    it; hops to other origins are not changed. The client's own request is never changed, so hooks,
    ``response.request``, errors and redirects do not show the credential.

    When the app answers 401 the lease is rejected, and the request sent once more with the newer credential,
    provided its body is in memory (none, bytes, str, JSON, form fields): a stream or multipart body is not
    sent twice. Without a newer credential or a repeatable body, or if the app answers 401 again, the caller
    gets the app's 401.

    A header that the credential would set and the caller has set already (``Authorization``, ``auth=``) is an
    error, never overwritten.

    Args:
        fm: the client that lends the credential, entered.
        username: the user.
        secret_id: the secret.
        origins: ``scheme://host[:port]`` of the app; https, or http to this machine.
        default_header: the header for an API key that does not name one.
        min_valid: seconds for which the credential must be valid when a request begins.
        transport: sends the requests. By default :class:`httpx.AsyncHTTPTransport` with the library's TLS
            rules: the system's authorities, and ``SSLKEYLOGFILE`` is ignored. ``verify``, ``proxy``,
            ``http2`` and ``limits`` belong to it, since the client ignores them once it has a transport.

    Raises:
        ConfigurationError: the origins are invalid. While a request is sent: the credential has no header
            form, or the caller has set its header.
        FlowMateError: while a request is sent: what :meth:`FlowMate.credential` raises.
    """

    def __init__(
        self,
        fm: Lender,
        username: str,
        secret_id: str,
        *,
        origins: Iterable[str],
        default_header: str | None = None,
        min_valid: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        given, origins = GivenOrigins(origins), ()
        self._binding = Binding(
            fm, username, secret_id, origins=given, default_header=default_header, min_valid=min_valid
        )
        self._inner = transport or httpx.AsyncHTTPTransport(verify=_tls())

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one hop, with the credential if it is for this origin.

        Args:
            request: the hop's request; a copy is sent, so it is never changed.

        Raises:
            ConfigurationError: the credential has no header form, or the caller has set its header.
            FlowMateError: what :meth:`FlowMate.credential` raises.
            httpx.TransportError: what the inner transport raises.
        """
        if not self._binding.covers(_origin(request.url)):
            return await self._inner.handle_async_request(request)
        async with self._binding.lease() as lease:
            response = await self._presented(request, lease.secret)
            if response.status_code != 401:
                return response
            try:
                again = await has_newer(lease) and _can_be_sent_again(request)
            except BaseException:
                await response.aclose()
                raise
            if not again:
                return response
            await response.aclose()
            return await self._presented(request, lease.secret)

    async def _presented(self, request: httpx.Request, secret: Secret) -> httpx.Response:
        headers = self._binding.headers(secret, present=request.headers)
        try:
            with DriverBoundary():
                return await self._inner.handle_async_request(_with(request, headers))
        except httpx.RequestError as error:
            error.request = request
            raise


class FlowMateAuth(httpx.Auth):
    """Auth that presents one credential as ``Authorization`` to its app; refuses any other header.

    For API keys use :class:`FlowMateTransport`: httpx would carry their header along a redirect to another
    origin. A request that starts at another origin never gets the credential, wherever a redirect leads.

    When the app answers 401 the lease is rejected, and the request sent once more with the newer credential,
    provided its body is in memory and there was no redirect (the first hop has already had its effect).
    Otherwise, or without a newer credential, the caller gets the app's 401.

    ``response.request``, those of its history and ``response.next_request`` do not hold the credential; hooks
    and errors find ``[secure]`` in its place.

    An ``Authorization`` header that the caller has set is an error, never overwritten; to send one
    request without the credential, pass it ``auth=None``.

    Args:
        fm: the client that lends the credential, entered.
        username: the user.
        secret_id: the secret.
        origins: ``scheme://host[:port]`` of the app; https, or http to this machine.
        default_header: the header for an API key that does not name one; ``Authorization`` or nothing.
        min_valid: seconds for which the credential must be valid when a request begins.

    Raises:
        ConfigurationError: the origins are invalid. While a request is sent: the credential is not presented
            as ``Authorization``, or the caller has set that header, or the client is not an async one.
        FlowMateError: while a request is sent: what :meth:`FlowMate.credential` raises.
    """

    def __init__(
        self,
        fm: Lender,
        username: str,
        secret_id: str,
        *,
        origins: Iterable[str],
        default_header: str | None = None,
        min_valid: float = 60.0,
    ) -> None:
        given, origins = GivenOrigins(origins), ()
        self._binding = Binding(
            fm, username, secret_id, origins=given, default_header=default_header, min_valid=min_valid
        )
        _check_no_upgrade(self._binding.origins)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Refuse: credentials are fetched with asyncio.

        Args:
            request: ignored.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            "FlowMateAuth is for httpx.AsyncClient",
            advice="In synchronous code take auth_headers() from FlowMateSync",
            endpoint=request.method,
        )

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send a request, with the credential if it is for this origin.

        Args:
            request: the client's request, which gets the header.

        Raises:
            ConfigurationError: the credential is not sent as ``Authorization``, or the caller has set it.
            FlowMateError: what :meth:`FlowMate.credential` raises.
        """
        if not self._binding.covers(_origin(request.url)):
            yield request
            return
        async with self._binding.lease() as lease:
            self._present(request, lease.secret)
            try:
                with _frames_forgotten(request):
                    response = yield request
                    rejected = _is_rejection(response)
                    _strip(response)
                    if not rejected or not await has_newer(lease):
                        return
                    if response.request is request and _can_be_sent_again(request):
                        self._present(request, lease.secret)
                        _strip((yield request))
            finally:
                request.headers.pop(_AUTHORIZATION, None)

    def _present(self, request: httpx.Request, secret: Secret) -> None:
        headers = self._binding.headers(secret, present=request.headers)
        if any(name.lower() != "authorization" for name in headers.names):
            raise ConfigurationError(
                "the credential is presented in a header that httpx would carry to other origins",
                advice=_INSTEAD,
                secret_id=secret.id,
            )
        unshown: dict[bytes, bytes] = {
            name.encode("ascii"): _Unshown(value.encode("latin-1")) for name, value in headers.pairs
        }
        request.headers.update(unshown)


class _Unshown(bytes):
    """A header's value on the wire; reading it as text gives a stand-in.

    httpx copies it into the requests that it builds for redirects, which errors reference.
    """

    def __repr__(self) -> str:
        return repr(_SHOWN.encode())

    def decode(self, *_: object, **__: object) -> str:
        """Return the stand-in."""
        return _SHOWN


def _tls() -> ssl.SSLContext:
    """Return a TLS context that the process's transports share: reading the authorities takes 40 ms."""
    return _tls_with(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls_with(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    return client_context()


def _with(request: httpx.Request, headers: Headers) -> httpx.Request:
    """Return a copy with more headers: httpx builds the next hop from the original request."""
    added = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.pairs]
    return httpx.Request(
        request.method,
        request.url,
        headers=[*request.headers.raw, *added],
        stream=request.stream,
        extensions=request.extensions,
    )


def _strip(response: httpx.Response) -> None:
    """Remove the credential from every request that the caller can see, including redirects."""
    requests = [one.request for one in (response, *response.history)]
    if response.next_request is not None:  # for the caller to follow manually
        requests.append(response.next_request)
    for request in requests:
        if isinstance(_raw(request), _Unshown):
            del request.headers[_AUTHORIZATION]


def _raw(request: httpx.Request) -> bytes | None:
    """Return the header's value on the wire."""
    return next((value for name, value in request.headers.raw if name.lower() == b"authorization"), None)


@contextmanager
def _frames_forgotten(request: httpx.Request) -> Iterator[None]:
    """In the block, drop the frames of wire errors, whose locals hold the request's headers.

    An auth does not see errors. httpcore reports them to the request's ``trace``, which httpx passes on to
    the requests that it builds for redirects.
    """
    theirs = request.extensions.get("trace")

    async def trace(event: str, info: dict[str, Any]) -> None:
        if theirs is not None:
            await theirs(event, info)
        if event.endswith(".failed"):
            forget_frames(info["exception"])

    request.extensions["trace"] = trace
    try:
        yield
    finally:
        del request.extensions["trace"]
        if theirs is not None:
            request.extensions["trace"] = theirs


def _origin(url: httpx.URL) -> Origin:
    return origin_of(url.scheme, url.raw_host.decode("ascii"), url.port)


def _is_rejection(response: httpx.Response) -> bool:
    """Return whether the app answered 401 to the credential, not another server to a hop without it."""
    return response.status_code == 401 and _AUTHORIZATION in response.request.headers


def _can_be_sent_again(request: httpx.Request) -> bool:
    """Return whether the body is in memory; a stream is consumed."""
    return isinstance(request.stream, httpx.ByteStream)


def _check_no_upgrade(origins: frozenset[Origin]) -> None:
    # The one redirect to another origin on which httpx keeps Authorization.
    for scheme, host, port in origins:
        if (scheme, port) == ("http", 80) and ("https", host, 443) not in origins:
            raise ConfigurationError(
                f"httpx would carry the credential from http://{host} to https://{host}",
                advice=f"Name both as origins. Or: {_INSTEAD}",
            )
