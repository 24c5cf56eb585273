"""FlowMate's endpoints without a socket: what is sent, and what a good answer means.

Pure: values in, values out. What a bad answer means is in ``failures.py``. Sections cited are those of
docs/contract/OBSERVED.md.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from flowmate_async.contract.masks import masked_fields
from flowmate_async.errors import (
    CredentialMissingError,
    FlowMateError,
    InvalidIdError,
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
    OAuth2Secret,
    Secret,
    SessionSecret,
    decode_answer,
    drop_refresh_fields,
    missing_credential,
    note_renewable,
)

T = TypeVar("T")

IMPERSONATE = "POST /impersonate"
USERS = "GET /users/"
LIST = "GET /secrets/"
GET = "GET /secrets/{id}"

_MAX_USERNAME = 1024
_MAX_PAGE = 2**31 - 1
_MAX_DIGITS = 18
_DENSITY_MATTERS_BYTES = 64 * 1024
_MIN_NESTED_BYTES = 24
_MIN_PART_BYTES = 10
_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")
_HEX_ID = re.compile(r"[0-9A-Fa-f]{24}")
_SHOWABLE = re.compile(r"(?:text|application|image|multipart)/[a-z.+-]{1,40}")
_PLAIN = re.compile(r"[!-~]{1,256}")
# Control characters and invisible characters: a byte order mark would create another user.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request, without its credentials.

    Attributes:
        endpoint: its name in errors and statistics.
        path: path and query below the base URL.
        body: sent as JSON when not ``None``.
        username: on whose behalf it is sent; ``None`` for the tenant's own requests.
        secret_id: the secret it fetches.
        may_refresh: upstream may refresh a credential while answering, so that sending it twice is not
            harmless (§ Connections).
        auth_client_id: the OAuth client whose provider upstream may ask meanwhile, as far as that is known.
    """

    endpoint: str
    method: str
    path: str
    body: bytes | None = None
    username: str | None = None
    secret_id: str | None = None
    may_refresh: bool = False
    auth_client_id: str | None = None


def impersonate(username: str) -> Request:
    """Return the request for a user token (§ Impersonation).

    Raises:
        InvalidIdError: the username is empty or invalid; a typo may create a user upstream.
    """
    body = msgspec.json.encode({"username": checked_username(username)})
    return Request(endpoint=IMPERSONATE, method="POST", path="/impersonate", body=body, username=username)


def users() -> Request:
    """Return the request for every account of the tenant (§ Users of the tenant): one body, not paginated."""
    return Request(endpoint=USERS, method="GET", path="/users/?meta=true")


def list_secrets(*, number: int, size: int, username: str | None = None) -> Request:
    """Return the request for one page of a listing (§ Listing).

    Args:
        number: the page, from 1.
        size: secrets per page; upstream has no maximum.
        username: on whose behalf.

    Raises:
        InvalidIdError: a number or size below 1, for which upstream would return something else.
    """
    for name, value in (("number", number), ("size", size)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_PAGE:
            raise InvalidIdError(f"the page {name} must be a whole number from 1, not {value!r}")
    path = f"/secrets/?page%5Bsize%5D={size}&page%5Bnumber%5D={number}"
    return Request(endpoint=LIST, method="GET", path=path, username=username)


def get_secret(
    secret_id: str,
    *,
    username: str | None = None,
    may_refresh: bool = True,
    auth_client_id: str | None = None,
) -> Request:
    """Return the request for one secret with its credential (§ One secret).

    Args:
        secret_id: the secret's id.
        username: on whose behalf.
        may_refresh: whether upstream may refresh it; ``True`` when that is not known.
        auth_client_id: the OAuth client that it would be refreshed with, as far as that is known.

    Raises:
        InvalidIdError: the id could leave its path segment. Upstream answers a malformed one with 401.
    """
    path = f"/secrets/{checked_id(secret_id)}"  # contains no character that needs quoting
    return Request(
        endpoint=GET,
        method="GET",
        path=path,
        username=username,
        secret_id=secret_id,
        may_refresh=may_refresh,
        auth_client_id=auth_client_id,
    )


def checked_username(username: str) -> str:
    """Return the username if it may be sent.

    Raises:
        InvalidIdError: it is not a string, empty, padded, over 1024 characters, or has control or invisible
            characters.
    """
    if type(username) is str and _PLAIN.fullmatch(username):
        return username  # nearly all usernames; they break none of the rules below
    if not isinstance(username, str):
        raise InvalidIdError(f"a username is text, not {type(username).__name__}")
    if not username.strip():
        raise InvalidIdError("an empty username cannot be impersonated")
    if username != username.strip() or _UNSEEN.search(username) or not _encodable(username):
        raise InvalidIdError(
            "a username with surrounding blanks, control or invisible characters", username=username
        )
    if len(username) > _MAX_USERNAME:
        raise InvalidIdError(f"a username of more than {_MAX_USERNAME} characters", username=username)
    return username


def is_username(text: str) -> bool:
    """Return whether a text may be sent as a username."""
    try:
        checked_username(text)
    except InvalidIdError:
        return False
    return True


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_key(username: str) -> str:
    """Return the canonical spelling of a username: upstream ignores case (§ Second look).

    For keys only. Requests, reports and stores keep the original spelling.
    """
    return username.lower() if isinstance(username, str) else username


def secret_key(secret_id: str) -> str:
    """Return the canonical spelling of a secret id (§ Second look).

    Upstream finds a secret by hexadecimal digits of either case and answers in lower case. An id of 12
    characters is raw bytes, in which case matters.
    """
    if not isinstance(secret_id, str) or secret_id.islower() or not _HEX_ID.fullmatch(secret_id):
        return secret_id
    return secret_id.lower()


def canonical_key(username: str, secret_id: str) -> tuple[str, str]:
    """Return the key of one user's secret, for any spelling of both."""
    if type(username) is str and type(secret_id) is str and secret_id.islower():
        return username.lower(), secret_id  # by the rules above, without the calls
    return user_key(username), secret_key(secret_id)


def checked_id(secret_id: str) -> str:
    """Return the secret id if it consists of letters, digits, ``-`` and ``_`` only.

    Raises:
        InvalidIdError: it contains other characters.
    """
    if not isinstance(secret_id, str) or not _ID.fullmatch(secret_id):
        raise InvalidIdError(
            "a secret id has 1 to 128 letters, digits, '-' or '_'", secret_id=str(secret_id)[:128]
        )
    return secret_id


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
    if masked := masked_fields(secret):
        raise MaskedSecretError(
            f"upstream masked {', '.join(masked)}",
            advice="Grant the token the permission secrets.secret.readRaw",
            endpoint=GET,
        )
    if (field := missing_credential(secret)) is not None:
        raise _no_credential(secret, field)
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
