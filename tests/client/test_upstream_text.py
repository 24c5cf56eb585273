"""Upstream's text in an error never repeats a credential, whatever that looks like."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FlowMate, FlowMateError, RetryPolicy
from flowmate_async.redaction import conceal
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

pytestmark = pytest.mark.anyio
SID = "66761aedcf268b4d68470e27"
ADMIN = "p!w-9$"
USER = "us3r~t0k€n".replace("€", "%")


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


@pytest.mark.parametrize("transport", [MemoryTransport, ImmediateMemoryTransport])
@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503])
@pytest.mark.parametrize("repeated", [ADMIN, USER, USER.upper(), f"Bearer {USER}", f'{{"t":"{ADMIN}"}}'])
async def test_an_error_never_repeats_the_token_or_the_admin_token(transport, status, repeated, exposed):
    def answer(method, path, headers, body):
        if path == "/impersonate":
            return json_response(json.dumps({"token": USER}).encode())
        said = f"{'x ' * 97}{repeated} is not welcome, {repeated}"
        return json_response(json.dumps({"message": said[-190:] if status == 403 else said}).encode(), status)

    retry = RetryPolicy(attempts=1)
    async with FlowMate(
        admin_token=ADMIN, base_url="http://127.0.0.1:1", transport=transport(answer), rate=None, retry=retry
    ) as fm:
        await fm.impersonate("ann")
        for call in (fm.get_secret("ann", SID), fm.list_secrets("ann"), fm.credential("ann", SID)):
            with pytest.raises(FlowMateError) as refused:
                await call
            assert ADMIN not in str(refused.value)
            assert USER.lower() not in str(refused.value).lower()


@pytest.mark.parametrize("admin_token", [ADMIN, "a-longer-admin-token-of-36-characters"])
async def test_an_error_of_the_admins_own_request_does_not_either(admin_token):
    def answer(method, path, headers, body):
        return json_response(json.dumps({"message": f"unknown token {admin_token}"}).encode(), 401)

    async with FlowMate(
        admin_token=admin_token, base_url="http://127.0.0.1:1", transport=MemoryTransport(answer), rate=None
    ) as fm:
        with pytest.raises(FlowMateError, match="unknown token …") as refused:
            await fm.impersonate("ann")
        assert admin_token not in str(refused.value)


words = st.text(string.ascii_letters + string.digits + "!$%-_.~ /", min_size=1)


@given(
    before=words,
    token=words.map(str.strip).filter(lambda token: len(token) >= 8),
    after=words,
    data=st.data(),
)
def test_no_eight_characters_of_a_token_are_left(before, token, after, data):
    """Also of one that upstream has cut short."""
    cut = data.draw(st.integers(8, len(token)))
    shown = conceal(before + token[:cut] + after, [token]).lower()
    assert not [at for at in range(len(token) - 7) if token[at : at + 8].lower() in shown]


@given(before=words, token=st.text("abc!$%", min_size=4, max_size=7), after=words)
def test_a_short_token_is_hidden_as_a_whole(before, token, after):
    assert token not in conceal(before + token + after, [token])


@pytest.mark.parametrize(
    ("token", "text", "shown"),
    [
        ("t", "Token t not found", "Token … not found"),
        ("t", "tell it", "tell it"),
        ("", "nothing", "nothing"),
        ("abcdefgh", "İabcdefgh", "…"),
        ("abcdefgh", "İ nothing", "İ nothing"),
    ],
)
def test_the_rest_of_the_text_stays_readable(token, text, shown):
    assert conceal(text, [token]) == shown
