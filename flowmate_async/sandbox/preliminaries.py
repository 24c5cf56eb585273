"""Preliminaries: which token a request carries, and what is answered before the services look at it.

docs/contract/OBSERVED.md § Errors and § Second look, "Requests": broken bodies, foreign origins, OPTIONS. The
scheme of an ``Authorization`` header does not matter, and neither does a word after the token.
"""

import json

from aiohttp import web

from flowmate_async.sandbox import answers
from flowmate_async.sandbox.answers import Answer, error
from flowmate_async.sandbox.routes import GET_USER, IMPERSONATE, LIST_USERS, Route

MAX_HEADER_BYTES = 16 * 1024
_IAM_ROUTES = (IMPERSONATE, LIST_USERS, GET_USER)


def header_bytes(request: web.BaseRequest) -> int:
    """Return the size of a request line and its headers."""
    lines = sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)
    return len(f"{request.method} {request.raw_path} HTTP/1.1\r\n\r\n".encode()) + lines


async def preliminary_answer(request: web.BaseRequest, route: Route) -> Answer | None:
    """Return the answer to a request that stops here; None for every other."""
    if request.can_read_body and request.content_type == "application/json":
        problem = _problem_of(await request.read())
        if problem is not None:
            return answers.broken_body(problem)
    if request.method == "OPTIONS":
        return answers.preflight()
    origin = request.headers.get("Origin")
    if origin and route.template in _IAM_ROUTES and not _is_own(origin, request):
        return error(500, answers.FOREIGN_ORIGIN)
    return None


def _is_own(origin: str, request: web.BaseRequest) -> bool:
    return origin.partition("://")[2] == request.headers.get("Host")


def _problem_of(body: bytes) -> str | None:
    """Return what is wrong with a JSON body, in the upstream's words; only the first was recorded."""
    text = body.decode("utf-8", "replace")
    try:
        json.loads(text or "{}")
    except json.JSONDecodeError as problem:
        if problem.pos >= len(text.rstrip()):
            return "Unexpected end of JSON input"
        return f"Unexpected token {text[problem.pos]} in JSON at position {problem.pos}"
    return None


def token_or_refusal(header: str | None) -> str | Answer:
    """Return the token of an ``Authorization`` header, or the secret service's 401."""
    if not header:
        return error(401, answers.MISSING_AUTHORIZATION)
    return carried_token(header) or error(401, answers.INVALID_AUTHORIZATION)


def carried_token(header: str | None) -> str | None:
    """Return the token of an ``Authorization`` header; None without one."""
    words = (header or "").split()
    return words[1] if len(words) > 1 else None
