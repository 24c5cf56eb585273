"""CredentialMiddleware: a user's credential on an aiohttp session's requests, with one retry after a 401.

aiohttp runs its middlewares for every hop of a redirect with a separate request, so a header that is attached
here is never sent to the next hop.
"""

from collections.abc import Iterable

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from aiohttp.payload import BytesIOPayload, BytesPayload

from flowmate_async.integrations.binding import Binding, has_newer
from flowmate_async.integrations.lender import Lender
from flowmate_async.integrations.origins import GivenOrigins, origin_of
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.values.secrets import Secret

__all__ = [
    "CredentialMiddleware",
]


class CredentialMiddleware:
    """Client middleware (aiohttp ≥ 3.12) that presents one credential to its app only.

    Use it as ``ClientSession(middlewares=(CredentialMiddleware(...),))`` or for a single request. Requests to
    other origins, by a redirect or not, pass through untouched.

    When the app answers 401 the lease is rejected, and the request sent once more with the newer credential,
    provided its body is in memory (none, bytes, BytesIO, str, JSON, form fields): a stream, file or multipart
    body is not sent twice. Without a newer credential or a repeatable body, or if the app answers 401 again,
    the caller gets the app's 401.

    A header that the credential would set and the caller has set already (``Authorization``, ``auth=``) is an
    error, never overwritten; to send one request without the credential, pass it ``middlewares=()``.

    Fetching a credential counts towards the session's ``ClientTimeout.total``. The session's trace hooks see
    the headers of requests, credential included; ``response.request_info`` does not show it.

    Args:
        fm: the client that lends the credential, entered.
        username: the user.
        secret_id: the secret.
        origins: ``scheme://host[:port]`` of the app; https, or http to this machine.
        default_header: the header for an API key that does not name one.
        min_valid: seconds for which the credential must be valid when a request begins.

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
    ) -> None:
        given, origins = GivenOrigins(origins), ()
        self._binding = Binding(
            fm, username, secret_id, origins=given, default_header=default_header, min_valid=min_valid
        )

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send a request, with the credential if it is for this origin."""
        url = request.url
        if not self._binding.covers(origin_of(url.scheme, url.raw_host or "", url.port)):
            return await handler(request)
        async with self._binding.lease() as lease:
            response = await self._presented(request, handler, lease.secret)
            if response.status != 401:
                return response
            try:
                again = await has_newer(lease) and _can_be_sent_again(request)
            except BaseException:
                response.close()
                raise
            if not again:
                return response
            response.release()
            # The app may have answered before the whole body was written.
            await request.close()
            return await self._presented(request, handler, lease.secret)

    async def _presented(
        self, request: ClientRequest, handler: ClientHandlerType, secret: Secret
    ) -> ClientResponse:
        headers = self._binding.headers(secret, present=request.headers)
        request.headers.update(headers.pairs)
        try:
            with DriverBoundary():  # aiohttp's frames hold the request's headers in their locals
                return await handler(request)
        finally:
            # aiohttp's errors and responses show the headers of their request as they are now.
            for name in headers.names:
                request.headers.popall(name, None)


def _can_be_sent_again(request: ClientRequest) -> bool:
    """Return whether the body is in memory; a consumed stream would be resent empty."""
    body = request.body
    if not body or isinstance(body, BytesPayload):
        return True
    return isinstance(body, BytesIOPayload) and not getattr(body, "consumed", True)
