"""What a good answer means, and that half an answer is none."""

import json
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import ProtocolError, Response, protocol

READERS = {
    "token": protocol.read_user_token,
    "users": protocol.read_users,
    "page": protocol.read_page,
    "secret": lambda response: protocol.read_secret(response, protocol.get_secret("s")),
}
PLANTED = "5ecr3t"


def answer(body, content_type="application/json"):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(200, {"content-type": content_type} if content_type else {}, raw)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4).map(PLANTED.__add__),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "meta", "token", "id", "_id", "type", "value", "total", "key"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


def without_planted_ids(data):
    """What identifies may be shown: credentials stand elsewhere."""
    if isinstance(data, list):
        return [without_planted_ids(part) for part in data]
    if not isinstance(data, dict):
        return data
    public = {"id", "_id", "type", "total"}
    return {name: "public" if name in public and isinstance(part, str) else without_planted_ids(part)
            for name, part in data.items()}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
class TestEveryReader:
    @given(data=anything)
    def test_arbitrary_json_is_read_or_a_protocol_error_that_shows_nothing(self, kind, exposed, data):
        try:
            READERS[kind](answer(without_planted_ids(data)))
        except ProtocolError as error:
            refused = error
        else:
            return
        assert PLANTED not in exposed(refused)
        assert refused.endpoint

    @given(data=st.binary())
    def test_arbitrary_bytes_are_a_protocol_error(self, kind, data):
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            with pytest.raises(ProtocolError):
                READERS[kind](answer(data))

    @pytest.mark.parametrize(
        "content_type", ["text/html; charset=utf-8", "text/plain", "application/octet-stream"]
    )
    def test_what_is_not_json_is_said_in_the_readers_words(self, kind, content_type):
        with pytest.raises(ProtocolError, match=f"{content_type.partition(';')[0]}, not JSON.*base URL"):
            READERS[kind](answer(b"<html>login</html>", content_type))


class TestTokens:
    @pytest.mark.parametrize(
        "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json", ""]
    )
    def test_json_by_any_of_its_names_is_read(self, content_type):
        assert protocol.read_user_token(answer({"token": "t"}, content_type)).token == "t"

    @pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é", "a\0"])
    def test_a_token_that_no_header_can_carry_is_refused(self, token):
        with pytest.raises(ProtocolError):
            protocol.read_user_token(answer({"token": token, "id": "i"}))


class TestUsers:
    USERS = ({"username": "a", "_id": "1"}, {"username": "b", "_id": "2"})

    @pytest.mark.parametrize(
        "body",
        [
            list(USERS),
            {"data": list(USERS)},
            {"data": list(USERS), "meta": {}},
            {"data": list(USERS), "meta": {"total": 2}},
        ],
    )
    def test_bare_or_enveloped(self, body):
        assert [user.username for user in protocol.read_users(answer(body))] == ["a", "b"]

    @pytest.mark.parametrize("total", [0, 1, 3, 10**30, "2", None, {}])
    def test_a_list_that_disagrees_with_its_own_total_is_refused(self, total):
        with pytest.raises(ProtocolError):
            protocol.read_users(answer({"data": list(self.USERS), "meta": {"total": total}}))


class TestPages:
    def test_meta_may_be_missing_as_in_the_documented_example(self):
        page = protocol.read_page(answer({"data": [{"_id": "s", "type": "SIMPLE"}]}))
        assert page.meta is None
        assert [found.id for found in page.data] == ["s"]

    def test_a_type_nobody_knows_is_listed(self):
        page = protocol.read_page(
            answer({"data": [{"_id": "s", "type": "NEW", "value": {"odd": 1}, "more": 2}]})
        )
        assert page.data[0].type == "NEW"


class TestSecrets:
    BODY: ClassVar = {"_id": "s", "type": "API_KEY", "value": {"key": PLANTED}}

    def test_another_secrets_answer_is_refused(self, exposed):
        """A proxy or a cache that mixes answers up must not hand one user's secret to another."""
        with pytest.raises(ProtocolError, match="another secret") as refused:
            protocol.read_secret(answer({"data": self.BODY | {"_id": "t"}}), protocol.get_secret("s"))
        assert PLANTED not in exposed(refused.value)

    def test_a_secret_without_its_envelope_is_refused(self):
        with pytest.raises(ProtocolError):
            protocol.read_secret(answer(self.BODY), protocol.get_secret("s"))
