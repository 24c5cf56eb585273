"""Masked values are recognised, genuine ones are not."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flowmate_async.contract.masks import is_fixed_mask, is_starred, masked_fields, proves_raw_read
from flowmate_async.values.secrets import (
    ApiKeySecret,
    ApiKeyValue,
    MixedSecret,
    MixedValue,
    OAuth1Secret,
    OAuth1Value,
    OAuth2Secret,
    OAuth2Value,
    SessionSecret,
    SessionValue,
    SimpleSecret,
    SimpleValue,
    UnknownSecret,
)

LINE_BREAKS = "\n\r\u2028\u2029"
a_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=LINE_BREAKS), min_size=1)


def units(text):
    """JavaScript's characters, in which upstream counts: UTF-16 code units."""
    raw = text.encode("utf-16-le")
    return [raw[at : at + 2] for at in range(0, len(raw), 2)]


def mask(text):
    """OBSERVED.md § One secret: shorter than 10 characters all stars, else all but the last four."""
    parts = units(text)
    if len(parts) < 10:
        return "*" * len(parts)
    tail = b"".join(parts[-4:]).decode("utf-16-le", "replace")  # half a pair cannot be written as UTF-8
    return "*" * (len(parts) - 4) + tail


MASKABLE = [
    (lambda v: ApiKeySecret(id="i", value=ApiKeyValue(key=v)), "key"),
    (lambda v: OAuth2Secret(id="i", value=OAuth2Value(access_token=v)), "accessToken"),
    (lambda v: MixedSecret(id="i", value=MixedValue(payload=v)), "payload"),
    (lambda v: OAuth1Secret(id="i", value=OAuth1Value(access_token=v)), "accessToken"),
    (lambda v: OAuth1Secret(id="i", value=OAuth1Value(access_token_secret=v)), "accessTokenSecret"),
    (lambda v: UnknownSecret(id="i", kind="NEW", value={"anything": v}), "anything"),
    (lambda v: UnknownSecret(id="i", kind="NEW", value=v), "value"),
]
FIXED = [
    (lambda v: SimpleSecret(id="i", value=SimpleValue(passphrase=v)), "passphrase"),
    (lambda v: SessionSecret(id="i", value=SessionValue(access_token="a", input_fields=v)), "inputFields"),
    (lambda v: UnknownSecret(id="i", kind="NEW", value={"anything": v}), "anything"),
]


@pytest.mark.parametrize(("secret", "field"), MASKABLE)
class TestStarredFields:
    @given(value=a_line)
    def test_any_masked_line_is_recognised_and_named(self, secret, field, value):
        assert masked_fields(secret(mask(value))) == (field,)

    @given(value=a_line)
    def test_a_value_without_stars_is_genuine(self, secret, field, value):
        assume("*" not in value)
        assert masked_fields(secret(value)) == ()


@pytest.mark.parametrize(("secret", "field"), FIXED)
class TestFixedMasks:
    def test_three_stars_are_the_mask(self, secret, field):
        assert masked_fields(secret("***")) == (field,)

    @given(value=st.text())
    def test_anything_without_a_star_is_genuine(self, secret, field, value):
        assume("*" not in value)
        assert masked_fields(secret(value)) == ()


@given(st.text().filter(lambda text: text != "***"))
def test_only_exactly_three_stars_are_the_fixed_mask(text):
    assert not is_fixed_mask(text)


@given(st.text(min_size=10), st.characters(exclude_characters="*" + LINE_BREAKS, exclude_categories=["Cs"]))
def test_a_long_value_that_shows_a_character_before_its_last_four_is_genuine(text, shown):
    assume(not re.search(f"[{LINE_BREAKS}]", text))
    value = text[:-4] + shown + "tail"
    assert not is_starred(value)


@given(a_line, st.sampled_from([*LINE_BREAKS, "\r\n"]), a_line)
def test_of_several_lines_the_last_one_tells(first, line_break, last):
    """Upstream's pattern stops at line breaks: only a last line of five or more is masked."""
    assume(len(units(first + line_break + last)) >= 10 and len(units(last)) >= 5 and "*" not in last)
    parts = units(last)
    masked = "*" * (len(parts) - 4) + b"".join(parts[-4:]).decode("utf-16-le", "replace")
    assert is_starred(first + line_break + masked)
    assert not is_starred(first + line_break + last)


def test_a_session_token_is_never_called_masked():
    """Upstream never masks it, so that stars in it are genuine."""
    assert masked_fields(SessionSecret(id="i", value=SessionValue(access_token="******"))) == ()


def test_empty_and_absent_values_are_not_masked():
    """The recorded secret without a refresh token shows an empty string where the mask would be."""
    assert masked_fields(OAuth2Secret(id="i", value=OAuth2Value(access_token="a", refresh_token=""))) == ()
    assert masked_fields(OAuth1Secret(id="i", value=OAuth1Value())) == ()


@pytest.mark.parametrize("depth", [10, 3_000, 100_000])
def test_a_mask_is_found_however_deep(depth):
    """An unknown type's value is as deep as upstream likes; nothing recurses into it."""
    deep = "***"
    for _ in range(depth):
        deep = [deep]
    assert masked_fields(UnknownSecret(id="s", kind="NEW", value={"outer": deep})) == ("outer",)
    while isinstance(deep, list):  # or its own end would recurse
        deep = deep.pop()


class TestConclusiveFields:
    """OBSERVED.md § Second look: ``refreshToken`` is ciphertext and looks masked once in 38,000 times."""

    @given(before=st.text(), stars=st.integers(1, 40), tail=st.text(min_size=4, max_size=4))
    def test_a_refresh_token_never_makes_an_oauth_secret_masked(self, before, stars, tail):
        looks_masked = f"{before}\n{'*' * stars}{tail}"
        value = OAuth2Value(access_token="genuine-token", refresh_token=looks_masked)
        assert masked_fields(OAuth2Secret(id="i", value=value)) == ()

    def test_a_masked_oauth_secret_is_named_by_its_access_token(self):
        value = OAuth2Value(access_token=mask("genuine-token"), refresh_token=mask("another-token"))
        assert masked_fields(OAuth2Secret(id="i", value=value)) == ("accessToken",)

    def test_ciphertext_of_an_unknown_type_is_not_a_mask_but_a_masked_line_is(self):
        def fields(token):
            return masked_fields(UnknownSecret(id="i", kind="NEW", value={"deep": [{"refreshToken": token}]}))

        assert fields("c/U_\x10\n*\x0b@kd") == ()
        assert fields(mask("a-refresh-token")) == ("refreshToken",)


class TestProofOfThePermission:
    @pytest.mark.parametrize(
        "secret",
        [
            SimpleSecret(id="i", value=SimpleValue(passphrase="p")),
            ApiKeySecret(id="i", value=ApiKeyValue(key="k")),
            OAuth2Secret(id="i", value=OAuth2Value(access_token="t")),
            MixedSecret(id="i", value=MixedValue(payload="p")),
        ],
    )
    def test_a_clear_line_of_a_maskable_type_is_proof(self, secret):
        assert proves_raw_read(secret)

    @pytest.mark.parametrize("line_break", LINE_BREAKS)
    def test_a_multi_line_value_is_not_proof(self, line_break):
        """Its last line may be too short to be masked, so it arrives in plain text without the permission."""
        for value in (f"-----BEGIN{line_break}abcd", f"{line_break}key", f"key{line_break}"):
            assert not proves_raw_read(ApiKeySecret(id="i", value=ApiKeyValue(key=value)))
            assert not proves_raw_read(MixedSecret(id="i", value=MixedValue(payload=value)))

    @pytest.mark.parametrize("line_break", LINE_BREAKS)
    def test_a_multi_line_passphrase_is_proof(self, line_break):
        """Upstream replaces the whole of a passphrase, however many lines it has."""
        value = SimpleValue(passphrase=f"-----BEGIN{line_break}abcd{line_break}")
        assert proves_raw_read(SimpleSecret(id="i", value=value))

    @pytest.mark.parametrize(
        "secret",
        [
            SessionSecret(id="i", value=SessionValue(access_token="t")),
            OAuth1Secret(id="i", value=OAuth1Value(access_token="t", access_token_secret="s")),
            UnknownSecret(id="i", kind="NEW", value={"key": "k"}),
        ],
    )
    def test_types_that_upstream_may_not_mask_are_not_proof(self, secret):
        assert not proves_raw_read(secret)
