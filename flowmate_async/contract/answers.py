"""What FlowMate's good answers mean: bodies in, values out.

Pure. What a bad answer means is in ``failures.py``. Sections cited are those of docs/contract/OBSERVED.md.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from flowmate_async.contract.ids import secret_key
from flowmate_async.contract.masks import masked_fields
from flowmate_async.contract.protocol import GET, IMPERSONATE, LIST, USERS, Request
from flowmate_async.errors import (
    CredentialMissingError,
    FlowMateError,
    MaskedSecretError,
    ProtocolError,
    RefreshFailedError,
)
from flowmate_async.transport.base import Response
from flowmate_async.values.dates import parse_http_date
from flowmate_async.values.decoding import decode_safely
from flowmate_async.values.models import (
    SecretPage,
    SecretSummary,
    User,
    UserToken,
    lenient_summary,
    lenient_text,
    lenient_user,
)
from flowmate_async.values.secrets import (
    ApiKeySecret,
    MixedSecret,
    OAuth2Secret,
    Secret,
    SessionSecret,
    SimpleSecret,
    decode_answer,
    drop_refresh_fields,
    missing_credential,
    note_renewable,
)

T = TypeVar("T")

_ONLY_CREDENTIAL: dict[type, Callable[[Any], str]] = {
    SimpleSecret: attrgetter("value.passphrase"),
    ApiKeySecret: attrgetter("value.key"),
    OAuth2Secret: attrgetter("value.access_token"),
    MixedSecret: attrgetter("value.payload"),
}
"""The credential of the types whose credential is one field, and the only one that upstream masks."""

_MAX_DIGITS = 18
_DENSITY_MATTERS_BYTES = 64 * 1024
_MIN_NESTED_BYTES = 24
_MIN_PART_BYTES = 10
_SHOWABLE = re.compile(r"(?:text|application|image|multipart)/[a-z.+-]{1,40}")


class _Envelope(msgspec.Struct):
    """A list in its envelope, undecoded."""

    data: list[msgspec.Raw]
    meta: msgspec.Raw = msgspec.Raw(b"null")


class _Users(msgspec.Struct):
    data: list[User]
    meta: msgspec.Raw = msgspec.Raw(b"null")


class _Page(msgspec.Struct):
    data: tuple[SecretSummary, ...]
    meta: msgspec.Raw = msgspec.Raw(b"null")


class _Meta(msgspec.Struct, rename="camel"):
    """What a list says about itself; only the total counts."""

    total: Any = None


_token_decoder = msgspec.json.Decoder(UserToken)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_users_decoder: msgspec.json.Decoder[_Users | list[User]] = msgspec.json.Decoder(_Users | list[User])
_page_decoder = msgspec.json.Decoder(_Page)
_any_list_decoder: msgspec.json.Decoder[_Envelope | list[msgspec.Raw]] = msgspec.json.Decoder(
    _Envelope | list[msgspec.Raw]
)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_meta_decoder = msgspec.json.Decoder(_Meta)


def read_user_token(response: Response) -> UserToken:
    """Return the token of a good answer to :func:`impersonate`.

    Raises:
        ProtocolError: there is none.
    """
    token = _read(_decode_token, response, IMPERSONATE)
    if not token.token.isascii() or not token.token.isprintable() or " " in token.token or not token.token:
        raise ProtocolError("the answer holds a token that no header can carry", endpoint=IMPERSONATE)
    return token


def _decode_token(body: bytes) -> UserToken:
    try:
        return _token_decoder.decode(body)
    except msgspec.ValidationError:
        fields = _object_decoder.decode(body)
        return msgspec.convert({**fields, "id": lenient_text(fields.get("id")) or ""}, UserToken)


def read_users(response: Response, *, max_users: int = 2_000_000) -> list[User]:
    """Return the accounts of a good answer to :func:`users`, bare array or enveloped.

    An account with odd fields is read as far as it can be (§ Users of the tenant).

    Args:
        response: the answer.
        max_users: maximum number of accounts.

    Raises:
        ProtocolError: there are none, or too many, or another number than the answer's own total.
    """
    users, total = _read(_decode_users, response, USERS)
    if len(users) > max_users:
        advice = "Raise ApiLimits.max_users if the answer is genuine"
        what = f"the answer has {len(users)} users, more than the {max_users} allowed"
        raise ProtocolError(what, advice=advice, endpoint=USERS)
    if total is not None and total != len(users):
        raise ProtocolError(f"the answer has {len(users)} users and says {total}", endpoint=USERS)
    return users


def _decode_users(body: bytes) -> tuple[list[User], int | None]:
    _check_density(body)
    answer: Any
    try:
        answer = _users_decoder.decode(body)
    except msgspec.ValidationError:
        answer = _any_list_decoder.decode(body)
        items = answer if isinstance(answer, list) else answer.data
        users = [lenient_user(msgspec.json.decode(item)) for item in items]
    else:
        users = answer if isinstance(answer, list) else answer.data
    return users, None if isinstance(answer, list) else _decode_total(answer.meta)


def read_page(response: Response) -> SecretPage:
    """Return the page of a good answer to :func:`list_secrets`, with the time of its ``Date`` header.

    Raises:
        ProtocolError: there is none, or an item has no id or type.
    """
    page = _read(_decode_page, response, LIST)
    return structs.replace(page, served_at=parse_http_date(response.headers.get("date", "")))


def _decode_page(body: bytes) -> SecretPage:
    _check_density(body)
    try:
        page = _page_decoder.decode(body)
        return SecretPage(page.data, _decode_total(page.meta))
    except msgspec.ValidationError:
        envelope = _envelope_decoder.decode(body)
        items = tuple(lenient_summary(msgspec.json.decode(item)) for item in envelope.data)
        return SecretPage(items, _decode_total(envelope.meta))


def _check_density(body: bytes) -> None:
    """Refuse a list that would take many times its own size in memory, as ``[{},{},…]`` does.

    Upstream's items have 80 bytes or more (§ Listing, § Users of the tenant) and few parts. Each object and
    array costs about 120 bytes in memory and each part of an array about 60, however few bytes it has.

    Raises:
        msgspec.ValidationError: the list has far smaller parts than that.
    """
    if len(body) < _DENSITY_MATTERS_BYTES:
        return
    nested = body.count(b"{") + body.count(b"[")
    if nested * _MIN_NESTED_BYTES > len(body) or body.count(b",") * _MIN_PART_BYTES > len(body):
        raise msgspec.ValidationError("its parts are too small and too many to be genuine")


def _decode_total(raw: msgspec.Raw) -> int | None:
    """Return how many items a list says it has; ``None`` without a total, which may be missing (§ Listing).

    Raises:
        msgspec.ValidationError: there is a total, and it is not a number of items.
    """
    try:
        meta = _meta_decoder.decode(raw)
    except msgspec.ValidationError:
        return None  # not an object, so it has no total
    if meta.total is None:
        return None
    total = _whole(meta.total)
    if total is None:
        raise msgspec.ValidationError("the total is not a number of items")
    return total


def _whole(value: object) -> int | None:
    """Return a whole number, written as a number or as text; ``None`` for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_secret(response: Response, request: Request, *, keep_refresh_fields: bool = False) -> Secret:
    """Return the secret of a good answer to :func:`get_secret`.

    Args:
        response: the answer.
        request: what was asked for.
        keep_refresh_fields: see :func:`flowmate_async.values.secrets.decode_secret`.

    Raises:
        ProtocolError: there is none, or another one.
        MaskedSecretError: its values are masked.
        RefreshFailedError: upstream refreshed it, or logged in, and got no token (§ Second look).
        CredentialMissingError: it is of another type and holds no credential.
    """
    secret = _decode_secret(response)
    if secret.id != request.secret_id and secret.id != secret_key(request.secret_id or ""):
        raise ProtocolError("the answer is another secret than the one asked for", endpoint=GET)
    credential_of = _ONLY_CREDENTIAL.get(type(secret))
    credential = "" if credential_of is None else credential_of(secret)
    if "*" in credential or not credential or credential.isspace():  # else it is neither masked nor missing
        _require_credential(secret)
    note_renewable(secret)
    if not keep_refresh_fields:
        drop_refresh_fields(secret)
    return secret


def _decode_secret(response: Response) -> Secret:
    """Decode a secret on the fast path. :func:`_read` reports any error."""
    if is_json(response.headers.get("content-type", "")):
        try:
            return decode_answer(response.body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
    return _read(decode_answer, response, GET)


def _require_credential(secret: Secret) -> None:
    """Refuse a secret whose values are masked, or that holds no credential."""
    if masked := masked_fields(secret):
        raise MaskedSecretError(
            f"upstream masked {', '.join(masked)}",
            advice="Grant the token the permission secrets.secret.readRaw",
            endpoint=GET,
        )
    if (field := missing_credential(secret)) is not None:
        raise _no_credential(secret, field)


def _no_credential(secret: Secret, field: str) -> FlowMateError:
    """Return the error for a secret without a credential. For a refreshed type, its provider gave none."""
    what = f"the answer holds no credential: {field} is missing or empty"
    if isinstance(secret, OAuth2Secret | SessionSecret):
        advice = (
            "Its provider gave no token. Try again later; if it stays, the user must connect the app again"
        )
        return RefreshFailedError(what, advice=advice, endpoint=GET, status=200)
    advice = "The user must connect the app again"
    return CredentialMissingError(what, advice=advice, endpoint=GET, status=200)


def _read(decode: Callable[[Any], T], response: Response, endpoint: str) -> T:
    """Decode a body. An answer that is not JSON gets a specific error."""
    if not is_json(response.headers.get("content-type", "")):
        raise ProtocolError(
            f"the answer is {shown_media_type(response.headers['content-type'])}, not JSON",
            advice="Check that the base URL is FlowMate's API and not a login page or a proxy",
            endpoint=endpoint,
            status=response.status,
        )
    try:
        return decode_safely(decode, response.body, what="the answer")
    except ProtocolError as error:
        error.endpoint, error.status = endpoint, response.status
        raise


@lru_cache(maxsize=64)
def is_json(content_type: str) -> bool:
    """Return whether a body of that type, or of none, is worth decoding."""
    media_type = _media_type(content_type)
    return not media_type or media_type == "application/json" or media_type.endswith("+json")


def shown_media_type(content_type: str) -> str:
    """Return a media type that is safe to show; the header itself may contain anything."""
    media_type = _media_type(content_type)
    return media_type if _SHOWABLE.fullmatch(media_type) else "of no known type"


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
