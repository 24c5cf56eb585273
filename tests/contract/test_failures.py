"""What a bad answer means, and what may be done about it: OBSERVED.md § Errors and § Connections."""

import email.utils

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowmate_async import (
    AuthenticationError,
    FlowMateError,
    InvalidIdError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    Response,
    SecretNotFoundError,
    TransportError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserNotFoundError,
)
from flowmate_async.contract import protocol
from flowmate_async.contract.failures import Remedy, examine, examine_broken, retry_after_seconds

NOW = 1_800_000_000.0
SECRET = "66761aedcf268b4d68470e27"
REQUESTS = {
    "impersonate": protocol.impersonate("u"),
    "users": protocol.users(),
    "list": protocol.list_secrets(number=1, size=30),
    "refreshing get": protocol.get_secret(SECRET),
    "plain get": protocol.get_secret(SECRET, may_refresh=False),
}


def response(status, message=None, *, body=None, **headers):
    if body is None:
        body = b"" if message is None else msgspec.json.encode({"message": message})
    lowered = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"content-type": "application/json"} | lowered, body)


def examined(request, *args, **kwargs):
    return examine(REQUESTS[request], response(*args, **kwargs), now=NOW)


@pytest.mark.parametrize("request_", REQUESTS)
class TestEveryEndpoint:
    @given(
        status=st.integers(100, 599),
        body=st.binary(max_size=60) | st.text().map(lambda m: msgspec.json.encode({"message": m})),
    )
    def test_every_answer_but_a_good_one_is_a_failure_with_endpoint_and_status(self, request_, status, body):
        failure = examined(request_, status, body=body)
        if status == 200 or (status == 201 and request_ == "impersonate"):
            assert failure is None
            return
        assert isinstance(failure.error, FlowMateError)
        assert failure.error.endpoint == REQUESTS[request_].endpoint
        assert failure.error.status == status
        assert failure.throttled == (status == 429)

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
    def test_a_redirect_is_never_followed_and_never_retried(self, request_, status):
        failure = examined(request_, status, location="https://elsewhere.example/5ecr3t")
        assert isinstance(failure.error, ProtocolError)
        assert failure.remedy is Remedy.NONE
        assert "redirect" in str(failure.error)
        assert "5ecr3t" not in str(failure.error)

    def test_iam_down_is_no_fault_of_the_token(self, request_):
        """A 401 to any token whatsoever: sending the same token again later is right, replacing it is not."""
        failure = examined(request_, 401, "Token invalid. Error: Error. Details: Authorization failed")
        assert isinstance(failure.error, UpstreamUnavailableError)
        assert failure.remedy is Remedy.RETRY

    def test_too_many_requests_throttle_everybody(self, request_):
        failure = examined(request_, 429, "slow down", retry_after="7")
        assert isinstance(failure.error, RateLimitedError)
        assert (failure.remedy, failure.throttled, failure.retry_after_seconds) == (Remedy.RETRY, True, 7.0)

    def test_a_page_of_html_is_told_as_such(self, request_):
        failure = examined(
            request_, 404, body=b"<html>Cannot GET</html>", content_type="text/html; charset=utf-8"
        )
        assert isinstance(failure.error, ProtocolError)
        assert "base URL" in str(failure.error)


class TestUnauthorized:
    @pytest.mark.parametrize("request_", ["impersonate", "users"])
    def test_with_the_admin_token_it_is_the_admin_tokens(self, request_):
        failure = examined(request_, 401, "")
        assert isinstance(failure.error, AuthenticationError)
        assert failure.remedy is Remedy.REPLACE_TOKEN
        assert "admin token" in str(failure.error)

    @pytest.mark.parametrize("request_", ["list", "refreshing get"])
    @pytest.mark.parametrize(
        ("said", "error", "remedy"),
        [
            ("Token invalid. Details: Token not found in IAM", AuthenticationError, Remedy.REPLACE_TOKEN),
            ("", UpstreamUnavailableError, Remedy.REPLACE_TOKEN),
            (None, UpstreamUnavailableError, Remedy.REPLACE_TOKEN),
            ("Missing authorization header.", ProtocolError, Remedy.NONE),
            ("Invalid authorization header", ProtocolError, Remedy.NONE),
        ],
    )
    def test_with_a_user_token_it_is_ambiguous(self, request_, said, error, remedy):
        failure = examined(request_, 401, said)
        assert (type(failure.error), failure.remedy) == (error, remedy)

    @pytest.mark.parametrize(
        "secret_id", ["old-user-07", "a" * 23, "a" * 25, "g" * 24, "a" * 11, "a" * 13, "x"]
    )
    @pytest.mark.parametrize("may_refresh", [True, False])
    def test_a_malformed_id_says_nothing_about_the_token_or_the_server(self, secret_id, may_refresh):
        request = protocol.get_secret(secret_id, may_refresh=may_refresh)
        failure = examine(request, response(401, ""), now=NOW)
        assert (type(failure.error), failure.remedy, failure.sick) == (InvalidIdError, Remedy.NONE, False)
        assert (failure.error.secret_id, failure.error.status) == (secret_id, 401)

    @pytest.mark.parametrize("secret_id", ["twelve-chars", SECRET, SECRET.upper(), "A" * 24])
    def test_a_well_formed_id_leaves_the_401_ambiguous(self, secret_id):
        """OBSERVED.md § Second look: 12 characters are well-formed, too."""
        failure = examine(protocol.get_secret(secret_id), response(401, ""), now=NOW)
        assert (type(failure.error), failure.remedy) == (UpstreamUnavailableError, Remedy.REPLACE_TOKEN)

    def test_a_dead_token_is_replaced_whatever_the_id(self):
        failure = examine(protocol.get_secret("x"), response(401, "Token not found in IAM"), now=NOW)
        assert failure.remedy is Remedy.REPLACE_TOKEN


PAGES = {
    "ingress": ("text/plain; charset=utf-8", b"default backend - 404"),
    "firewall": ("text/html; charset=UTF-8", b"<html><title>Just a moment...</title></html>"),
    "nginx": ("text/html", b"<html><center><h1>404 Not Found</h1></center></html>"),
    "bare": ("", b""),
    "json page": ("application/json", b'{"error":"forbidden"}'),
    "json list": ("application/json", b'[{"message":"x"}]'),
    "json text": ("application/json", b'"message"'),
    "json in html": ("text/html", b'{"message":"x"}'),
    "cut": ("application/json", b'{"message":"x'),
    "binary": ("application/octet-stream", b"\xff\xfe\x00"),
}
"""Answers that cannot come from the service: it answers every error with JSON that has a ``message``."""


class TestWhoseAnswerItIs:
    @pytest.mark.parametrize("request_", REQUESTS)
    @pytest.mark.parametrize("page", PAGES)
    def test_a_page_is_upstream_trouble_whatever_its_status(self, request_, page):
        """Never a verdict about a user or a secret: it is tried again and counts for the breaker."""
        content_type, body = PAGES[page]
        for status in (400, 401, 403, 404, 405, 409, 410, 413, 418, 451, 500, 501, 520, 599):
            failure = examined(request_, status, body=body, content_type=content_type)
            assert (type(failure.error), failure.sick) == (UpstreamUnavailableError, True)
            if page == "bare" and status == 401 and request_ not in ("impersonate", "users"):
                assert failure.remedy is Remedy.REPLACE_TOKEN
                continue
            waits = request_ == "refreshing get" and status >= 500
            assert failure.remedy is (Remedy.AWAIT_LOCK if waits else Remedy.RETRY)
            assert "base URL" in failure.error.advice

    @pytest.mark.parametrize("content_type", ["application/json", "APPLICATION/JSON; charset=utf-8", ""])
    @pytest.mark.parametrize("message", ["", "FORBIDDEN", None, 5])
    def test_json_with_a_message_is_the_services_own(self, content_type, message):
        body = msgspec.json.encode({"message": message})
        gone = examined("impersonate", 404, body=body, content_type=content_type)
        denied = examined("plain get", 403, body=body, content_type=content_type)
        missing = examined("plain get", 404, body=body, content_type=content_type)
        kinds = [type(failure.error) for failure in (gone, denied, missing)]
        assert kinds == [UserNotFoundError, PermissionDeniedError, SecretNotFoundError]

    @pytest.mark.parametrize("text", ["5ecr3t", "text/5ecr3t", "text/html\x1b[2J", "text/" + "a" * 41])
    def test_an_odd_media_type_is_not_shown(self, text):
        failure = examined("list", 403, body=b"<html>", content_type=text)
        assert text not in str(failure.error)
        assert "of no known type" in str(failure.error)


class TestFailingServer:
    @pytest.mark.parametrize("status", [502, 503, 504])
    @pytest.mark.parametrize("request_", ["impersonate", "users", "list", "plain get"])
    def test_it_is_asked_again(self, request_, status):
        failure = examined(request_, status, retry_after="3")
        assert isinstance(failure.error, UpstreamUnavailableError)
        assert (failure.remedy, failure.retry_after_seconds) == (Remedy.RETRY, 3.0)

    @pytest.mark.parametrize(
        ("status", "remedy"), [(502, Remedy.AWAIT_LOCK), (504, Remedy.AWAIT_LOCK), (503, Remedy.RETRY)]
    )
    def test_a_gateway_that_gave_up_may_have_a_refresh_behind_it(self, status, remedy):
        assert examined("refreshing get", status).remedy is remedy

    @pytest.mark.parametrize("request_", ["impersonate", "users", "list"])
    def test_a_500_is_not_asked_again(self, request_):
        failure = examined(request_, 500, "")
        assert (type(failure.error), failure.remedy) == (UpstreamUnavailableError, Remedy.NONE)

    @pytest.mark.parametrize(
        ("said", "locked"),
        [
            ("HTTP Error Response: 400 Bad Request", True),
            ("Max secret refresh retry iterations reached", True),
            ("", False),
        ],
    )
    def test_a_failed_refresh_may_leave_the_lock_taken(self, said, locked):
        """Only after an error body of its provider, when upstream says nothing, is the lock released."""
        failure = examine(protocol.get_secret("a1"), response(500, said), now=0.0)
        assert failure is not None
        assert failure.locked is locked

    def test_a_500_for_a_secret_is_the_providers_or_the_locks(self):
        refused = examined("refreshing get", 500, "HTTP Error Response: 400 Bad Request")
        assert (type(refused.error), refused.remedy) == (RefreshFailedError, Remedy.NONE)
        locked = examined("refreshing get", 500, "Max secret refresh retry iterations reached")
        assert (type(locked.error), locked.remedy) == (RefreshFailedError, Remedy.AWAIT_LOCK)

    def test_what_it_says_is_shown_without_paths_and_tokens(self):
        said = f"invalid body at https://provider.example/token?code={'5ecr3t' * 6} reason {'5ecr3t' * 6}"
        shown = str(examined("refreshing get", 500, said).error)
        assert "provider.example" in shown
        assert "5ecr3t5ecr3t" not in shown


class TestNotFound:
    def test_nobody_to_impersonate_is_a_missing_user(self):
        failure = examined("impersonate", 404, "FORBIDDEN")
        assert (type(failure.error), failure.remedy) == (UserNotFoundError, Remedy.NONE)


class TestRetryAfter:
    @pytest.mark.parametrize("request_", REQUESTS)
    @pytest.mark.parametrize("body", [b'{"message":""}', b"<html>"])
    def test_every_bad_answer_may_ask_for_a_pause(self, request_, body):
        for status in (400, 401, 403, 404, 409, 429, 500, 501, 502, 503, 504, 520):
            failure = examined(request_, status, body=body, retry_after="7")
            assert failure.retry_after_seconds == 7.0
            assert examined(request_, status, body=body).retry_after_seconds is None

    def test_a_redirect_may_not(self):
        assert examined("list", 302, "", retry_after="7").retry_after_seconds is None

    @given(st.integers(0, 10**8))
    def test_seconds(self, seconds):
        assert retry_after_seconds({"retry-after": str(seconds)}, now=NOW) == seconds

    @given(st.integers(-(10**6), 10**6))
    def test_a_date_and_never_a_negative_wait(self, ahead):
        date = email.utils.formatdate(NOW + ahead, usegmt=True)
        assert retry_after_seconds({"retry-after": date}, now=NOW) == max(0, ahead)

    @given(
        st.text()
        | st.from_regex(
            r"(Mon, )?[0-9]{1,3} (Nov|Xyz) [0-9]{2,6} [0-9:]{3,9} (GMT|[+-][0-9]{4,6})", fullmatch=True
        )
    )
    @example("Mon, 01 Jan 0001 00:00:00 +1400")
    @example("Fri, 31 Dec 9999 23:59:59 -1200")
    @example("-5")
    @example("1" * 400)
    @example("٣")
    def test_garbage_is_no_wait_or_a_finite_one(self, raw):
        seconds = retry_after_seconds({"retry-after": raw}, now=NOW)
        assert seconds is None or 0 <= seconds < float("inf")

    def test_absence_is_no_wait(self):
        assert retry_after_seconds({}, now=NOW) is None


class TestBrokenExchanges:
    @pytest.mark.parametrize("request_", REQUESTS)
    @pytest.mark.parametrize(
        ("failure", "error", "if_harmless"),
        [
            ("connect", UpstreamUnavailableError, Remedy.RETRY),
            ("stale", UpstreamUnavailableError, Remedy.RETRY),
            ("interrupted", UpstreamUnavailableError, Remedy.RETRY),
            ("timeout", UpstreamTimeoutError, Remedy.RETRY),
            ("malformed", ProtocolError, Remedy.RETRY),
            ("tls", UpstreamUnavailableError, Remedy.NONE),
            ("too_large", ProtocolError, Remedy.NONE),
        ],
    )
    def test_each_kind(self, request_, failure, error, if_harmless):
        """Once a refreshing GET may have arrived, it waits for the lock; before, it is harmless."""
        found = examine_broken(REQUESTS[request_], TransportError(failure, "why"))
        sent_maybe = failure in ("stale", "interrupted", "timeout", "malformed")
        waits = request_ == "refreshing get" and sent_maybe
        assert (type(found.error), found.remedy) == (error, Remedy.AWAIT_LOCK if waits else if_harmless)
        assert "why" in str(found.error)
        assert not found.throttled
