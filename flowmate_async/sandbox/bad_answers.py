"""Bad answers: what a fault sends instead of the true answer. Pure."""

import re
from email.utils import formatdate

import msgspec

from flowmate_async.sandbox import answers
from flowmate_async.sandbox.answers import Answer, error
from flowmate_async.sandbox.faults import (
    Error,
    ErrorAfter,
    Fault,
    Html,
    HugeJson,
    IngressPage,
    InvalidJson,
    InvalidUtf8,
    Throttle,
)
from flowmate_async.sandbox.preliminaries import token_or_refusal

_STRING_BEGINS = re.compile(rb'":"')
_NO_UTF8 = b"\xff\xfe"
_REASONS = {
    403: "Forbidden",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
}
_INGRESS_STATUSES = {"firewall": 403, "unavailable": 503, "bad_gateway": 502, "gateway_timeout": 504}


def throttle(fault: Throttle, now: float) -> Answer:
    """Return a 429 with the fault's ``Retry-After``."""
    seconds = fault.retry_after_seconds
    said = {
        "seconds": str(seconds),
        "date": formatdate(now + seconds, usegmt=True),
        "none": None,
    }
    return msgspec.structs.replace(answers.throttled(seconds), retry_after=said[fault.retry_after])


def failed(fault: Error | ErrorAfter) -> Answer:
    """Return a 500 as services send it, or a 502 or 503 as gateways do; FlowMate's was never observed."""
    seconds = fault.retry_after_seconds
    retry_after = None if seconds is None else str(seconds)
    if fault.status == 500:
        return msgspec.structs.replace(error(500), retry_after=retry_after)
    return msgspec.structs.replace(_gateway_page(fault.status), retry_after=retry_after)


def ingress_page(fault: IngressPage) -> Answer:
    """Return the page that the ingress or a firewall sends instead of the service's answer."""
    if fault.page == "default_backend":
        body = b"default backend - 404"
        return Answer(status=404, body=body, content_type="text/plain; charset=utf-8", cross_origin=False)
    return _gateway_page(_INGRESS_STATUSES[fault.page])


def _gateway_page(status: int) -> Answer:
    return _html(status, f"{status} {_REASONS[status]}")


def iam_down(authorization: str | None) -> Answer:
    """Return the 401 of a secret service that cannot look up the token, or got none (§ Errors)."""
    token = token_or_refusal(authorization)
    return token if isinstance(token, Answer) else error(401, answers.IAM_DOWN)


def spoiled(fault: Fault, answer: Answer) -> Answer:
    """Return the true answer as changed by a fault; other kinds of faults do not change it."""
    match fault:
        case Html():
            return _html(200, "Sign in to the network")
        case InvalidUtf8():
            return _with_body(answer, _spoilt(answer.body))
        case InvalidJson():
            return _with_body(answer, answer.body[: len(answer.body) // 2])
        case HugeJson(size_bytes=size):
            return _with_body(answer, _blown_up(answer.body, size))
        case _:
            return answer


def _with_body(answer: Answer, body: bytes) -> Answer:
    # Without an ETag, so that no later 304 refers to this body.
    return msgspec.structs.replace(answer, body=body, etag=None)


def _spoilt(body: bytes) -> bytes:
    found = _STRING_BEGINS.search(body)
    place = found.end() if found else len(body) // 2
    return body[:place] + _NO_UTF8 + body[place:]


def _blown_up(body: bytes, size: int) -> bytes:
    return body[:1] + b" " * max(0, size - len(body)) + body[1:]


def _html(status: int, title: str) -> Answer:
    head, body = f"<head><title>{title}</title></head>", f"<body><h1>{title}</h1></body>"
    page = f"<html>\r\n{head}\r\n{body}\r\n</html>\r\n".encode()
    return Answer(status=status, body=page, content_type="text/html", cross_origin=False)
