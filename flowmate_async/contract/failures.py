"""The meaning of a bad or missing answer: the error to raise, and a possible remedy.

Pure: the contract's rules on the sender of an answer, statuses, ambiguous 401s, throttling and the refresh
lock, as one :class:`Failure` per case. Sections cited are those of docs/contract/OBSERVED.md.
"""

import enum
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import structs

from flowmate_async.contract.answers import is_json, shown_media_type
from flowmate_async.contract.protocol import GET, IMPERSONATE, LIST, USERS, Request
from flowmate_async.errors import (
    AuthenticationError,
    FlowMateError,
    InvalidIdError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    SecretNotFoundError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserNotFoundError,
)
from flowmate_async.redaction import Headers, conceal, safe_text
from flowmate_async.transport.base import Response, TransportError
from flowmate_async.values.dates import parse_http_date

LOCK_SECONDS = 10.0
"""How long upstream's refresh lock may stay taken (§ Concurrent GETs of one secret)."""

_WELL_FORMED = re.compile("[0-9A-Fa-f]{24}|.{12}")
"""Ids that the database accepts (§ Second look, Requests); upstream answers 401 to any other."""

_UNKNOWN_ROUTE = re.compile(rb"\bCannot (?:GET|POST)\b")
"""How the services' own page for an unknown route begins (§ Errors)."""

_NOT_ARRIVED = ("Missing authorization", "Invalid authorization")
_LOCKED = "Max secret refresh retry"
_TOKEN_UNKNOWN = "Token not found"  # noqa: S105 - a message of upstream's
_IAM_DOWN = "Authorization failed"
_GOOD = {IMPERSONATE: (200, 201)}
"""FlowMate has its own gateway in front of this service (§ Impersonation), so the match is lenient."""


class Remedy(enum.Enum):
    """What may be done about a failure before it is raised to the caller."""

    NONE = "none"
    RETRY = "retry"
    """Send again after a while; harmless."""
    AWAIT_LOCK = "await lock"
    """Upstream may be refreshing: send once more, after its lock has certainly ended."""
    REPLACE_TOKEN = "replace token"  # noqa: S105 - no password
    """The token may have expired: impersonate once and send again."""


class Failure(msgspec.Struct, frozen=True):
    """A failed request.

    Attributes:
        error: the error to raise if no remedy helps.
        remedy: what may help.
        retry_after_seconds: how long upstream asked to wait, if it did.
        throttled: whether upstream asked all clients to wait.
        locked: whether upstream's refresh lock of this secret may stay taken for its full duration.
        spent_seconds: how long the attempt took.
    """

    error: FlowMateError
    remedy: Remedy = Remedy.NONE
    retry_after_seconds: float | None = None
    throttled: bool = False
    locked: bool = False
    spent_seconds: float = 0.0

    @property
    def sick(self) -> bool:
        """Whether upstream as a whole seems to be failing, not just this token, secret or provider."""
        of_its_provider = isinstance(self.error, UpstreamTimeoutError) and self.error.endpoint == GET
        return isinstance(self.error, UpstreamUnavailableError) and not of_its_provider


def is_good(request: Request, response: Response) -> bool:
    """Return whether an answer is a success, by its status."""
    return response.status in _GOOD.get(request.endpoint, (200,))


def examine(request: Request, response: Response, *, now: float) -> Failure | None:
    """Return what is wrong with an answer; ``None`` if nothing is.

    Args:
        request: what was sent.
        response: the complete answer.
        now: seconds since the Unix epoch, for a Retry-After that is a date.
    """
    if is_good(request, response):
        return None
    failure = _examine_bad(request, response)
    if response.status < 400 or (wait := retry_after_seconds(response.headers, now=now)) is None:
        return failure
    return structs.replace(failure, retry_after_seconds=wait)


def _examine_bad(request: Request, response: Response) -> Failure:
    status = response.status
    if status == 429:
        error = _error(RateLimitedError, request, response, "FlowMate throttles", "Lower the rate")
        return Failure(error, Remedy.RETRY, throttled=True)
    if status in (502, 503, 504):
        return _failing(request, response)
    if status >= 400 and not _is_from_service(response):
        return _not_from_service(request, response)
    if status == 401:
        return _unauthorized(request, response)
    if status == 403:
        return Failure(_forbidden(request, response))
    if status == 404:
        return Failure(_not_found(request, response))
    if status == 500 and request.endpoint == GET:
        return _refresh_failed(request, response)
    if status >= 500:
        return Failure(_error(UpstreamUnavailableError, request, response, "FlowMate is failing"))
    what = (
        "a redirect, which is never followed"
        if 300 <= status < 400
        else "an answer the contract does not have"
    )
    return Failure(_error(ProtocolError, request, response, what, "Check the base URL"))


def examine_broken(request: Request, broken: TransportError) -> Failure:
    """Return the meaning of an exchange without a complete answer (§ Connections)."""
    detail = broken.detail
    if broken.failure == "timeout":
        advice = "FlowMate may be slow or failing; try again later"
        if request.endpoint == GET:
            advice = "Its provider or FlowMate may hang; try again in a minute"
        what = "no complete answer in time"
        error: FlowMateError = _silent(UpstreamTimeoutError, request, what, detail, advice)
    elif broken.failure == "tls":
        advice = (
            "Check the base URL's host name, the certificate authorities that are trusted (ca_file), and "
            "that the server speaks TLS 1.2 or newer"
        )
        return Failure(
            _silent(UpstreamUnavailableError, request, "no trusted TLS connection", detail, advice)
        )
    elif broken.failure == "too_large":
        limit = {USERS: "max_users_bytes", GET: "max_secret_bytes"}.get(request.endpoint, "max_body_bytes")
        advice = f"Raise ApiLimits.{limit} if the answer is genuine"
        return Failure(_silent(ProtocolError, request, "the answer is larger than allowed", detail, advice))
    elif broken.failure == "malformed":
        error = _silent(ProtocolError, request, "the answer is broken or not HTTP", detail)
    elif broken.failure == "connect":
        advice = "Check the base URL and the network"
        error = _silent(UpstreamUnavailableError, request, "FlowMate cannot be reached", detail, advice)
        return Failure(error, Remedy.RETRY)
    else:
        error = _silent(UpstreamUnavailableError, request, "the connection broke", detail)
    remedy = Remedy.AWAIT_LOCK if request.may_refresh else Remedy.RETRY
    return Failure(error, remedy, locked=request.may_refresh)


def retry_after_seconds(headers: Mapping[str, str], *, now: float) -> float | None:
    """Return ``Retry-After`` (seconds or an HTTP date, RFC 9110 § 10.2.3) in seconds, or ``None``."""
    raw = headers.get("retry-after", "").strip()
    if raw.isascii() and raw.isdigit():
        return float(raw[:9])
    moment = parse_http_date(raw)
    return None if moment is None else max(0.0, moment - now)


def _is_from_service(response: Response) -> bool:
    """Return whether FlowMate's own services can have given this bad answer (§ Second look, Outages).

    All of their errors are JSON with a ``message``; only an unknown route is a page. An ingress, a firewall
    or a login page answers otherwise, and what it says is not a verdict about a user or a secret.
    """
    if _UNKNOWN_ROUTE.search(response.body):
        return True
    return is_json(response.headers.get("content-type", "")) and _message(response) is not None


def _not_from_service(request: Request, response: Response) -> Failure:
    """Return the failure for an answer that did not come from FlowMate, whatever its status: retry."""
    if response.status == 401 and not response.body and request.endpoint in (LIST, GET):
        return _ambiguous_401(request, response)  # the sender of the answer is unknown
    media_type = shown_media_type(response.headers.get("content-type", ""))
    advice = "An ingress, firewall or proxy may answer instead. Try later; if it stays, check the base URL"
    error = _error(
        UpstreamUnavailableError, request, response, f"the answer ({media_type}) is not FlowMate's", advice
    )
    return _perhaps_refreshing(request, error, began=response.status >= 500)


def _unauthorized(request: Request, response: Response) -> Failure:
    """Return the failure for a 401. It has many causes (§ Errors), and only some concern the token."""
    said = _message(response) or ""
    if _IAM_DOWN in said:
        what = "FlowMate's own authorization service is failing"
        return Failure(_error(UpstreamUnavailableError, request, response, what), Remedy.RETRY)
    if request.endpoint in (IMPERSONATE, USERS):
        advice = "Check the admin token, and that it belongs to this base URL"
        error = _error(AuthenticationError, request, response, "the admin token was rejected", advice)
        return Failure(error, Remedy.REPLACE_TOKEN)
    if any(word in said for word in _NOT_ARRIVED):
        advice = "Check for a proxy that strips or changes the Authorization header"
        return Failure(_error(ProtocolError, request, response, "the token did not arrive", advice))
    if _TOKEN_UNKNOWN in said:
        error = _error(AuthenticationError, request, response, "the user token was rejected")
        return Failure(error, Remedy.REPLACE_TOKEN)
    return _ambiguous_401(request, response)


def _ambiguous_401(request: Request, response: Response) -> Failure:
    """Return the failure for a 401 without a reason: a malformed id, a database outage, or a gateway."""
    if request.secret_id is not None and not _WELL_FORMED.fullmatch(request.secret_id):
        # Upstream gives this answer to any user for such an id, so neither token nor server is in doubt.
        what, advice = "FlowMate rejects the secret id as malformed", "A secret id has 24 hexadecimal digits"
        return Failure(_error(InvalidIdError, request, response, what, advice))
    what = "401 without a usable reason; FlowMate's database may be down"
    error = _error(UpstreamUnavailableError, request, response, what, "Try again later")
    return Failure(error, Remedy.REPLACE_TOKEN)


def _forbidden(request: Request, response: Response) -> FlowMateError:
    if request.endpoint == GET:
        what, advice = "this user may not read this secret", "Ask as a user who owns it"
    elif request.endpoint in (IMPERSONATE, USERS):
        what, advice = "the token may not do this", "Use the tenant's admin token"
    else:
        what, advice = "the user may not list secrets", ""
    return _error(PermissionDeniedError, request, response, what, advice)


def _not_found(request: Request, response: Response) -> FlowMateError:
    if _message(response) is not None:
        if request.endpoint == GET:
            return SecretNotFoundError("no such secret", endpoint=request.endpoint, status=404)
        if request.endpoint == IMPERSONATE:
            what = "no such user, or the user is disabled"
            return UserNotFoundError(what, endpoint=request.endpoint, status=404)
    return ProtocolError(
        "no such endpoint", advice="Check the base URL", endpoint=request.endpoint, status=404
    )


def _failing(request: Request, response: Response) -> Failure:
    error = _error(UpstreamUnavailableError, request, response, "FlowMate is failing")
    return _perhaps_refreshing(request, error, began=response.status in (502, 504))


def _perhaps_refreshing(request: Request, error: FlowMateError, *, began: bool) -> Failure:
    """Return the failure for a gateway that gave up on a GET. If it ``began``, the refresh may go on."""
    waits = began and request.may_refresh
    return Failure(error, Remedy.AWAIT_LOCK if waits else Remedy.RETRY, locked=waits)


def _refresh_failed(request: Request, response: Response) -> Failure:
    """Return the failure for a secret's 500 (§ Refresh failures): a held lock, or a provider's refusal."""
    said = _message(response) or ""
    if _LOCKED in said:
        what = "another refresh of this secret has not ended"
        error = _error(RefreshFailedError, request, response, what, "Try again later")
        return Failure(error, Remedy.AWAIT_LOCK, locked=True)
    advice = "Try again later; if it stays, the user must connect the app again"
    what = "FlowMate could not refresh the credential with its provider"
    # If its provider sent an error body, upstream releases the lock silently; otherwise it does not.
    return Failure(_error(RefreshFailedError, request, response, what, advice), locked=bool(said))


class _Said(msgspec.Struct):
    message: Any


_said_decoder = msgspec.json.Decoder(_Said)


def _message(response: Response) -> str | None:
    """Return the ``message`` of an error body, not yet safe to show; ``None`` without one (§ Errors)."""
    try:
        message = _said_decoder.decode(response.body).message
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return message if isinstance(message, str) else ""


def without_tokens(response: Response, *sent: Headers | None) -> Response:
    """Return a bad answer with credentials removed from its message, whatever they look like.

    Args:
        response: the answer.
        sent: headers with credentials that the message may repeat.
    """
    said = _message(response)
    if not said:
        return response
    values = [value for headers in sent if headers is not None for _, value in headers.pairs]
    hidden = conceal(said, [value.removeprefix("Bearer ") for value in values])
    return response if hidden == said else structs.replace(response, body=_said_encoder(_Said(hidden)))


_said_encoder = msgspec.json.Encoder().encode


def _error(
    kind: type[FlowMateError], request: Request, response: Response, what: str, advice: str = ""
) -> FlowMateError:
    said = safe_text(_message(response) or "")
    text = f"{what}: {response.status} {said}" if said else f"{what}: {response.status}"
    return kind(
        text, advice=advice, endpoint=request.endpoint, secret_id=request.secret_id, status=response.status
    )


def _silent(
    kind: type[FlowMateError], request: Request, what: str, detail: str, advice: str = ""
) -> FlowMateError:
    text = f"{what}: {detail}" if detail else what
    return kind(text, advice=advice, endpoint=request.endpoint, secret_id=request.secret_id)
