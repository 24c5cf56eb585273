"""Responses: an answer with the headers that the services send.

docs/contract/OBSERVED.md § Connections: ``Keep-Alive``, weak ``ETag``s, 304, no compression; § Second look,
"Requests": ``Vary`` and ``Access-Control-Allow-*``.
"""

from aiohttp import web

from flowmate_async.sandbox.answers import Answer

_KEEP_ALIVE = "timeout=5"


def deliver(request: web.BaseRequest, answer: Answer) -> web.Response:
    """Return the response; a 304 if the reader already has this body."""
    headers = {} if answer.closes else {"Keep-Alive": _KEEP_ALIVE}
    if answer.cross_origin:
        headers |= _cross_origin_headers(request)
    if answer.cache_control is not None:
        headers["Cache-Control"] = answer.cache_control
    if answer.retry_after is not None:
        headers["Retry-After"] = answer.retry_after
    if answer.etag is not None:
        headers["ETag"] = answer.etag
        if answer.status == 200 and _is_fresh(request, answer.etag):
            return web.Response(status=304, headers=headers)
    if answer.content_type is not None:
        headers["Content-Type"] = answer.content_type
    response = web.Response(status=answer.status, body=answer.body, headers=headers)
    if answer.closes:
        response.force_close()
    return response


def _cross_origin_headers(request: web.BaseRequest) -> dict[str, str]:
    headers = {"Vary": "Origin", "Access-Control-Allow-Credentials": "true"}
    if "Origin" in request.headers:
        headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
    if request.method == "OPTIONS":
        headers["Vary"] = "Origin, Access-Control-Request-Headers"
        headers["Access-Control-Allow-Methods"] = "GET,HEAD,PUT,PATCH,POST,DELETE"
    return headers


def _is_fresh(request: web.BaseRequest, etag: str) -> bool:
    known = request.headers.get("If-None-Match")
    if known is None or request.method != "GET":
        return False
    if "no-cache" in request.headers.get("Cache-Control", ""):
        return False
    opaque = etag.removeprefix("W/")
    return known.strip() == "*" or any(
        candidate.strip().removeprefix("W/") == opaque for candidate in known.split(",")
    )
