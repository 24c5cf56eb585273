"""Answers of the sandbox before they become bytes on a connection, and every error body.

docs/contract/OBSERVED.md § Errors. The bodies are the recorded ones; where the recording has none,
the comment says so.
"""

import base64
import hashlib
import html

import msgspec

_JSON = "application/json; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_encoder = msgspec.json.Encoder(decimal_format="number")

NOTHING_SAID = ""
FORBIDDEN = "FORBIDDEN"
MISSING_AUTHORIZATION = "Missing authorization header."
INVALID_AUTHORIZATION = "Invalid authorization header"
UNKNOWN_TOKEN = "VALIDATION_ERROR"  # noqa: S105 - IAM's message for a token that it does not know
INVALID_FILTER = "The filter is invalid."
UNKNOWN_ERROR = "UNKNOWN_ERROR"
FOREIGN_ORIGIN = "Not allowed by CORS"
TOKEN_NOT_FOUND = "Token invalid. Error: Error. Details: Token not found in IAM"  # noqa: S105 - a message
# "… Details: Authorization failed" was observed; the words before it are those of the other 401.
IAM_DOWN = "Token invalid. Error: Error. Details: Authorization failed"
TOO_MANY_LOCK_WAITS = "Max secret refresh retry iterations reached"

PRIVATE = "no-store, no-cache, must-revalidate, private"


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One answer.

    Attributes:
        status: its status.
        body: its body.
        content_type: None for an answer without a body.
        etag: None where the service sends none.
        cache_control: as for ``etag``.
        retry_after: as for ``etag``.
        cross_origin: whether it has ``Vary`` and ``Access-Control-Allow-*``, like nearly every answer of the
            services and no answer of the ingress (§ Second look, "Requests").
        closes: whether the connection closes after it.
    """

    status: int
    body: bytes = b""
    content_type: str | None = _JSON
    etag: str | None = None
    cache_control: str | None = None
    retry_after: str | None = None
    cross_origin: bool = True
    closes: bool = False


def json_body(value: object) -> bytes:
    """Encode a value as the service does: compact, without escaping Unicode."""
    return _encoder.encode(value)


def weak_etag(body: bytes) -> str:
    """Return the weak ETag of a body: its length and the start of its hash (§ Connections)."""
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    return f'W/"{len(body):x}-{base64.b64encode(digest).decode()[:27]}"'


def json_answer(body: bytes, *, status: int = 200, cache_control: str | None = None) -> Answer:
    """Answer with JSON and its ETag."""
    return Answer(status=status, body=body, etag=weak_etag(body), cache_control=cache_control)


def error(status: int, message: str = NOTHING_SAID, *, cache_control: str | None = None) -> Answer:
    """Answer with a JSON error."""
    return json_answer(json_body({"message": message}), status=status, cache_control=cache_control)


def broken_body(message: str) -> Answer:
    """Answer to a body that is not JSON: refused before any other check."""
    return msgspec.structs.replace(error(400, message), cross_origin=False)


def broken_escape(parameter: str) -> Answer:
    """Answer to a path whose escapes cannot be decoded."""
    return error(400, f"Failed to decode param '{parameter}'")


def preflight() -> Answer:
    """Answer to OPTIONS, whatever the path."""
    return Answer(status=204, content_type=None)


def too_large_headers() -> Answer:
    """Answer to more than 16 KB of headers and URL, by the HTTP server itself."""
    return Answer(status=431, content_type=None, cross_origin=False, closes=True)


def throttled(retry_after_seconds: int) -> Answer:
    """Answer for a request above the limit. The gateway's own body was never observed."""
    body = json_body({"message": "Too Many Requests"})
    return Answer(status=429, body=body, retry_after=str(retry_after_seconds), cross_origin=False)


def not_found_text() -> Answer:
    """Answer for an unknown user id (§ Users of the tenant)."""
    return Answer(status=404, body=b"Not Found", content_type=_TEXT)


def unknown_route(method: str, path: str) -> Answer:
    """Answer for a path without a route, below the service's real prefix."""
    line = html.escape(f"Cannot {method} /api/v1{path}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n'
        f"</head>\n<body>\n<pre>{line}</pre>\n</body>\n</html>\n"
    )
    return Answer(status=404, body=page.encode(), content_type=_HTML)
