"""The secrets themselves: a tagged union of msgspec structs, and how one is decoded.

Lenient about decoration: an unknown type becomes :class:`UnknownSecret`, an unknown field of a value is kept
in its ``extra``, and a name, owner or scope of another type than documented never costs a credential. Strict
about ids and about what is presented to an app: a known type without its credential does not decode.

The ``repr`` of a secret does not show its value, and pickling raises ``TypeError``. There are two explicit
ways to get the value out: ``msgspec.structs.asdict(secret.value)`` and ``msgspec.json.encode(secret)``.
"""

import functools
from datetime import datetime, timedelta
from typing import Any, ClassVar, get_args

import msgspec
from msgspec import structs

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted
from flowmate_async.values import auth_headers
from flowmate_async.values.dates import parse_date
from flowmate_async.values.decoding import decode_safely
from flowmate_async.values.models import Owner, lenient_owners, lenient_scope, lenient_text

__all__ = [
    "ApiKeySecret",
    "ApiKeyValue",
    "MixedSecret",
    "MixedValue",
    "OAuth1Secret",
    "OAuth1TwoLeggedSecret",
    "OAuth1Value",
    "OAuth2Secret",
    "OAuth2Value",
    "Secret",
    "SessionSecret",
    "SessionValue",
    "SimpleSecret",
    "SimpleValue",
    "UnknownSecret",
    "decode_secret",
    "presented",
]


_STRUCT_BYTES = 1024
_FREE_FORM_FACTOR = 32
_WIDEST_CHARACTER_BYTES = 4
_UNKNOWN_BYTES = 1024 * 1024

_SAME_MOMENT = timedelta(seconds=1)
"""Upstream's own dates of one refresh differ by up to 0.1 s (docs/contract/OBSERVED.md § Second look)."""


class _Value(
    Redacted, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """Base of values. Unknown fields are forbidden so that the decoder notices and keeps them.

    Attributes:
        extra: fields that upstream sent and the contract does not have.
    """

    extra: dict[str, Any] = msgspec.field(default_factory=dict, name="_extra")


class SimpleValue(_Value, frozen=True, kw_only=True):
    """A username and its passphrase (docs/contract/OBSERVED.md § One secret).

    Attributes:
        passphrase: the passphrase.
        username: the username in the app, not FlowMate's.
    """

    passphrase: str
    username: str | None = None


class ApiKeyValue(_Value, frozen=True, kw_only=True):
    """An API key (docs/contract/OBSERVED.md § One secret).

    Attributes:
        key: the key.
        header_name: the header it belongs in; may be missing or empty.
    """

    key: str
    header_name: str | None = None


class OAuth2Value(_Value, frozen=True, kw_only=True):
    """An OAuth 2 access token (docs/contract/OBSERVED.md § One secret).

    Attributes:
        access_token: the token.
        auth_client_id: the OAuth client it was granted to.
        scope: what it may do, as the provider says it.
        expires: as upstream sent it; read it as the secret's ``expires_at``.
        external_id: the user's id at the provider.
        refresh_token: dropped at decode unless asked for; may be a ciphertext.
    """

    access_token: str
    auth_client_id: str | None = None
    scope: str | None = None
    expires: Any = None
    external_id: str | None = None
    refresh_token: Any = None


class SessionValue(_Value, frozen=True, kw_only=True):
    """A session token (docs/contract/OBSERVED.md § One secret).

    Attributes:
        access_token: the token.
        auth_client_id: the client it was made with.
        expires: as upstream sent it, often nothing; read it as the secret's ``expires_at``.
        input_fields: what the user typed to log in; dropped at decode unless asked for.
    """

    access_token: str
    auth_client_id: str | None = None
    expires: Any = None
    input_fields: Any = None


class MixedValue(_Value, frozen=True, kw_only=True):
    """An opaque payload.

    Attributes:
        payload: a text whose meaning only its app knows.
    """

    payload: str


class OAuth1Value(_Value, frozen=True, kw_only=True):
    """OAuth 1 tokens, two- or three-legged (docs/contract/OBSERVED.md § One secret).

    Attributes:
        access_token: the token.
        access_token_secret: what requests are signed with.
        scope: what it may do, as the provider says it.
        expires: as upstream sent it; read it as the secret's ``expires_at``.
        expires_at: the same under its other name.
        external_id: the user's id at the provider.
    """

    access_token: str | None = None
    access_token_secret: str | None = None
    scope: str | None = None
    expires: Any = None
    expires_at: Any = None
    external_id: str | None = None


class _SecretBase(Redacted, frozen=True, kw_only=True, omit_defaults=True):
    """What all secrets have.

    Attributes:
        id: the secret's id.
        name: the name its user gave it.
        owners: who owns it: users, or the whole tenant.
        created: when it was created, as upstream sent it; read it as ``created_at``.
        updated: when it last changed, as upstream sent it; read it as ``updated_at``.
        locked: when upstream last began to refresh it, as upstream sent it.
        value: the credential itself; its fields depend on the type.
    """

    id: str = msgspec.field(name="_id")
    name: str | None = None
    owners: tuple[Owner, ...] = ()
    created: Any = msgspec.field(default=None, name="createdAt")
    updated: Any = msgspec.field(default=None, name="updatedAt")
    locked: Any = msgspec.field(default=None, name="lockedAt")

    __shown__: ClassVar[tuple[str, ...]] = ("id", "type", "expires_at")

    @property
    def type(self) -> str:
        """Upstream's word for the type."""
        return str(self.__struct_config__.tag)

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when it does not, or when that is not known."""
        return None

    @property
    def created_at(self) -> datetime | None:
        """When the secret was made upstream."""
        return parse_date(self.created)

    @property
    def updated_at(self) -> datetime | None:
        """When the secret last changed upstream."""
        return parse_date(self.updated)

    def auth_headers(self, *, default_header: str | None = None) -> dict[str, str]:
        """Return the HTTP headers that present this credential to its app.

        Args:
            default_header: the header for an API key that names none of its own.

        Raises:
            ConfigurationError: this type has no header form, or its header cannot be known or sent.
        """
        raise ConfigurationError(
            f"a secret of type {self.type} has no header form",
            advice="Build the request from secret.value",
            secret_id=self.id,
        )


class SimpleSecret(_SecretBase, frozen=True, kw_only=True, tag_field="type", tag="SIMPLE"):
    """Username and passphrase; presented as HTTP Basic."""

    value: SimpleValue

    def auth_headers(self, *, default_header: str | None = None) -> dict[str, str]:
        """Return the header for HTTP Basic; ``default_header`` is for API keys.

        Raises:
            ConfigurationError: the username cannot be sent in this scheme.
        """
        return auth_headers.basic(self.value.username or "", self.value.passphrase, secret_id=self.id)


class ApiKeySecret(_SecretBase, frozen=True, kw_only=True, tag_field="type", tag="API_KEY"):
    """An API key; presented in the header it names, or in the one you name."""

    value: ApiKeyValue

    def auth_headers(self, *, default_header: str | None = None) -> dict[str, str]:
        """Return the key in its header, or in ``default_header`` if it names none.

        Raises:
            ConfigurationError: it names none and none was given, or the header or key cannot be sent.
        """
        header = self.value.header_name or default_header
        return auth_headers.api_key(header, self.value.key, secret_id=self.id)


class OAuth2Secret(_SecretBase, frozen=True, kw_only=True, tag_field="type", tag="OA2_AUTHORIZATION_CODE"):
    """An OAuth 2 access token; presented as a bearer token.

    Attributes:
        renewable: ``False`` if FlowMate has no refresh token and cannot renew the expired token.
    """

    value: OAuth2Value
    renewable: bool = True

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when that is not known.

        If a provider sends no ``expires_in``, upstream gives the time of the refresh (docs/contract/
        OBSERVED.md § Second look). Such a token is fresh, and its end is unknown.
        """
        return _unless_created_then(parse_date(self.value.expires), self)

    def auth_headers(self, *, default_header: str | None = None) -> dict[str, str]:
        """Return the header for a bearer token; ``default_header`` is for API keys.

        Raises:
            ConfigurationError: no header can carry the token.
        """
        return auth_headers.bearer(self.value.access_token, secret_id=self.id)


class SessionSecret(_SecretBase, frozen=True, kw_only=True, tag_field="type", tag="SESSION_AUTH"):
    """A session token; presented as a bearer token."""

    value: SessionValue

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when that is not known, as for :class:`OAuth2Secret`."""
        return _unless_created_then(parse_date(self.value.expires), self)

    def auth_headers(self, *, default_header: str | None = None) -> dict[str, str]:
        """Return the header for a bearer token; ``default_header`` is for API keys.

        Raises:
            ConfigurationError: no header can carry the token.
        """
        return auth_headers.bearer(self.value.access_token, secret_id=self.id)


def _unless_created_then(end: datetime | None, secret: _SecretBase) -> datetime | None:
    """Return the end of a credential, or ``None`` if it is the moment at which the credential was made."""
    if end is not None:
        for moment in (secret.updated, secret.locked, secret.created):
            made = None if moment is None else parse_date(moment)
            if made is not None and abs(end - made) <= _SAME_MOMENT:
                return None
    return end


class MixedSecret(_SecretBase, frozen=True, kw_only=True, tag_field="type", tag="MIXED"):
    """A payload whose meaning only its app knows."""

    value: MixedValue


class OAuth1Secret(_SecretBase, frozen=True, kw_only=True, tag_field="type", tag="OA1_THREE_LEGGED"):
    """OAuth 1 tokens. Each request is signed individually, so they have no header form."""

    value: OAuth1Value

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when that is not known."""
        return parse_date(self.value.expires_at) or parse_date(self.value.expires)


class OAuth1TwoLeggedSecret(OAuth1Secret, frozen=True, kw_only=True, tag_field="type", tag="OA1_TWO_LEGGED"):
    """OAuth 1 tokens without a user behind them."""


class UnknownSecret(_SecretBase, frozen=True, kw_only=True):
    """A type this library does not know, kept as it came, so that a new type never breaks a batch.

    Attributes:
        kind: upstream's word for the type, also ``type``.
        value: whatever upstream holds for it.
    """

    kind: str = msgspec.field(name="type")
    value: Any = None

    @property
    def type(self) -> str:
        """Upstream's word for the type."""
        return self.kind

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when that is not known."""
        return parse_date(self.value.get("expires")) if isinstance(self.value, dict) else None


_Known = (
    SimpleSecret
    | ApiKeySecret
    | OAuth2Secret
    | SessionSecret
    | MixedSecret
    | OAuth1Secret
    | OAuth1TwoLeggedSecret
)
Secret = _Known | UnknownSecret
"""Any secret; tell them apart with ``match`` or ``isinstance``."""

_KNOWN_TYPES: dict[str, Any] = {str(known.__struct_config__.tag): known for known in get_args(_Known)}
SECRET_TYPES: tuple[str, ...] = tuple(sorted(_KNOWN_TYPES))
"""What FlowMate calls the types that are known here."""

_CREDENTIALS: dict[type, tuple[str, ...]] = {
    SimpleSecret: ("passphrase",),
    ApiKeySecret: ("key",),
    OAuth2Secret: ("access_token",),
    SessionSecret: ("access_token",),
    MixedSecret: ("payload",),
    OAuth1Secret: ("access_token", "access_token_secret"),
}
"""The fields without which a secret of a type is useless. Two-legged OAuth 1 has none of its own."""

_UPSTREAMS_BUSINESS = frozenset({"refreshToken", "inputFields"})


class _Answer(Redacted, frozen=True):
    """A secret in the envelope that upstream answers with."""

    data: _Known


class _AnyAnswer(Redacted, frozen=True):
    data: msgspec.Raw


_known_decoder: msgspec.json.Decoder[_Known] = msgspec.json.Decoder(_Known)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_answer_decoder = msgspec.json.Decoder(_Answer)
_any_answer_decoder = msgspec.json.Decoder(_AnyAnswer)


def decode_answer(body: bytes | msgspec.Raw) -> Secret:
    """Decode the body of an answer: the secret in its envelope, in one pass if its type is known.

    A credential that is missing or ``null`` decodes as an empty one; see :func:`missing_credential`.

    Raises:
        msgspec.MsgspecError: not JSON, no envelope, or not a secret of its type. Call this by way of
            :func:`~flowmate_async.values.decoding.decode_safely`.
    """
    try:
        return _answer_decoder.decode(body).data
    except msgspec.ValidationError:
        return _decode_leniently(_object_decoder.decode(_any_answer_decoder.decode(body).data), fill=True)


def missing_credential(secret: Secret) -> str | None:
    """Return the field that should hold this secret's credential and is blank; ``None`` if none is.

    A blank credential is not one: no app accepts it, and no header can carry it.
    """
    for attribute in _CREDENTIALS.get(type(secret), ()):
        part = getattr(secret.value, attribute)
        if part is None or not part.strip():
            return _wire_name(_value_type(type(secret)), attribute)
    return None


def decode_secret(data: bytes | msgspec.Raw, *, keep_refresh_fields: bool = False) -> Secret:
    """Decode one secret, whatever its type.

    Args:
        data: the JSON object as upstream sends it, or as ``msgspec.json.encode(secret)`` wrote it.
        keep_refresh_fields: keep ``refreshToken`` and ``inputFields``, which are upstream's own business
            (docs/contract/OBSERVED.md § One secret) and dropped otherwise.

    Raises:
        ProtocolError: not JSON, or not a secret of its type; nothing of the data is in the error.
    """
    data = msgspec.Raw(data)  # bytes would show among the locals of this frame, a Raw does not
    secret = decode_safely(_decode, data, what="the secret")
    if not keep_refresh_fields:
        drop_refresh_fields(secret)
    return secret


def _decode(data: bytes | msgspec.Raw) -> Secret:
    try:
        return _known_decoder.decode(data)
    except msgspec.ValidationError:
        # An unknown type, an unknown field, odd decoration, or an error: only now worth a closer look.
        return _decode_leniently(_object_decoder.decode(data), fill=False)


def _decode_leniently(fields: dict[str, Any], *, fill: bool) -> Secret:
    """Decode what the strict decoder refused.

    Args:
        fields: the secret's JSON object, changed in place.
        fill: whether a credential that is missing or ``null`` becomes an empty one instead of an error.
    """
    fields["name"] = lenient_text(fields.get("name"))
    fields["owners"] = lenient_owners(fields.get("owners"))
    known = _KNOWN_TYPES.get(str(fields.get("type")))
    if known is None:
        return msgspec.convert(fields, UnknownSecret)
    value = fields.get("value")
    if value is None and fill:
        value = fields["value"] = {}
    if isinstance(value, dict):
        _tidy(value, known, fill=fill)
    secret: Secret = msgspec.convert(fields, known)
    return secret


def _tidy(value: dict[str, Any], known: Any, *, fill: bool) -> None:
    """Make a value fit its type: unknown fields move to ``extra``, odd decoration becomes text or nothing."""
    names = _value_fields(known)
    extra = {name: value.pop(name) for name in list(value) if name not in names}
    kept = value.get("_extra")
    value["_extra"] = {**(kept if isinstance(kept, dict) else {}), **extra}
    for name in ("authClientId", "externalId"):
        if name in value:
            value[name] = lenient_text(value[name])
    if "scope" in value:
        value["scope"] = lenient_scope(value["scope"])
    if type(value.get("username")) is int:  # it is presented to the app, so nothing else is converted
        value["username"] = str(value["username"])
    if fill:
        for attribute in _CREDENTIALS.get(known, ()):
            name = _wire_name(_value_type(known), attribute)
            if value.get(name) is None:
                value[name] = ""


@functools.cache
def _value_type(known: Any) -> Any:
    """Return the struct of a known type's value."""
    return next(field.type for field in structs.fields(known) if field.name == "value")


@functools.cache
def _value_fields(known: Any) -> frozenset[str]:
    """Return the names of the fields of a known type's value, as upstream writes them."""
    return frozenset(_value_type(known).__struct_encode_fields__)


@functools.cache
def _wire_name(value_type: Any, attribute: str) -> str:
    """Return the name of a field as upstream writes it."""
    return next(field.encode_name for field in structs.fields(value_type) if field.name == attribute)


def note_renewable(secret: Secret) -> None:
    """Note whether FlowMate can renew an OAuth 2 token (docs/contract/OBSERVED.md § One secret).

    Args:
        secret: one that came from FlowMate just now, with its refresh token if any; changed in place.
    """
    if isinstance(secret, OAuth2Secret) and not secret.value.refresh_token:
        structs.force_setattr(secret, "renewable", False)  # noqa: FBT003 - a value, no flag


def drop_refresh_fields(secret: Secret) -> None:
    """Take ``refreshToken`` and ``inputFields`` out of a secret, whatever its type.

    Args:
        secret: a newly decoded secret without other references, since it is changed in place.
    """
    value = secret.value
    if isinstance(value, OAuth2Value):
        structs.force_setattr(value, "refresh_token", None)
    elif isinstance(value, SessionValue):
        structs.force_setattr(value, "input_fields", None)
    if isinstance(value, _Value):
        if value.extra:
            structs.force_setattr(value, "extra", _without_upstreams_business(value.extra))
    elif isinstance(value, dict):
        structs.force_setattr(secret, "value", _without_upstreams_business(value))


def _without_upstreams_business(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in fields.items() if name not in _UPSTREAMS_BUSINESS}


def memory_bytes(secret: Secret) -> int:
    """Return about how many bytes of memory a secret takes, at most.

    A part of unknown shape may take many times its JSON: an empty list is two characters and 64 bytes.
    """
    try:
        encoded = msgspec.json.encode(secret)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _UNKNOWN_BYTES
    free_form = isinstance(secret, UnknownSecret) or bool(secret.value.extra)
    size = len(encoded) * (1 if encoded.isascii() else _WIDEST_CHARACTER_BYTES)
    return _STRUCT_BYTES + size * (_FREE_FORM_FACTOR if free_form else 1)


def presented(secret: Secret) -> object:
    """Return what an app sees of a secret: without its expiry and the fields for upstream's refresh."""
    value = secret.value
    if isinstance(value, OAuth1Value):
        return value.access_token, value.access_token_secret
    return value.access_token if isinstance(value, OAuth2Value | SessionValue) else value
