"""From a credential to the header that presents it: no guess, no injection."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import (
    ApiKeySecret,
    ApiKeyValue,
    ConfigurationError,
    MixedSecret,
    MixedValue,
    OAuth1Secret,
    OAuth1TwoLeggedSecret,
    OAuth1Value,
    OAuth2Secret,
    OAuth2Value,
    SessionSecret,
    SessionValue,
    SimpleSecret,
    SimpleValue,
    UnknownSecret,
)

TCHAR = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FRAMING = [
    "Host", "host", "HOST", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "TE", "Trailer",
    "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Expect", "Content-Encoding", "Content-Type",
    "Cookie",
]  # fmt: skip


def api_key(header, key="k-1"):
    return ApiKeySecret(id="i", value=ApiKeyValue(key=key, header_name=header))


class TestEachType:
    @given(st.text().filter(lambda name: ":" not in name), st.text(st.characters(exclude_categories=["Cs"])))
    def test_simple_is_basic(self, username, passphrase):
        try:
            username.encode()
        except UnicodeEncodeError:
            return
        secret = SimpleSecret(id="i", value=SimpleValue(username=username, passphrase=passphrase))
        (name, value), *others = secret.auth_headers().items()
        assert (name, others) == ("Authorization", [])
        kind, encoded = value.split(" ")
        assert kind == "Basic"
        assert base64.b64decode(encoded).decode().split(":", 1) == [username, passphrase]

    def test_a_username_with_a_colon_has_no_basic_form(self):
        with pytest.raises(ConfigurationError, match="colon"):
            SimpleSecret(id="i", value=SimpleValue(username="a:b", passphrase="p")).auth_headers()

    @pytest.mark.parametrize(
        "secret",
        [
            OAuth2Secret(id="i", value=OAuth2Value(access_token="t-1")),
            SessionSecret(id="i", value=SessionValue(access_token="t-1")),
        ],
    )
    def test_oauth_and_sessions_are_bearers(self, secret):
        assert secret.auth_headers() == {"Authorization": "Bearer t-1"}

    def test_an_api_key_goes_into_the_header_it_names(self):
        assert api_key("X-Api-Key").auth_headers() == {"X-Api-Key": "k-1"}
        assert api_key("X-Api-Key").auth_headers(default_header="Other") == {"X-Api-Key": "k-1"}

    @pytest.mark.parametrize("header", ["", None])
    def test_an_api_key_without_a_header_needs_to_be_told_one(self, header):
        assert api_key(header).auth_headers(default_header="X-Told") == {"X-Told": "k-1"}
        with pytest.raises(ConfigurationError, match="default_header"):
            api_key(header).auth_headers()

    @pytest.mark.parametrize(
        "secret",
        [
            MixedSecret(id="i", value=MixedValue(payload="p")),
            OAuth1Secret(id="i", value=OAuth1Value()),
            OAuth1TwoLeggedSecret(id="i", value=OAuth1Value()),
            UnknownSecret(id="i", kind="NEW", value={}),
        ],
        ids=lambda secret: secret.kind,
    )
    def test_other_types_say_that_they_have_no_header_form(self, secret):
        with pytest.raises(ConfigurationError, match=f"{secret.kind} has no header form"):
            secret.auth_headers()

    @pytest.mark.parametrize(
        "secret",
        [
            api_key(None),
            api_key("Host"),
            api_key("X-Api-Key", "never\nshown"),
            SimpleSecret(id="i", value=SimpleValue(username="a:b", passphrase="never")),
            OAuth2Secret(id="i", value=OAuth2Value(access_token="never\nshown")),
            MixedSecret(id="i", value=MixedValue(payload="never")),
        ],
    )
    def test_an_error_names_the_secret_and_what_to_do(self, secret):
        with pytest.raises(ConfigurationError) as caught:
            secret.auth_headers()
        assert caught.value.secret_id == "i"
        assert caught.value.advice
        assert "never" not in str(caught.value)


class TestInjection:
    @pytest.mark.parametrize("header", FRAMING)
    def test_a_header_that_frames_the_message_is_refused(self, header):
        with pytest.raises(ConfigurationError):
            api_key(header).auth_headers()
        with pytest.raises(ConfigurationError):
            api_key("").auth_headers(default_header=header)

    @given(st.text(max_size=20) | st.sampled_from(FRAMING), st.text(max_size=40))
    def test_whatever_upstream_says_a_header_is_well_formed_or_an_error(self, header, key):
        try:
            headers = api_key(header, key).auth_headers()
        except ConfigurationError:
            return
        assert list(headers) == [header]
        assert TCHAR.fullmatch(header)
        assert header.lower() not in {name.lower() for name in FRAMING}
        assert headers[header] == key
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", key)
        assert key
        assert key == key.strip()
        key.encode("latin-1")

    @given(st.text(max_size=40), st.sampled_from("\r\n\0\x7f\x0b\u2028"), st.text(max_size=40))
    def test_no_line_break_and_no_control_character_gets_into_a_header(self, before, bad, after):
        value = before + bad + after
        for secret in (
            api_key("X-Key", value),
            OAuth2Secret(id="i", value=OAuth2Value(access_token=value)),
            SessionSecret(id="i", value=SessionValue(access_token=value)),
        ):
            with pytest.raises(ConfigurationError):
                secret.auth_headers()

    @pytest.mark.parametrize(
        "value",
        [
            "",
            " ",
            "\t",
            "t-1 ",
            " t-1",
            "\tt-1",
            "t-1\xa0",
            "t-1\x85",
            "t\x801",
            "t-\u2026",
            "t-\ud800",
            "t\n1",
            "\ufefft",
        ],
    )
    def test_what_cannot_be_a_header_value_is_refused(self, value):
        """An HTTP client would drop the blank, cut the value, or show it in its own error."""
        for secret in (
            api_key("X-Key", value),
            OAuth2Secret(id="i", value=OAuth2Value(access_token=value)),
            SessionSecret(id="i", value=SessionValue(access_token=value)),
        ):
            with pytest.raises(
                ConfigurationError, match="empty" if not value.strip() else "blanks around"
            ) as refused:
                secret.auth_headers()
            assert "t-1" not in str(refused.value)

    @pytest.mark.parametrize("value", ["t", "t 1", "t\t1", "é", "a\xa0b", "~", "t,1;=" * 2000])
    def test_what_a_header_can_carry_is_sent_as_it_is(self, value):
        assert OAuth2Secret(id="i", value=OAuth2Value(access_token=value)).auth_headers() == {
            "Authorization": f"Bearer {value}"
        }

    @pytest.mark.parametrize(
        "secret",
        [
            api_key("X-Key", "5ecr3t-5ecr3t "),
            OAuth2Secret(id="i", value=OAuth2Value(access_token=" 5ecr3t-5ecr3t")),
            api_key("X-Key", "5ecr3t-5ecr3t\n"),
            api_key("bad header", "5ecr3t-5ecr3t"),
            OAuth2Secret(id="i", value=OAuth2Value(access_token="5ecr3t-5ecr3t\n")),
            SessionSecret(id="i", value=SessionValue(access_token="5ecr3t-5ecr3t\n")),
            SimpleSecret(id="i", value=SimpleValue(username="a:b", passphrase="5ecr3t-5ecr3t")),
            MixedSecret(id="i", value=MixedValue(payload="5ecr3t-5ecr3t")),
        ],
    )
    def test_a_refusal_does_not_show_the_credential(self, secret, exposed):
        """Not in the message, and not in the locals that an error tracker captures."""
        with pytest.raises(ConfigurationError) as refused:
            secret.auth_headers()
        assert "5ecr3t" not in exposed(refused.value)
