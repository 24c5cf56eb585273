"""Text from upstream is safe to show, and values that hold credentials do not show them."""

import copy
import pickle
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from rich.console import Console
from rich.pretty import pretty_repr

from flowmate_async import Headers, Limits, Response, UserToken
from flowmate_async.access.admin import AdminHeaders
from flowmate_async.access.user_tokens import CachedToken
from flowmate_async.contract.protocol import impersonate
from flowmate_async.engine.call import Call
from flowmate_async.engine.priority import Priority
from flowmate_async.redaction import one_line, safe_text
from flowmate_async.sync.outcomes import UserFailed, UserSynced
from flowmate_async.testing.memory_transport import MemoryTransport
from flowmate_async.transport.carriers import Carriers

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{32,64}", fullmatch=True)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class TestSafeText:
    @given(TOKENS, st.text(max_size=900), st.text(max_size=900))
    @example("A" * 40, "invalid body at https://provider.example/oauth,", "")
    @example("A" * 40, 'at "https://provider.example/token",{"access_token":"', '"}')
    @example("A" * 40, "x" * 780 + " ", "")
    @example("A" * 40, "ftp://provider.example/", "")
    def test_no_token_survives_whatever_surrounds_it(self, token, before, after):
        """Not even in part: a token cut by the limit is still sixteen characters of a token."""
        shown = safe_text(before + token + after)
        assume(not any(token[at : at + 16] in before + "|" + after for at in range(len(token) - 15)))
        assert not any(token[at : at + 16] in shown for at in range(len(token) - 15))

    @given(st.text(max_size=2000), st.integers(1, 300))
    def test_it_is_one_short_line_without_control_characters(self, text, limit):
        for shown in (safe_text(text, limit=limit), one_line(text, limit=limit)):
            assert len(shown) <= limit
            assert not CONTROL.search(shown)

    @given(
        st.sampled_from(["http", "https", "HTTPS", "ftp", "postgresql"]),
        TOKENS,
        st.sampled_from(['"', "'", "<", " "]),
    )
    def test_of_a_url_only_scheme_and_host_are_left(self, scheme, secret, end):
        said = (
            f"cannot read {scheme}://user:{secret}@provider.example:8443/{secret}?code={secret}{end}, sorry"
        )
        shown = safe_text(said)
        assert "provider.example" in shown
        assert secret not in shown
        assert "user" not in shown
        assert "sorry" in shown

    def test_words_and_ids_stay_readable(self):
        said = "Secret 6b04797823ada047ee5701f2 was not found in IAM"
        assert safe_text(said) == said


SECRET = "tok-" + "5ecr3t" * 8
HOLDERS = [
    UserToken(SECRET, "id"),
    UserToken(SECRET).headers(),
    Headers((("Authorization", SECRET),)),
    Response(200, {"set-cookie": SECRET}, SECRET.encode()),
    UserSynced(username="u", secrets=(SECRET,), requests=1, seconds=0.1),
    UserFailed(username="u", error=ValueError("x"), secrets=(SECRET,)),
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
class TestHolders:
    def test_no_way_of_printing_shows_the_credential(self, holder):
        nested = {"deep": [holder, (holder,)]}
        console = Console(width=200)
        with console.capture() as rich:
            console.print(holder, nested)
        shown = [
            repr(holder),
            str(holder),
            format(holder),
            f"{holder!s}{holder!r}{holder!a}",
            f"{holder}",
        ]
        shown += [repr(nested), pretty_repr(nested), rich.get()]
        assert not [text for text in shown if SECRET in text]
        assert type(holder).__name__ in repr(holder)

    def test_it_refuses_to_be_pickled(self, holder):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(holder, protocol)
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps([{"deep": holder}], protocol)

    def test_a_copy_is_the_credential_itself(self, holder):
        assert copy.copy(holder) is holder
        assert copy.deepcopy([holder])[0] is holder


class Bearer:
    """A token as the engine has it."""

    def __init__(self):
        self.headers = Headers((("Authorization", f"Bearer {SECRET}"),))


class Nobody:
    """An identity with a token."""

    def __init__(self):
        self.cached = Bearer()


def test_a_call_shows_nothing_of_its_request():
    """It cannot be a frozen struct: its state changes on its way."""
    limits = Limits(timeout_seconds=1.0, max_body_bytes=1)
    call = Call(impersonate("ali@tenant.example"), Nobody(), limits, Priority.INTERACTIVE)
    call.token = Bearer()
    for shown in (repr(call), f"{call}", pretty_repr(call)):
        assert "Call" in shown
        assert SECRET not in shown
        assert "ali@tenant" not in shown


def test_cached_tokens_show_nothing():
    user = CachedToken(UserToken(SECRET), replacement=False, now=0.0, wall=0.0)
    admin = AdminHeaders(Headers((("Authorization", f"Bearer {SECRET}"),)))
    for token in (user, admin):
        for shown in (repr(token), f"{token}", pretty_repr(token), repr([token])):
            assert SECRET not in shown


@pytest.mark.anyio
async def test_a_request_that_waits_for_a_carrier_shows_nothing():
    transport, headers = MemoryTransport(lambda *_: None), Bearer().headers
    carriers = Carriers(transport, is_paused=lambda: False, outlast_pause=transport.__aenter__)
    body = SECRET.encode()
    carriers.carry("POST", f"/{SECRET}", headers, body, Limits(timeout_seconds=1, max_body_bytes=1), print)
    (load,) = carriers._loads
    for shown in (repr(load), f"{load}", pretty_repr(load)):
        assert SECRET not in shown
    await carriers.aclose()
