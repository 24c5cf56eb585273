"""What FlowMate answers besides secrets: user tokens, accounts and listings, as msgspec structs.

Lenient about decoration: unknown fields are ignored, dates are kept as they came, and a name or an owner of
another type than documented never costs a record (the ``lenient_*`` functions). Strict about ids. Which bytes
become which struct is decided in ``contract/answers.py``; the secrets themselves are in ``secrets/``.
"""

from datetime import datetime
from typing import Any, ClassVar

import msgspec

from flowmate_async.redaction import Headers, Redacted
from flowmate_async.values.dates import parse_date

TOKEN_IDLE_SECONDS = 2.75 * 3600
"""How long an idle token is trusted: less than its sliding lifetime of 3 h upstream, which ends up to a
minute late (docs/contract/OBSERVED.md § Impersonation)."""


class UserToken(Redacted, frozen=True):
    """The result of an impersonation: an opaque bearer token for one user, with a sliding lifetime.

    Attributes:
        token: the bearer token itself.
        id: upstream's id of this impersonation; it is not the user's.
    """

    token: str
    id: str = ""

    __shown__: ClassVar[tuple[str, ...]] = ("id",)

    def headers(self) -> Headers:
        """Return the header that presents this token to FlowMate."""
        return Headers((("Authorization", f"Bearer {self.token}"),))


class KeptToken(Redacted, frozen=True):
    """A user's token as it is kept between runs, and when upstream accepted it last.

    Attributes:
        token: the token.
        used_at: when it was last accepted, in seconds since the Unix epoch.
    """

    token: UserToken
    used_at: float

    __shown__: ClassVar[tuple[str, ...]] = ("used_at",)

    def idle_seconds(self, *, now: float) -> float | None:
        """Return for how long it has been idle; ``None`` if it must not be sent any more.

        It must not be sent if it may have expired, or if its last use is in the future: then a clock was
        wrong, and its age is unknown.

        Args:
            now: seconds since the Unix epoch.
        """
        idle = now - self.used_at
        return idle if 0 <= idle < TOKEN_IDLE_SECONDS else None


class User(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One account of ``GET /users/``; administrators and service accounts are among them.

    Attributes:
        username: the external id to impersonate.
        id: upstream's internal id.
        status: ``ACTIVE``, or another word of upstream's.
        tenant: the tenant the user belongs to; administrators and service accounts have none.
        firstname: as it was entered.
        lastname: likewise.
        confirmed: whether the account was confirmed.
        roles: an administrator's or service account's.
        permissions: likewise.
    """

    username: str | None = None
    id: str = msgspec.field(default="", name="_id")
    firstname: str | None = None
    lastname: str | None = None
    status: str | None = None
    confirmed: bool | None = None
    tenant: str | None = None
    roles: tuple[Any, ...] | None = ()
    permissions: tuple[Any, ...] | None = ()

    @property
    def is_active_tenant_user(self) -> bool:
        """Whether "all users" includes this one (docs/contract/OBSERVED.md § Users of the tenant)."""
        return self.status == "ACTIVE" and bool(self.tenant and self.username) and not self.roles


class Owner(msgspec.Struct, frozen=True, gc=False):
    """An owner of a secret.

    Attributes:
        id: upstream's id of the user or tenant.
        type: ``USER`` or ``TENANT``.
    """

    id: str = ""
    type: str = ""


def lenient_text(value: object) -> str | None:
    """Return a decorative text: a number as its digits, ``None`` for anything else that is not a text."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def lenient_scope(value: object) -> str | None:
    """Return a scope as text; a list of texts is joined by blanks, as RFC 6749 § 3.3 writes it."""
    if isinstance(value, list):
        return " ".join(part for part in value if isinstance(part, str)) or None
    return lenient_text(value)


def lenient_owners(value: object) -> tuple[Owner, ...]:
    """Return the owners that can be read; none of anything that is not a list."""
    parts = value if isinstance(value, list | tuple) else ()
    owners = (
        Owner(id=lenient_text(part.get("id")) or "", type=lenient_text(part.get("type")) or "")
        for part in parts
        if isinstance(part, dict)
    )
    return tuple(owners)


class SummaryValue(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """The part of a secret's value that a listing shows: never a credential.

    Attributes:
        auth_client_id: the OAuth client it was granted to.
        scope: what it may do.
        expires: as upstream sent it; read it as the summary's ``expires_at``.
        external_id: the user's id at the provider.
    """

    auth_client_id: str | None = None
    scope: Any = None
    expires: Any = None
    external_id: Any = None


class SecretSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One item of a listing: which secret there is, without its credential.

    Attributes:
        id: the secret's id.
        type: ``SIMPLE``, ``API_KEY``, …, or a type this library does not know.
        name: the name its user gave it.
        owners: who owns it.
        value: what the listing shows of the value, OAuth client, scope and expiry; ``None`` for types of
            which it shows nothing.
        current_error: the last refresh's failure; upstream never clears it, see :attr:`ever_failed`.
    """

    id: str = msgspec.field(name="_id")
    type: str
    name: str | None = None
    owners: tuple[Owner, ...] | None = ()
    value: SummaryValue | None = None
    current_error: Any = msgspec.field(default=None, name="currentError")

    @property
    def ever_failed(self) -> bool:
        """Whether a refresh has ever failed; upstream never clears it (OBSERVED.md § Listing)."""
        return self.current_error is not None

    @property
    def auth_client_id(self) -> str | None:
        """The OAuth client behind the credential, as the listing shows it; ``None`` when there is none."""
        return None if self.value is None else self.value.auth_client_id

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires, as the listing shows it; ``None`` when unknown."""
        return None if self.value is None else parse_date(self.value.expires)


def lenient_summary(item: object) -> SecretSummary:
    """Return an item of a listing whose decoration is odd.

    Raises:
        msgspec.ValidationError: it has no id or no type.
    """
    if not isinstance(item, dict):
        return msgspec.convert(item, SecretSummary)  # raises
    value = item.get("value")
    shown = (
        dict(value, authClientId=lenient_text(value.get("authClientId"))) if isinstance(value, dict) else None
    )
    item |= {
        "name": lenient_text(item.get("name")),
        "owners": lenient_owners(item.get("owners")),
        "value": shown,
    }
    return msgspec.convert(item, SecretSummary)


def lenient_user(item: object) -> User:
    """Return an account some of whose fields are odd; whatever cannot be read is left out.

    A username that is not a text is not guessed at: such an account cannot be impersonated.
    """
    fields = item if isinstance(item, dict) else {}
    tenant = fields.get("tenant")
    if isinstance(tenant, dict):  # shown in full instead of by its id
        tenant = tenant.get("_id")
    username, status, confirmed = (fields.get(name) for name in ("username", "status", "confirmed"))
    return User(
        username=username if isinstance(username, str) else None,
        id=lenient_text(fields.get("_id")) or "",
        firstname=lenient_text(fields.get("firstname")),
        lastname=lenient_text(fields.get("lastname")),
        status=status if isinstance(status, str) else None,
        confirmed=confirmed if isinstance(confirmed, bool) else None,
        tenant=lenient_text(tenant),
        roles=_as_tuple(fields.get("roles")),
        permissions=_as_tuple(fields.get("permissions")),
    )


def _as_tuple(value: object) -> tuple[Any, ...]:
    """Return a list as a tuple, nothing as an empty one, and anything else as its only item."""
    if isinstance(value, list):
        return tuple(value)
    return () if value is None else (value,)


class SecretPage(msgspec.Struct, frozen=True, gc=False):
    """One page of a listing.

    Attributes:
        data: the secrets of this page.
        total: how many secrets the whole listing has, if upstream says so.
        served_at: upstream's own time of the answer, in seconds since the Unix epoch, when it gave one.
    """

    data: tuple[SecretSummary, ...]
    total: int | None = None
    served_at: float | None = None
