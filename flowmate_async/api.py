"""One method an endpoint: typed in, typed out, one user token or admin token at a time.

No caching, no impersonation on the side, no second page: those are the rooms above.
"""

from contextlib import AbstractContextManager
from typing import Any

import msgspec

from flowmate_async import protocol
from flowmate_async.models import SecretPage, User, UserToken
from flowmate_async.protocol import Request
from flowmate_async.redaction import Headers
from flowmate_async.secrets import Secret
from flowmate_async.traffic.dispatch import Dispatcher
from flowmate_async.traffic.exchange import OFF_WIRE, Errand
from flowmate_async.transport.base import Limits


class ApiLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the exchanges with each endpoint.

    Attributes:
        timeout_seconds: for one exchange, from sending to the last byte.
        secret_timeout_seconds: the same for one secret, which upstream may be refreshing meanwhile.
        max_body_bytes: the largest body that is read.
        max_users_bytes: the same for the user list, which comes in one body.
    """

    timeout_seconds: float = 30.0
    secret_timeout_seconds: float = 30.0
    max_body_bytes: int = 8 * 1024 * 1024
    max_users_bytes: int = 256 * 1024 * 1024


class Api:
    """FlowMate's endpoints.

    Args:
        dispatcher: sends the requests.
        limits: see :class:`ApiLimits`.
        keep_refresh_fields: keep ``refreshToken`` and ``inputFields`` of secrets.
    """

    def __init__(self, dispatcher: Dispatcher, *, limits: ApiLimits, keep_refresh_fields: bool) -> None:
        self._dispatcher = dispatcher
        self._keep_refresh_fields = keep_refresh_fields
        self._plain = Limits(timeout_seconds=limits.timeout_seconds, max_body_bytes=limits.max_body_bytes)
        self._users = Limits(timeout_seconds=limits.timeout_seconds, max_body_bytes=limits.max_users_bytes)
        self._secret = Limits(
            timeout_seconds=limits.secret_timeout_seconds, max_body_bytes=limits.max_body_bytes
        )

    async def impersonate(
        self, admin: Headers, username: str, *, wire: AbstractContextManager[Any] = OFF_WIRE
    ) -> UserToken:
        """``POST /impersonate``: a token for one user."""
        request = protocol.impersonate(username)
        return protocol.read_user_token(await self._send(request, admin, self._plain, wire))

    async def users(self, admin: Headers) -> list[User]:
        """``GET /users/``: every account of the tenant, administrators and service accounts included."""
        return protocol.read_users(await self._send(protocol.users(), admin, self._users, OFF_WIRE))

    async def list_secrets_page(self, user: Headers, *, number: int, size: int) -> SecretPage:
        """``GET /secrets/``: one page of a user's secrets, without credentials."""
        request = protocol.list_secrets(number=number, size=size)
        return protocol.read_page(await self._send(request, user, self._plain, OFF_WIRE))

    async def get_secret(
        self,
        user: Headers,
        secret_id: str,
        *,
        may_refresh: bool = True,
        auth_client_id: str | None = None,
        wire: AbstractContextManager[Any] = OFF_WIRE,
    ) -> Secret:
        """``GET /secrets/{id}``: one secret with its credential.

        Args:
            user: the header with the user's token.
            secret_id: the secret's id.
            may_refresh: whether upstream may refresh it while answering; decides how it may be retried.
            auth_client_id: the OAuth client that it would be refreshed with, as far as that is known.
            wire: entered for exactly as long as the request is on the wire.
        """
        request = protocol.get_secret(secret_id, may_refresh=may_refresh)
        response = await self._send(request, user, self._secret, wire, auth_client_id)
        return protocol.read_secret(response, secret_id, keep_refresh_fields=self._keep_refresh_fields)

    async def _send(
        self,
        request: Request,
        headers: Headers,
        limits: Limits,
        wire: AbstractContextManager[Any],
        auth_client_id: str | None = None,
    ) -> Any:
        return await self._dispatcher.send(
            Errand(request=request, headers=headers, limits=limits, wire=wire, auth_client_id=auth_client_id)
        )
