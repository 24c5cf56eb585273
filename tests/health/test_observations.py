"""What an error says about a credential, by the recorded answers of the real services."""

import json
from pathlib import Path

import pytest

from flowmate_async import errors
from flowmate_async.contract.failures import examine
from flowmate_async.contract.protocol import get_secret
from flowmate_async.health.observations import Observed, observed_failure
from flowmate_async.transport.base import Response

GET = "GET /secrets/{id}"


def answered(status, body, content_type="application/json"):
    request = get_secret("a" * 24)
    response = Response(status, {"content-type": content_type}, body.encode())
    failure = examine(request, response, now=0.0)
    return observed_failure(failure.error)


@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (500, '{"message":"HTTP Error Response: 400 Bad Request"}', Observed.REFUSED),
        (500, '{"message":"HTTP Error Response: 401 Unauthorized"}', Observed.REFUSED),
        (500, '{"message":"HTTP Error Response: 403 Forbidden"}', Observed.FAILED),
        (500, '{"message":"HTTP Error Response: 429 Too Many Requests"}', Observed.FAILED),
        (500, '{"message":"HTTP Error Response: 500 Internal Server Error"}', Observed.FAILED),
        (500, '{"message":"HTTP Error Response: 503 Service Unavailable"}', Observed.FAILED),
        (500, '{"message":"request to https://provider.example/token failed"}', Observed.FAILED),
        (500, '{"message":""}', Observed.FAILED),
        (500, '{"message":"Max secret refresh retry iterations reached"}', None),
        (403, '{"message":""}', Observed.FORBIDDEN),
        (404, '{"message":""}', Observed.GONE),
        (401, '{"message":"Token not found in IAM"}', None),
        (401, '{"message":""}', None),
        (429, '{"message":""}', None),
        (502, '{"message":""}', None),
    ],
)
def test_an_answer_says_this_about_the_credential(status, body, what):
    assert answered(status, body) is what


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_page_of_an_ingress_says_nothing(status):
    assert answered(status, "<html>Access denied, HTTP Error Response: 400</html>", "text/html") is None


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (errors.MaskedSecretError("masked"), Observed.MASKED),
        (errors.CredentialRejectedError("rejected"), Observed.REJECTED),
        (errors.CredentialMissingError("blank"), Observed.EMPTY),
        (errors.UpstreamTimeoutError("slow", endpoint=GET), Observed.HUNG),
        (errors.UpstreamTimeoutError("slow", endpoint="GET /secrets/"), None),
        (errors.PermissionDeniedError("no", endpoint="GET /secrets/"), None),
        (errors.UserNotFoundError("who"), None),
        (errors.RateLimitedError("slower"), None),
        (errors.UpstreamUnavailableError("down"), None),
        (errors.CredentialExpiredError("over"), None),
        (errors.RefreshFailedError("nothing was sent", endpoint=GET), None),
        (errors.RefreshFailedError("its provider gave no token", endpoint=GET, status=200), Observed.FAILED),
    ],
)
def test_an_error_says_this_about_the_credential(error, what):
    assert observed_failure(error) is what


def test_no_recorded_answer_is_misread():
    recorded = json.loads((Path(__file__).parents[1] / "contract/recorded.json").read_text())
    refused = {"refresh fails upstream with 400, get #1"}
    for case in recorded:
        if case["status"] == 500 and "/secrets/" in case["request"]["path"]:
            what = answered(500, case["body"])
            assert (what is Observed.REFUSED) is (case["case"] in refused), case["case"]
