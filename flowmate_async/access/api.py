"""One method an endpoint: typed in, typed out, one user token or admin token at a time.

No caching, no impersonation on the side, no second page: those are the rooms above.
"""

from contextlib import AbstractContextManager
from typing import Any

import msgspec

from flowmate_async.contract import protocol
from flowmate_async.contract.failures import Failure
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.contract.protocol import Request
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Headers
from flowmate_async.traffic.call import OFF_WIRE, Errand, Identify, Receiver, UnawaitedErrand
from flowmate_async.traffic.dispatch import Dispatcher
from flowmate_async.transport.base import Limits, Response
from flowmate_async.values.dates import parse_http_date
from flowmate_async.values.models import SecretPage, User, UserToken
from flowmate_async.values.secrets import Secret


class ApiLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what upstream may take, in time and in memory. Each of them is above 0.

    Attributes:
        timeout_seconds: for one exchange, from sending to the last byte.
        secret_timeout_seconds: the same for one secret, which upstream may be refreshing meanwhile.
        max_wait_seconds: the longest that a caller of ``credential()``, ``lease()`` or ``get_secret()``
            waits, retries included. What is on the wire then goes on, and its answer is kept. A request
            that only waits for the client's own rate or concurrency is not counted.
        max_body_bytes: the largest body of a page of a listing, or of any other answer.
        max_secret_bytes: the largest body of one secret.
        max_users_bytes: the largest body of the user list, which is not paginated.
        max_users: the most accounts of the user list.
        max_listing_secrets: the most secrets of one user. A listing with a larger total is refused at once.
        max_listing_pages: the most pages of one listing, those of repeated attempts included.
        max_listing_seconds: the longest that one listing may take; checked after every page.
    """

    timeout_seconds: float = 30.0
    secret_timeout_seconds: float = 30.0
    max_wait_seconds: float = 45.0
    max_body_bytes: int = 8 * 1024 * 1024
    max_secret_bytes: int = 256 * 1024
    max_users_bytes: int = 256 * 1024 * 1024
    max_users: int = 2_000_000
    max_listing_secrets: int = 100_000
    max_listing_pages: int = 10_000
    max_listing_seconds: float = 600.0


def checked_limits(limits: ApiLimits) -> ApiLimits:
    """Return the limits if each can work.

    Raises:
        ConfigurationError: one is not a number above 0.
    """
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigurationError(f"ApiLimits.{name} must be a number above 0, not {value!r}")
    return limits


class Api:
    """FlowMate's endpoints.

    Args:
        dispatcher: sends the requests.
        limits: see :class:`ApiLimits`.
        keep_refresh_fields: keep ``refreshToken`` and ``inputFields`` of secrets.
        known: told what listings and answers show of secrets.
    """

    def __init__(
        self, dispatcher: Dispatcher, *, limits: ApiLimits, keep_refresh_fields: bool, known: KnownSecrets
    ) -> None:
        self._dispatcher = dispatcher
        self._known = known
        self._keep_refresh_fields = keep_refresh_fields
        self._plain = Limits(timeout_seconds=limits.timeout_seconds, max_body_bytes=limits.max_body_bytes)
        self._users = Limits(timeout_seconds=limits.timeout_seconds, max_body_bytes=limits.max_users_bytes)
        self._secret = Limits(
            timeout_seconds=limits.secret_timeout_seconds, max_body_bytes=limits.max_secret_bytes
        )
        self._max_users = limits.max_users

    async def impersonate(
        self, admin: Headers, username: str, *, wire: AbstractContextManager[Any] = OFF_WIRE
    ) -> UserToken:
        """``POST /impersonate``: a token for one user."""
        errand = Errand(protocol.impersonate(username), admin, self._plain, wire)
        return protocol.read_user_token(await self._dispatcher.send(errand))

    async def users(self, admin: Headers) -> list[User]:
        """``GET /users/``: every account of the tenant, administrators and service accounts included."""
        errand = Errand(protocol.users(), admin, self._users, OFF_WIRE)
        return protocol.read_users(await self._dispatcher.send(errand), max_users=self._max_users)

    async def list_secrets_page(self, user: Headers, *, username: str, number: int, size: int) -> SecretPage:
        """``GET /secrets/``: one page of a user's secrets, without credentials."""
        request = protocol.list_secrets(number=number, size=size, username=username)
        errand = Errand(request, user, self._plain, OFF_WIRE)
        page = protocol.read_page(await self._dispatcher.send(errand))
        for summary in page.data:
            self._known.note_summary(summary, served_at=page.served_at)
        return page

    async def get_secret(
        self,
        user: Headers,
        request: Request,
        *,
        wire: AbstractContextManager[Any] = OFF_WIRE,
        identify: Identify,
        failed: Failure | None = None,
        unattributed: bool = False,
    ) -> Secret:
        """``GET /secrets/{id}``: one secret with its credential.

        Args:
            user: the header with the user's token.
            request: as :func:`~flowmate_async.contract.protocol.get_secret` makes it.
            wire: entered for exactly as long as the request is on the wire.
            identify: finds out which OAuth client is behind the secret.
            failed: how the first attempt ended, if :meth:`get_secret_at_once` has made it.
            unattributed: whether the client was unknown then.
        """
        errand = Errand(request, user, self._secret, wire, identify, unattributed)
        response = await self._dispatcher.send(errand, failed=failed)
        return self.read_secret(response, request)

    def get_secret_at_once(
        self, user: Headers, request: Request, wire: AbstractContextManager[Any], receiver: Receiver
    ) -> bool:
        """The same, if nothing has to be waited for but the answer.

        Args:
            user: the header with the user's token.
            request: as :func:`~flowmate_async.contract.protocol.get_secret` makes it.
            wire: entered for exactly as long as the request is on the wire.
            receiver: told once what came: an answer for :meth:`read_secret`, or a failure for
                :meth:`get_secret` to go on with.

        Returns:
            Whether it was asked for; if not, the receiver is never told.
        """
        return self._dispatcher.send_at_once(
            UnawaitedErrand(request, user, self._secret, wire, receiver=receiver)
        )

    def read_secret(self, response: Response, request: Request) -> Secret:
        """The secret of a good answer.

        Args:
            response: the answer.
            request: what was asked for.

        Raises:
            ProtocolError: there is none, or another one.
            MaskedSecretError: its values are masked.
        """
        secret = protocol.read_secret(response, request, keep_refresh_fields=self._keep_refresh_fields)
        if request.may_refresh:  # of a plain read nothing new is learned
            served_at = parse_http_date(response.headers.get("date", ""))
            self._known.note_secret(secret, served_at=served_at)
        return secret
