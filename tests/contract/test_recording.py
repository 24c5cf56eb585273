"""Every answer that the real services were recorded to give is read, or becomes the right error.

The walk derives what it expects from each recorded request, status and body; a case no rule here knows fails.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flowmate_async import (
    AuthenticationError,
    InvalidIdError,
    MaskedSecretError,
    PermissionDeniedError,
    ProtocolError,
    RefreshFailedError,
    Response,
    SecretNotFoundError,
    UpstreamUnavailableError,
)
from flowmate_async.contract import answers, protocol
from flowmate_async.contract.failures import Remedy, examine
from flowmate_async.contract.protocol import Request
from flowmate_async.values.secrets import KNOWN_TYPES

RECORDED = json.loads(
    (Path(__file__).parent.parent / "contract" / "recorded.json").read_text(encoding="utf-8")
)

ONE_SECRET = re.compile(r"/secrets/(?P<id>[^/?]+)")


def asked(case):
    """Our request for what was recorded, by its method and path."""
    method, path = case["request"]["method"], case["request"]["path"]
    if (method, path) == ("POST", "/impersonate"):
        return protocol.impersonate(case["request"]["json"]["username"])
    if method == "GET" and re.fullmatch(r"/users/(\?.*)?", path):
        return protocol.users()
    if method == "GET" and re.fullmatch(r"/secrets/(\?.*)?", path):
        return protocol.list_secrets(number=1, size=30)
    if found := ONE_SECRET.fullmatch(path):
        return protocol.get_secret(found["id"])
    if method == "GET" and path.startswith("/secrets/"):  # a path that we would never send
        return Request(endpoint=protocol.GET, method="GET", path=path)
    pytest.fail(f"no rule knows the recorded request {method} {path}")


def answered(case):
    headers = {name.lower(): value for name, value in case["headers"].items()}
    return Response(case["status"], headers, case["body"].encode())


def has_mask(value):
    """Return whether any field of a recorded value is masked; ciphertexts may hold single stars."""
    return any(isinstance(part, str) and (part == "***" or "*****" in part) for part in value.values())


GOOD = [case for case in RECORDED if case["status"] == 200]
BAD = [case for case in RECORDED if case["status"] != 200]


def name(case):
    return case["case"]


def test_the_recording_is_whole():
    assert len(RECORDED) == len(GOOD) + len(BAD) == 74


@pytest.mark.parametrize("case", GOOD, ids=name)
def test_a_good_answer_is_read(case):
    request, response, body = asked(case), answered(case), json.loads(case["body"])
    assert examine(request, response, now=0.0) is None
    match request.endpoint:
        case protocol.IMPERSONATE:
            token = answers.read_user_token(response)
            assert (token.token, token.id) == (body["token"], body["id"])
        case protocol.USERS:
            items = body if isinstance(body, list) else body["data"]
            assert [
                (user.username, user.id, user.status, user.tenant) for user in answers.read_users(response)
            ] == [(item["username"], item["_id"], item["status"], item.get("tenant")) for item in items]
        case protocol.LIST:
            page = answers.read_page(response)
            assert page.total == body["meta"]["total"]
            assert [(found.id, found.type, found.name, found.ever_failed) for found in page.data] == [
                (item["_id"], item["type"], item["name"], "currentError" in item) for item in body["data"]
            ]
        case protocol.GET:
            assert_secret_is_read(request, response, body["data"])
        case other:
            pytest.fail(f"no rule knows {other}")


def assert_secret_is_read(request, response, data):
    if has_mask(data["value"]):
        with pytest.raises(MaskedSecretError, match=r"readRaw") as masked:
            answers.read_secret(response, request)
        conclusive = {f: part for f, part in data["value"].items() if f != "refreshToken"}
        starred = [field for field, part in conclusive.items() if has_mask({field: part})]
        assert str(masked.value).startswith(f"upstream masked {', '.join(sorted(starred))}")
        return
    secret = answers.read_secret(response, request, keep_refresh_fields=True)
    assert type(secret) is KNOWN_TYPES[data["type"]]
    assert secret.id == data["_id"]
    encoded = json.loads(protocol.msgspec.json.encode(secret))["value"]
    assert encoded == {field: part for field, part in data["value"].items() if part is not None}
    dropped = json.loads(protocol.msgspec.json.encode(answers.read_secret(response, request)))["value"]
    assert dropped == {f: part for f, part in encoded.items() if f not in ("refreshToken", "inputFields")}
    expires = data["value"].get("expires")
    assert secret.expires_at == (expires and datetime.fromisoformat(expires).astimezone(UTC))


RULES = [
    # endpoint, status, what the body says, content type -> error, remedy (OBSERVED.md § Errors)
    (protocol.IMPERSONATE, 401, "", "json", AuthenticationError, Remedy.REPLACE_TOKEN),
    (protocol.IMPERSONATE, 403, "FORBIDDEN", "json", PermissionDeniedError, Remedy.NONE),
    (protocol.USERS, 403, "FORBIDDEN", "json", PermissionDeniedError, Remedy.NONE),
    (protocol.GET, 401, "Missing authorization header.", "json", ProtocolError, Remedy.NONE),
    (protocol.GET, 401, "Token invalid. Error: Error. Details: Token not found in IAM", "json",
     AuthenticationError, Remedy.REPLACE_TOKEN),
    (protocol.GET, 401, "", "json", UpstreamUnavailableError, Remedy.REPLACE_TOKEN),
    (protocol.GET, 403, "", "json", PermissionDeniedError, Remedy.NONE),
    (protocol.GET, 404, "", "json", SecretNotFoundError, Remedy.NONE),
    (protocol.GET, 404, None, "html", ProtocolError, Remedy.NONE),
    (protocol.GET, 500, "Max secret refresh retry iterations reached", "json",
     RefreshFailedError, Remedy.AWAIT_LOCK),
    (protocol.GET, 500, "HTTP Error Response: 400 Bad Request", "json", RefreshFailedError, Remedy.NONE),
    (protocol.GET, 500, "", "json", RefreshFailedError, Remedy.NONE),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=name)
def test_a_bad_answer_becomes_its_error(case):
    request, response = asked(case), answered(case)
    kind = "html" if "html" in response.headers["content-type"] else "json"
    said = json.loads(case["body"])["message"] if kind == "json" else None
    expected = [rule[4:] for rule in RULES if rule[:4] == (request.endpoint, response.status, said, kind)]
    assert len(expected) == 1, f"no single rule knows {case['case']!r}"
    if case["case"] == "get malformed id":  # the id tells it apart from a database that is down
        expected = [(InvalidIdError, Remedy.NONE)]
    failure = examine(request, response, now=0.0)
    assert (type(failure.error), failure.remedy) == expected[0]
    assert (failure.error.endpoint, failure.error.status) == (request.endpoint, response.status)
    assert not failure.throttled
