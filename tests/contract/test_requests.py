"""Requests: no value can escape its place in a path, and invalid values are not sent."""

import json
import unicodedata
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from flowmate_async import ConfigurationError, InvalidIdError
from flowmate_async.contract import protocol
from flowmate_async.values.settings import check_rate, checked_base_url

AWKWARD = st.text(st.sampled_from("aZ0-_./\\%?#&=:;@ \t\r\n\0é*~+") | st.characters(), max_size=20)


class TestSecretIds:
    @given(AWKWARD | st.from_regex(r"[0-9A-Za-z_-]{1,128}", fullmatch=True))
    def test_whatever_id_is_accepted_stays_in_its_path_segment(self, secret_id):
        try:
            request = protocol.get_secret(secret_id)
        except InvalidIdError:
            return
        sent = URL("https://api.example/v1" + request.path, encoded=True)
        assert sent.host == "api.example"
        assert sent.raw_parts == ("/", "v1", "secrets", secret_id)
        assert (sent.query_string, sent.fragment) == ("", "")
        assert unquote(request.path) == f"/secrets/{secret_id}"
        assert request.secret_id == secret_id

    @pytest.mark.parametrize(
        "secret_id",
        [
            "",
            ".",
            "..",
            "a/b",
            "../users",
            "a?x",
            "a#x",
            "a%2f",
            "a b",
            "a\n",
            "a\r\nX: y",
            "é",
            "x" * 129,
            None,
            5,
            b"a",
        ],
    )
    def test_anything_else_is_refused_before_it_is_sent(self, secret_id):
        with pytest.raises(InvalidIdError):
            protocol.get_secret(secret_id)

    @pytest.mark.parametrize("secret_id", ["6b04797823ada047ee5701f2", "not-an-id", "A_b-9", "x" * 128])
    def test_ids_of_any_make_are_accepted(self, secret_id):
        assert protocol.get_secret(secret_id).path == f"/secrets/{secret_id}"

    def test_a_get_may_refresh_unless_that_is_known_not_to_be(self):
        assert protocol.get_secret("a").may_refresh
        assert not protocol.get_secret("a", may_refresh=False).may_refresh


UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


class TestUsernames:
    @given(st.text(max_size=40))
    def test_whatever_username_is_accepted_arrives_as_it_is(self, username):
        try:
            request = protocol.impersonate(username)
        except InvalidIdError:
            assert (
                not username.strip()
                or username != username.strip()
                or any(unicodedata.category(letter) in UNSEEN for letter in username)
            )
            return
        assert json.loads(request.body) == {"username": username}
        assert (request.method, request.path) == ("POST", "/impersonate")

    @pytest.mark.parametrize(
        "username",
        ["", " ", "\t\n", "\u2003", " a", "a ", "a\n", "a\0b", "a\x7fb", "\ud800", "x" * 1025, None, 5, b"a"],
    )
    def test_what_may_make_a_user_by_mistake_is_refused(self, username):
        with pytest.raises(InvalidIdError):
            protocol.impersonate(username)

    @pytest.mark.parametrize("username", ["a", "alice@example.com", "Zoë 🗝", "x" * 1024, "a b", '"}{'])
    def test_names_of_any_make_are_accepted(self, username):
        assert json.loads(protocol.impersonate(username).body) == {"username": username}


class TestPages:
    @given(st.integers(), st.integers())
    def test_page_and_size_are_whole_numbers_from_one(self, number, size):
        valid = all(1 <= value < 2**31 for value in (number, size))
        try:
            request = protocol.list_secrets(number=number, size=size)
        except InvalidIdError:
            assert not valid
            return
        assert valid
        assert parse_qs(urlsplit(request.path).query) == {
            "page[size]": [str(size)],
            "page[number]": [str(number)],
        }

    @pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, -1])
    def test_nothing_else_is_a_page_number(self, value):
        with pytest.raises(InvalidIdError):
            protocol.list_secrets(number=value, size=30)
        with pytest.raises(InvalidIdError):
            protocol.list_secrets(number=1, size=value)


class TestBaseUrl:
    @pytest.mark.parametrize(
        ("given_url", "used"),
        [
            ("https://api.example", "https://api.example"),
            ("https://api.example/", "https://api.example"),
            ("HTTPS://API.Example:8443/v1/", "https://api.example:8443/v1"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
            ("http://127.9.9.9", "http://127.9.9.9"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ],
    )
    def test_https_or_this_very_machine(self, given_url, used):
        assert checked_base_url(given_url) == used

    @pytest.mark.parametrize(
        "given_url",
        [
            "http://api.example", "http://127.0.0.1.evil.example", "http://localhost.evil.example", "http://10.0.0.1",
            "ftp://api.example", "api.example", "", "https://", "https://user:5ecr3t@api.example",
            "https://api.example/?token=5ecr3t", "https://api.example/#5ecr3t", "https://api.example:99999",
            "https://[::1", "http://0.0.0.0",
        ],
    )  # fmt: skip
    def test_anything_else_is_refused_without_showing_it(self, given_url):
        with pytest.raises(ConfigurationError) as refused:
            checked_base_url(given_url)
        assert "5ecr3t" not in str(refused.value)


class TestRate:
    @pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
    def test_a_rate_is_above_zero_or_none(self, rate):
        with pytest.raises(ConfigurationError):
            check_rate(rate, 1, 1)

    @pytest.mark.parametrize(("burst", "concurrency"), [(0, 1), (1, 0), (-1, 1)])
    def test_burst_and_concurrency_are_at_least_one(self, burst, concurrency):
        with pytest.raises(ConfigurationError):
            check_rate(None, burst, concurrency)
