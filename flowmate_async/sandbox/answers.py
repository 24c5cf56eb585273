"""Answers of the twin before they become bytes on a connection, and every error body.

docs/contract/OBSERVED.md § Errors. The bodies are the recorded ones; where the recording has none,
the comment says so.
"""

import base64
import hashlib
import html

import msgspec

__all__ = [
    "FORBIDDEN",
    "IAM_DOWN",
    "MISSING_AUTHORIZATION",
    "NOTHING_SAID",
    "PRIVATE",
    "TOKEN_NOT_FOUND",
    "TOO_MANY_LOCK_WAITS",
    "Answer",
    "error",
    "json_answer",
    "json_body",
    "not_found_text",
    "throttled",
    "unknown_route",
    "weak_etag",
]

_JSON = "application/json; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"
_encoder = msgspec.json.Encoder()

NOTHING_SAID = ""
FORBIDDEN = "FORBIDDEN"
MISSING_AUTHORIZATION = "Missing authorization header."
TOKEN_NOT_FOUND = "Token invalid. Error: Error. Details: Token not found in IAM"  # noqa: S105 - a message
# "… Details: Authorization failed" was observed; the words before it are those of the other 401.
IAM_DOWN = "Token invalid. Error: Error. Details: Authorization failed"
TOO_MANY_LOCK_WAITS = "Max secret refresh retry iterations reached"

PRIVATE = "no-store, no-cache, must-revalidate, private"


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One answer: `etag` is None where the service sends none."""

    status: int
    body: bytes
    content_type: str = _JSON
    etag: str | None = None
    cache_control: str | None = None
    retry_after: str | None = None


def json_body(value: object) -> bytes:
    """Encode a value as the service does: compact, unicode left as it is."""
    return _encoder.encode(value)


def weak_etag(body: bytes) -> str:
    """Return the weak ETag of a body: its length and the start of its hash (§ Connections)."""
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    return f'W/"{len(body):x}-{base64.b64encode(digest).decode()[:27]}"'


def json_answer(body: bytes, *, status: int = 200, cache_control: str | None = None) -> Answer:
    """Answer with JSON and its ETag."""
    return Answer(status=status, body=body, etag=weak_etag(body), cache_control=cache_control)


def error(status: int, message: str = NOTHING_SAID) -> Answer:
    """Answer with a JSON error."""
    return json_answer(json_body({"message": message}), status=status)


def throttled(retry_after_seconds: int) -> Answer:
    """Answer for a request above the limit. The gateway's own body was never observed."""
    body = json_body({"message": "Too Many Requests"})
    return Answer(status=429, body=body, retry_after=str(retry_after_seconds))


def not_found_text() -> Answer:
    """Answer for an unknown user id (§ Users of the tenant)."""
    return Answer(status=404, body=b"Not Found", content_type=_TEXT)


def unknown_route(method: str, path: str) -> Answer:
    """Answer for a path that no route knows, below the prefix that the service really has."""
    line = html.escape(f"Cannot {method} /api/v1{path}")
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n'
        f"</head>\n<body>\n<pre>{line}</pre>\n</body>\n</html>\n"
    )
    return Answer(status=404, body=page.encode(), content_type=_HTML)
