"""docs/contract/OBSERVED.md § One secret, "Masking is silent"."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.sandbox.masking import mask_text, mask_value

ALICE = "user-000000@tenant.example"
BOB = "user-000001@tenant.example"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("", ""),
        ("123456789", "*********"),
        ("1234567890", "******7890"),
        ("short\nend", "*****\n***"),
        ("first line\nsecond line", "first line\n*******line"),
        ("first line\r\nabc", "first line\r\nabc"),
        ("a long enough line\n", "a long enough line\n"),
        ("line one\u2028line number two", "line one\u2028*********** two"),
        ("key-of-ten-and-ü", "************nd-ü"),
        ("🔑🔑🔑🔑", "********"),
        ("🔑🔑🔑🔑🔑", "******🔑🔑"),
    ],
)
def test_a_mask_hides_all_but_the_last_four_characters(text: str, masked: str) -> None:
    """Shorter than ten: all. Line ends stay, and what is before the last of them, in long texts.

    Characters are UTF-16 units: an emoji is two.
    """
    assert mask_text(text) == masked


@given(st.text(alphabet=st.characters(max_codepoint=0x2100, exclude_categories=["Cs"])))
def test_a_mask_keeps_the_length_and_the_line_ends(text: str) -> None:
    """Whatever the text: nothing is added, nothing but `*` is put in."""
    masked = mask_text(text)
    assert len(masked) == len(text)
    assert all(after in (before, "*") for before, after in zip(text, masked, strict=True))
    assert all(masked[i] == c for i, c in enumerate(text) if c in "\r\n\u2028\u2029")


@pytest.mark.observes(
    "One secret", "Without the raw-read permission", "SESSION_AUTH's `accessToken` is not masked"
)
@pytest.mark.parametrize(
    ("kind", "value", "masked"),
    [
        (
            "SIMPLE",
            {"username": "u", "passphrase": "p" * 20},
            {"username": "u", "passphrase": "***"},
        ),
        ("API_KEY", {"key": "k" * 12}, {"key": "********kkkk"}),
        ("MIXED", {"payload": "p" * 5}, {"payload": "*****"}),
        (
            "OA2_AUTHORIZATION_CODE",
            {"accessToken": "a" * 10, "scope": "s" * 20},
            {"accessToken": "******aaaa", "scope": "s" * 20, "refreshToken": ""},
        ),
        (
            "SESSION_AUTH",
            {"accessToken": "t" * 20, "inputFields": {"a": "b"}},
            {"accessToken": "t" * 20, "inputFields": "***"},
        ),
        ("OA1_THREE_LEGGED", {"accessToken": "t" * 20}, {"accessToken": "t" * 20}),
        ("FUTURE_TYPE", {"anything": 1}, {"anything": 1}),
    ],
)
def test_each_type_has_its_masks(kind: str, value: Any, masked: Any) -> None:
    """A session's access token is not masked, nor is what the table does not name."""
    before = dict(value)
    assert mask_value(kind, value) == masked
    assert value == before, "the stored value must survive its mask"


async def passphrase(call: Any, sandbox: Any, username: str) -> tuple[str, str]:
    secret = next(s for s in sandbox.world.secrets_of(username) if s.type == "SIMPLE")
    reply = await call.get(f"/secrets/{secret.id}", await call.impersonate(username))
    assert reply.status == 200
    return reply.json()["data"]["value"]["passphrase"], secret.value["passphrase"]


@pytest.mark.observes("One secret", "Masking is silent")
@pytest.mark.anyio
async def test_masking_is_silent_and_hangs_on_the_permission(running: Any) -> None:
    """An ordinary 200: who lacks `secrets.secret.readRaw` reads masks."""
    async with running(seed=3) as (sandbox, call):
        shown, stored = await passphrase(call, sandbox, ALICE)
        assert shown == stored
        sandbox.world.user(ALICE).permissions = ()
        assert (await passphrase(call, sandbox, ALICE))[0] == "***"


@pytest.mark.anyio
async def test_raw_read_can_be_taken_from_everybody_and_given_back(running: Any) -> None:
    """`raw_read` is an option and a setting; the stored values survive."""
    async with running(raw_read=False) as (sandbox, call):
        assert (await passphrase(call, sandbox, ALICE))[0] == "***"
        reply = await call.admin("POST", "settings", json={"raw_read": True})
        assert reply.status == 200
        shown, stored = await passphrase(call, sandbox, ALICE)
        assert shown == stored != "***"
