"""What a bad answer means, and what may be done about it: OBSERVED.md § Errors and § Connections."""

import email.utils

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowmate_async import (
    AuthenticationError,
    FlowMateError,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    Response,
    TransportError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserNotFoundError,
    protocol,
)
from flowmate_async.failures import Remedy, examine, examine_broken, retry_after_seconds

NOW = 1_800_000_000.0
REQUESTS = {
    "impersonate": protocol.impersonate("u"),
    "users": protocol.users(),
    "list": protocol.list_secrets(number=1, size=30),
    "refreshing get": protocol.get_secret("s"),
    "plain get": protocol.get_secret("s", may_refresh=False),
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
        ],
    )
    def test_with_a_user_token_it_is_ambiguous(self, request_, said, error, remedy):
        failure = examined(request_, 401, said)
        assert (type(failure.error), failure.remedy) == (error, remedy)


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
