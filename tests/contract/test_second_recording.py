"""The client reads every answer of the second recording, or makes the right error of it.

Some of the recorded requests are ones that the client never sends. Their answers are still read as answers to
the client's own request of that endpoint, because a proxy or a server may mix answers up.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowmate_async import (
    AuthenticationError,
    InvalidIdError,
    MaskedSecretError,
    ProtocolError,
    RefreshFailedError,
    Response,
    SecretNotFoundError,
    UpstreamUnavailableError,
)
from flowmate_async.contract import answers, protocol
from flowmate_async.contract.failures import Remedy, examine
from flowmate_async.contract.protocol import Request

RECORDED = json.loads(
    (Path(__file__).parent.parent / "contract" / "recorded-2.json").read_text(encoding="utf-8")
)

GOOD = [case for case in RECORDED if case["status"] == 200]
BAD = [case for case in RECORDED if case["status"] != 200]
ONE_SECRET = re.compile(r"/secrets/(?P<id>[^/?]+)")
HEX_ID = re.compile(r"[0-9a-fA-F]{24}")


def asked(case):
    """Return the client's request for what was recorded, by its path."""
    path = case["request"]["path"]
    if path == "/impersonate":
        return protocol.impersonate("user6@example.com")
    if path.startswith("/users"):
        return protocol.users()
    if found := ONE_SECRET.fullmatch(path):
        if HEX_ID.fullmatch(found["id"]):
            return protocol.get_secret(found["id"].lower())  # answers have ids in lower case
        return Request(endpoint=protocol.GET, method="GET", path=path, secret_id=found["id"])
    return protocol.list_secrets(number=1, size=30)


def answered(case):
    return Response(case["status"], dict(case["headers"]), case["body"].encode())


def name(case):
    return case["case"]


def test_the_recording_is_whole():
    assert len(RECORDED) == len(GOOD) + len(BAD) == 66


@pytest.mark.parametrize("case", GOOD, ids=name)
def test_a_good_answer_is_read(case):
    request, response = asked(case), answered(case)
    assert examine(request, response, now=0.0) is None
    if case.get("cut") or case["request"]["method"] == "HEAD" or case["case"] == "users /me":
        with pytest.raises(ProtocolError):
            read(request, response)
        return
    body = json.loads(case["body"])
    match request.endpoint:
        case protocol.IMPERSONATE:
            token = read(request, response)
            assert (token.token, token.id) == (body["token"], body["id"])
        case protocol.USERS:
            assert [(user.username, user.id) for user in read(request, response)] == [
                (item["username"], item["_id"]) for item in body
            ]
        case protocol.LIST:
            page = read(request, response)
            assert page.total == body["meta"]["total"]
            assert [(found.id, found.name) for found in page.data] == [
                (item["_id"], item["name"]) for item in body["data"]
            ]
        case protocol.GET:
            assert_secret_is_read(request, response, body["data"])


def read(request, response):
    match request.endpoint:
        case protocol.IMPERSONATE:
            return answers.read_user_token(response)
        case protocol.USERS:
            return answers.read_users(response)
        case protocol.LIST:
            return answers.read_page(response)
    return answers.read_secret(response, request)


def assert_secret_is_read(request, response, data):
    value = data["value"]
    if "*****" in value.get("accessToken", "") or value.get("inputFields") == "***":
        with pytest.raises(MaskedSecretError, match="readRaw"):
            read(request, response)
    elif "accessToken" not in value and data["type"] == "SESSION_AUTH":
        with pytest.raises(RefreshFailedError):
            read(request, response)
    else:
        secret = read(request, response)
        assert (secret.id, secret.name) == (data["_id"], data["name"])
        encoded = json.loads(protocol.msgspec.json.encode(secret))["value"]
        # A refresh token in plain text was rotated by this GET; a ciphertext is never kept.
        kept = {f: v for f, v in value.items() if v is not None and f not in ("refreshToken", "inputFields")}
        assert encoded == kept
        assert secret.expires_at == end_of(data)


def end_of(data):
    """Return when a secret ends; ``None`` if that is unknown, as for a token that ends when it was made."""
    expires = data["value"].get("expires")
    if not expires:
        return None
    end, updated = (datetime.fromisoformat(text).astimezone(UTC) for text in (expires, data["updatedAt"]))
    return None if abs(end - updated) < timedelta(seconds=1) else end


LOCKED = "Max secret refresh retry iterations reached"
RULES = [
    # endpoint, status, what the body says -> error, remedy (OBSERVED.md § Errors and § Second look)
    (protocol.GET, 500, "", RefreshFailedError, Remedy.NONE),
    (protocol.GET, 500, LOCKED, RefreshFailedError, Remedy.AWAIT_LOCK),
    (protocol.GET, 404, "", SecretNotFoundError, Remedy.NONE),
    (protocol.GET, 400, "Failed to decode param '%zz'", ProtocolError, Remedy.NONE),
    (protocol.GET, 400, "Unexpected end of JSON input", ProtocolError, Remedy.NONE),
    (protocol.GET, 401, "Invalid authorization header", ProtocolError, Remedy.NONE),
    (protocol.GET, 401, "Missing authorization header.", ProtocolError, Remedy.NONE),
    (protocol.GET, 431, None, UpstreamUnavailableError, Remedy.RETRY),
    (protocol.USERS, 401, "VALIDATION_ERROR", AuthenticationError, Remedy.REPLACE_TOKEN),
    (protocol.IMPERSONATE, 401, "VALIDATION_ERROR", AuthenticationError, Remedy.REPLACE_TOKEN),
    (protocol.USERS, 500, "The filter is invalid.", UpstreamUnavailableError, Remedy.NONE),
    (protocol.USERS, 500, "UNKNOWN_ERROR", UpstreamUnavailableError, Remedy.NONE),
    (protocol.LIST, 500, "BSON field 'skip' value must be >= 0, actual value '-60'",
     UpstreamUnavailableError, Remedy.NONE),
    (protocol.LIST, 204, None, ProtocolError, Remedy.NONE),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=name)
def test_a_bad_answer_becomes_its_error(case):
    request, response = asked(case), answered(case)
    said = json.loads(case["body"])["message"] if case["body"] else None
    if case["case"] == "id of 23 characters":
        expected = [(InvalidIdError, Remedy.NONE)]  # the database being down looks the same for good ids
    else:
        expected = [rule[3:] for rule in RULES if rule[:3] == (request.endpoint, response.status, said)]
    assert len(expected) == 1, f"no single rule knows {case['case']!r}"
    failure = examine(request, response, now=0.0)
    assert (type(failure.error), failure.remedy) == expected[0]
    assert (failure.error.endpoint, failure.error.status) == (request.endpoint, response.status)
    assert not failure.throttled
