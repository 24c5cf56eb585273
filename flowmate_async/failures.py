"""What a bad answer, or none, means: the error to raise and what may be done first.

Pure: the contract's rules on statuses, ambiguous 401s, throttling and the refresh lock, as one
:class:`Failure` a case. Sections cited are those of docs/contract/OBSERVED.md.
"""

import enum
import re

import msgspec

from flowmate_async.dates import parse_http_date
from flowmate_async.errors import (
    AuthenticationError,
    FlowMateError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    SecretNotFoundError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserNotFoundError,
)
from flowmate_async.protocol import GET, IMPERSONATE, USERS, Request
from flowmate_async.redaction import safe_text
from flowmate_async.transport.base import Response, TransportError

LOCK_SECONDS = 10.0
"""How long upstream's refresh lock may stay taken (§ Concurrent GETs of one secret)."""

_OBJECT_ID = re.compile("[0-9A-Fa-f]{24}")
_LOCKED = "Max secret refresh retry"
_TOKEN_UNKNOWN = "Token not found"  # noqa: S105 - a message of upstream's
_IAM_DOWN = "Authorization failed"
_GOOD = {IMPERSONATE: (200, 201)}
"""A gateway of FlowMate's own stands before this one (§ Impersonation), so it is read liberally."""


class Remedy(enum.Enum):
    """What may be done about a failure before it becomes the caller's."""

    NONE = "none"
    RETRY = "retry"
    """Send again after a while; harmless."""
    AWAIT_LOCK = "await lock"
    """Upstream may be refreshing: send once more, after its lock has certainly ended."""
    REPLACE_TOKEN = "replace token"  # noqa: S105 - no password
    """The token may be dead: impersonate once and send again."""


class Failure(msgspec.Struct, frozen=True):
    """A request that did not bring what it was sent for.

    Attributes:
        error: what to raise when nothing helps.
        remedy: what may help.
        retry_after_seconds: how long upstream asked to wait, if it did.
        throttled: upstream asked everybody to wait.
        locked: upstream's refresh lock of this secret may stay taken for its whole time.
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
        """Whether upstream as a whole seems unwell, and not just this token, this secret or its provider."""
        of_its_provider = isinstance(self.error, UpstreamTimeoutError) and self.error.endpoint == GET
        return isinstance(self.error, UpstreamUnavailableError) and not of_its_provider


def is_good(request: Request, response: Response) -> bool:
    """Whether an answer is what was asked for, by its status."""
    return response.status in _GOOD.get(request.endpoint, (200,))


def examine(request: Request, response: Response, *, now: float) -> Failure | None:
    """What is wrong with an answer; ``None`` when it is a good one.

    Args:
        request: what was sent.
        response: the complete answer.
        now: seconds since the Unix epoch, for a Retry-After that is a date.
    """
    if is_good(request, response):
        return None
    status = response.status
    if status == 401:
        return _unauthorized(request, response)
    if status == 403:
        return Failure(_forbidden(request, response))
    if status == 404:
        return Failure(_not_found(request, response))
    if status in (429, 502, 503, 504):
        return _throttled_or_failing(request, response, now)
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
    """What an exchange without a complete answer means (§ Connections)."""
    detail = broken.detail
    if broken.failure == "timeout":
        error: FlowMateError = _silent(UpstreamTimeoutError, request, "no complete answer in time", detail)
    elif broken.failure == "tls":
        advice = (
            "Check the base URL's host name, the certificate authorities that are trusted (ca_file), and "
            "that the server speaks TLS 1.2 or newer"
        )
        return Failure(
            _silent(UpstreamUnavailableError, request, "no trusted TLS connection", detail, advice)
        )
    elif broken.failure == "too_large":
        advice = "Raise max_body_bytes (max_users_bytes for the user list) if the answer is genuine"
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


def retry_after_seconds(headers: dict[str, str], *, now: float) -> float | None:
    """``Retry-After`` in seconds, from seconds or an HTTP date (RFC 9110 § 10.2.3); ``None`` without one."""
    raw = headers.get("retry-after", "").strip()
    if raw.isascii() and raw.isdigit():
        return float(raw[:9])
    moment = parse_http_date(raw)
    return None if moment is None else max(0.0, moment - now)


def _unauthorized(request: Request, response: Response) -> Failure:
    """A 401 has five causes (§ Errors); only some are the token's."""
    said = upstream_message(response)
    if request.endpoint in (IMPERSONATE, USERS):
        if _IAM_DOWN in said:
            return Failure(_iam_down(request, response), Remedy.RETRY)
        advice = "Check the admin token, and that it belongs to this base URL"
        error = _error(AuthenticationError, request, response, "the admin token was rejected", advice)
        return Failure(error, Remedy.REPLACE_TOKEN)
    if _IAM_DOWN in said:
        return Failure(_iam_down(request, response), Remedy.RETRY)
    if "Missing authorization" in said:
        advice = "Check for a proxy that strips the Authorization header"
        return Failure(_error(ProtocolError, request, response, "the token did not arrive", advice))
    if _TOKEN_UNKNOWN in said:
        error = _error(AuthenticationError, request, response, "the user token was rejected")
    else:
        # An id that is none, or the database is down, or a gateway's own words.
        what = "401 without a usable reason; FlowMate's database may be down"
        advice = "Try again later"
        if request.secret_id is not None and not _OBJECT_ID.fullmatch(request.secret_id):
            advice = "Check the secret id, which looks unlike FlowMate's (24 hex digits), or try again later"
        error = _error(UpstreamUnavailableError, request, response, what, advice)
    return Failure(error, Remedy.REPLACE_TOKEN)


def _iam_down(request: Request, response: Response) -> FlowMateError:
    return _error(
        UpstreamUnavailableError, request, response, "FlowMate's own authorization service is failing"
    )


def _forbidden(request: Request, response: Response) -> FlowMateError:
    if request.endpoint == GET:
        what, advice = "this user may not read this secret", "Ask as a user who owns it"
    elif request.endpoint in (IMPERSONATE, USERS):
        what, advice = "the token may not do this", "Use the tenant's admin token"
    else:
        what, advice = "the user may not list secrets", ""
    return _error(PermissionDeniedError, request, response, what, advice)


def _not_found(request: Request, response: Response) -> FlowMateError:
    # A page of HTML is an unknown route (§ Errors): the base URL is wrong, and nothing is known of users.
    unknown_route = response.headers.get("content-type", "").lower().startswith("text/html")
    if request.endpoint == GET and not unknown_route:
        return SecretNotFoundError("no such secret", endpoint=request.endpoint, status=404)
    if request.endpoint == IMPERSONATE and not unknown_route:
        return UserNotFoundError(
            "no such user, or the user is disabled", endpoint=request.endpoint, status=404
        )
    return ProtocolError(
        "no such endpoint", advice="Check the base URL", endpoint=request.endpoint, status=404
    )


def _throttled_or_failing(request: Request, response: Response, now: float) -> Failure:
    wait = retry_after_seconds(response.headers, now=now)
    if response.status == 429:
        error: FlowMateError = _error(
            RateLimitedError, request, response, "FlowMate throttles", "Lower the rate"
        )
        return Failure(error, Remedy.RETRY, wait, throttled=True)
    error = _error(UpstreamUnavailableError, request, response, "FlowMate is failing")
    # A gateway that gave up on a refreshing GET does not stop the refresh behind it.
    gave_up = request.may_refresh and response.status in (502, 504)
    return Failure(error, Remedy.AWAIT_LOCK if gave_up else Remedy.RETRY, wait, locked=gave_up)


def _refresh_failed(request: Request, response: Response) -> Failure:
    """A 500 for one secret (§ Refresh failures): another refresh holds the lock, or the provider refused."""
    said = upstream_message(response)
    if _LOCKED in said:
        what = "another refresh of this secret has not ended"
        error = _error(RefreshFailedError, request, response, what, "Try again later")
        return Failure(error, Remedy.AWAIT_LOCK, locked=True)
    advice = "Try again later; if it stays, the user must connect the app again"
    what = "FlowMate could not refresh the credential with its provider"
    # With an error body from its provider upstream releases the lock and says nothing; otherwise it does not.
    return Failure(_error(RefreshFailedError, request, response, what, advice), locked=bool(said))


class _Said(msgspec.Struct):
    message: str = ""


_said_decoder = msgspec.json.Decoder(_Said)


def upstream_message(response: Response) -> str:
    """The ``message`` of an error body, made safe to show; empty when there is none (§ Errors)."""
    try:
        return safe_text(_said_decoder.decode(response.body).message)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""


def _error(
    kind: type[FlowMateError], request: Request, response: Response, what: str, advice: str = ""
) -> FlowMateError:
    said = upstream_message(response)
    text = f"{what}: {response.status} {said}" if said else f"{what}: {response.status}"
    return kind(
        text, advice=advice, endpoint=request.endpoint, secret_id=request.secret_id, status=response.status
    )


def _silent(
    kind: type[FlowMateError], request: Request, what: str, detail: str, advice: str = ""
) -> FlowMateError:
    text = f"{what}: {detail}" if detail else what
    return kind(text, advice=advice, endpoint=request.endpoint, secret_id=request.secret_id)
