"""FlowMate's endpoints: the bounds of each exchange, and how its answers are read.

Caching, impersonation and further pages are handled by the layers above.
"""

import msgspec

from flowmate_async.contract import answers, protocol
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.contract.protocol import Request
from flowmate_async.engine.awaiting import send
from flowmate_async.engine.call import Identity
from flowmate_async.engine.engine import Engine
from flowmate_async.errors import ConfigurationError
from flowmate_async.transport.base import Limits, Response
from flowmate_async.values.dates import parse_http_date
from flowmate_async.values.models import SecretPage, User
from flowmate_async.values.secrets import Secret


class ApiLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on the time and memory that upstream may use. Each of them is above 0.

    Attributes:
        timeout_seconds: maximum duration of one exchange, from sending to the last byte.
        secret_timeout_seconds: the same for one secret, which upstream may have to refresh first.
        max_wait_seconds: the longest time that a caller of ``credential()``, ``lease()`` or ``get_secret()``
            waits, including retries. A request in flight then continues, and its answer is kept. Time spent
            waiting for the client's own rate or concurrency does not count.
        max_body_bytes: maximum body of a page of a listing, or of any other answer.
        max_secret_bytes: maximum body of one secret.
        max_users_bytes: maximum body of the user list, which is not paginated.
        max_users: maximum number of accounts in the user list.
        max_listing_secrets: maximum number of secrets of one user. A listing with a larger total is refused
            at once.
        max_listing_pages: maximum number of pages of one listing, including repeated attempts.
        max_listing_seconds: maximum duration of one listing; checked after every page.
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
    """Return the limits if all are valid.

    Raises:
        ConfigurationError: one is not a number above 0.
    """
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigurationError(f"ApiLimits.{name} must be a number above 0, not {value!r}")
    return limits


class Api:
    """FlowMate's endpoints: the bounds of each exchange, and how its answers are read.

    Args:
        engine: sends calls.
        limits: see :class:`ApiLimits`.
        keep_refresh_fields: keep ``refreshToken`` and ``inputFields`` of secrets.
        known: records what listings and answers show about secrets.

    Attributes:
        engine: sends calls.
        plain_limits: the bounds of an impersonation, or of one page of a listing.
        secret_limits: the bounds of one secret.
    """

    def __init__(
        self, engine: Engine, *, limits: ApiLimits, keep_refresh_fields: bool, known: KnownSecrets
    ) -> None:
        self.engine: Engine = engine
        self._known = known
        self._keep_refresh_fields = keep_refresh_fields
        seconds = limits.timeout_seconds
        self.plain_limits: Limits = Limits(timeout_seconds=seconds, max_body_bytes=limits.max_body_bytes)
        self.secret_limits: Limits = Limits(
            timeout_seconds=limits.secret_timeout_seconds, max_body_bytes=limits.max_secret_bytes
        )
        self._users_limits = Limits(timeout_seconds=seconds, max_body_bytes=limits.max_users_bytes)
        self._max_users = limits.max_users

    async def users(self, admin: Identity) -> list[User]:
        """Send ``GET /users/``. Return all accounts, including administrators and service accounts."""
        answer = await send(self.engine, protocol.users(), admin, self._users_limits)
        return answers.read_users(answer, max_users=self._max_users)

    def read_page(self, response: Response) -> SecretPage:
        """Return the page of a good answer, and record what it shows.

        Raises:
            ProtocolError: the answer has no page.
        """
        page = answers.read_page(response)
        self._known.note_listed(page.data, served_at=page.served_at)
        return page

    def read_secret(self, response: Response, request: Request) -> Secret:
        """Return the secret of a good answer, and record what it shows.

        Raises:
            ProtocolError: the answer has no secret, or another one.
            MaskedSecretError: its values are masked.
        """
        secret = answers.read_secret(response, request, keep_refresh_fields=self._keep_refresh_fields)
        if request.may_refresh:  # a plain read shows nothing new
            served_at = parse_http_date(response.headers.get("date", ""))
            self._known.note_secret(secret, served_at=served_at)
        return secret
