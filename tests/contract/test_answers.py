"""What a good answer means; an incomplete answer is an error."""

import json
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import CredentialMissingError, FlowMateError, ProtocolError, RefreshFailedError, Response
from flowmate_async.contract import answers, protocol

READERS = {
    "token": answers.read_user_token,
    "users": answers.read_users,
    "page": answers.read_page,
    "secret": lambda response: answers.read_secret(response, protocol.get_secret("s")),
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
        except FlowMateError as error:
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
        assert answers.read_user_token(answer({"token": "t"}, content_type)).token == "t"

    @pytest.mark.parametrize("token_id", [None, 5, {}, "i"])
    def test_an_odd_id_of_a_token_does_not_cost_the_token(self, token_id):
        assert answers.read_user_token(answer({"token": "t", "id": token_id})).token == "t"

    @pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "é", "a\0"])
    def test_a_token_that_no_header_can_carry_is_refused(self, token):
        with pytest.raises(ProtocolError):
            answers.read_user_token(answer({"token": token, "id": "i"}))


class TestUsers:
    USERS = ({"username": "a", "_id": "1"}, {"username": "b", "_id": "2"})

    @pytest.mark.parametrize(
        "body",
        [
            list(USERS),
            {"data": list(USERS)},
            {"data": list(USERS), "meta": {}},
            {"data": list(USERS), "meta": {"total": 2}},
            {"data": list(USERS), "meta": {"total": "2"}},
            {"data": list(USERS), "meta": {"total": 2.0, "page": "x"}},
            {"data": list(USERS), "meta": {"total": None}},
            {"data": list(USERS), "meta": None},
            {"data": list(USERS), "meta": []},
        ],
    )
    def test_bare_or_enveloped(self, body):
        assert [user.username for user in answers.read_users(answer(body))] == ["a", "b"]

    @pytest.mark.parametrize("total", [0, 1, 3, 10**30, "3", "two", "", "-2", -2, 2.5, True, {}, [], [2]])
    def test_a_list_that_disagrees_with_its_own_total_is_refused(self, total):
        with pytest.raises(ProtocolError):
            answers.read_users(answer({"data": list(self.USERS), "meta": {"total": total}}))

    @pytest.mark.parametrize(
        "odd",
        [
            5,
            None,
            "x",
            [],
            {},
            {"username": 5},
            {"username": None},
            {"username": ["a"], "roles": "x"},
            {"_id": {}},
        ],
    )
    def test_one_odd_account_among_thousands_costs_only_itself(self, odd):
        """Strict about ids: only certain usernames count as usernames."""
        users = answers.read_users(answer({"data": [*self.USERS, odd], "meta": {"total": 3}}))
        assert [user.username for user in users] == ["a", "b", None]
        assert not users[2].is_active_tenant_user

    @pytest.mark.parametrize(
        "decoration",
        [
            {"firstname": 5}, {"lastname": ["x"]}, {"confirmed": "yes"}, {"_id": 7}, {"tenant": 12},
            {"tenant": {"_id": "t", "name": "T"}}, {"roles": None}, {"permissions": {"a": 1}},
        ],
    )  # fmt: skip
    def test_odd_decoration_of_an_account_does_not_leave_it_out(self, decoration):
        account = {"username": "a", "_id": "1", "status": "ACTIVE", "tenant": "t", "roles": []}
        [user] = answers.read_users(answer([account | decoration]))
        assert user.username == "a"
        assert user.is_active_tenant_user

    @pytest.mark.parametrize(
        "odd", [{"roles": "ADMIN"}, {"roles": {"name": "ADMIN"}}, {"status": 1}, {"tenant": {}}]
    )
    def test_odd_rights_of_an_account_leave_it_out(self, odd):
        """A possible administrator is not taken for a user of the tenant."""
        account = {"username": "a", "_id": "1", "status": "ACTIVE", "tenant": "t", "roles": []}
        [user] = answers.read_users(answer([account | odd]))
        assert not user.is_active_tenant_user


class TestPages:
    ITEM: ClassVar = {"_id": "s", "type": "SIMPLE"}

    @pytest.mark.parametrize(
        ("meta", "total"),
        [
            ({"total": 1}, 1),
            ({"total": "1"}, 1),
            ({"total": 1.0, "page": "1", "perPage": [], "totalPages": None}, 1),
            ({"total": 0}, 0),
            ({"total": None}, None),
            ({}, None),
            (None, None),
            ("1", None),
        ],
    )
    def test_a_total_is_a_number_or_missing(self, meta, total):
        page = answers.read_page(answer({"data": [self.ITEM], "meta": meta}))
        assert page.total == total

    @pytest.mark.parametrize("total", ["one", "", "-1", "1.0", " 1", "²", 1.5, True, {}, [1]])
    def test_a_total_that_is_not_a_number_is_refused(self, total):
        """Nothing may be called complete, or removed, by a total that was guessed."""
        with pytest.raises(ProtocolError):
            answers.read_page(answer({"data": [self.ITEM], "meta": {"total": total}}))

    @pytest.mark.parametrize(
        "decoration",
        [
            {"name": 5}, {"name": {}}, {"owners": None}, {"owners": "x"}, {"owners": [5, {"id": None}]},
            {"value": 5}, {"value": []}, {"value": {"authClientId": 5, "scope": ["a"], "expires": 1}},
        ],
    )  # fmt: skip
    def test_odd_decoration_of_an_item_does_not_cost_the_listing(self, decoration):
        page = answers.read_page(answer({"data": [self.ITEM | decoration], "meta": {"total": 1}}))
        assert [found.id for found in page.data] == ["s"]

    @pytest.mark.parametrize("odd", [5, None, {}, {"_id": 5, "type": "SIMPLE"}, {"_id": "s", "type": None}])
    def test_an_item_without_an_id_or_type_is_refused(self, odd):
        with pytest.raises(ProtocolError):
            answers.read_page(answer({"data": [odd], "meta": {"total": 1}}))

    def test_meta_may_be_missing_as_in_the_documented_example(self):
        page = answers.read_page(answer({"data": [{"_id": "s", "type": "SIMPLE"}]}))
        assert page.total is None
        assert [found.id for found in page.data] == ["s"]

    def test_a_type_nobody_knows_is_listed(self):
        page = answers.read_page(
            answer({"data": [{"_id": "s", "type": "NEW", "value": {"odd": 1}, "more": 2}]})
        )
        assert page.data[0].type == "NEW"


class TestSecrets:
    BODY: ClassVar = {"_id": "s", "type": "API_KEY", "value": {"key": PLANTED}}

    @pytest.mark.parametrize("blank", ["", None, "absent", " ", "\t\n"])
    @pytest.mark.parametrize(
        ("kind", "field", "error"),
        [
            ("OA2_AUTHORIZATION_CODE", "accessToken", RefreshFailedError),
            ("SESSION_AUTH", "accessToken", RefreshFailedError),
            ("API_KEY", "key", CredentialMissingError),
            ("SIMPLE", "passphrase", CredentialMissingError),
            ("MIXED", "payload", CredentialMissingError),
            ("OA1_THREE_LEGGED", "accessToken", CredentialMissingError),
            ("OA1_THREE_LEGGED", "accessTokenSecret", CredentialMissingError),
        ],
    )
    def test_a_blank_credential_is_not_a_credential(self, kind, field, error, blank, exposed):
        """OBSERVED.md § Second look: a session whose provider refuses comes with 200 and without a token."""
        value = {"accessToken": f"{PLANTED}-t", "accessTokenSecret": f"{PLANTED}-s", field: blank}
        if blank == "absent":
            del value[field]
        body = {"_id": "s", "type": kind, "value": value | {"username": "u", "inputFields": {"pw": PLANTED}}}
        with pytest.raises(error, match=f"{field} is missing or empty.*connect the app again") as refused:
            answers.read_secret(answer({"data": body}), protocol.get_secret("s"))
        assert PLANTED not in exposed(refused.value)
        assert refused.value.status == 200

    @pytest.mark.parametrize("value", [None, {}])
    def test_a_session_without_any_value_has_no_credential(self, value):
        body = {"_id": "s", "type": "SESSION_AUTH", "value": value}
        with pytest.raises(RefreshFailedError):
            answers.read_secret(answer({"data": body}), protocol.get_secret("s"))

    @pytest.mark.parametrize(
        "decoration",
        [
            {"owners": None}, {"owners": "x"}, {"owners": [None, {"id": None, "type": 5}]}, {"name": 5},
            {"name": ["x"]}, {"createdAt": 1669733051143}, {"updatedAt": {}}, {"createdAt": False},
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("kind", ["API_KEY", "FUTURE"])
    def test_odd_decoration_does_not_cost_a_credential(self, kind, decoration):
        body = self.BODY | {"type": kind} | decoration
        secret = answers.read_secret(answer({"data": body}), protocol.get_secret("s"))
        assert msgspec.to_builtins(secret)["value"] == {"key": PLANTED}
        secret.created_at, secret.updated_at  # noqa: B018 - reading them does not raise

    @pytest.mark.parametrize(
        ("sent", "read"),
        [
            ({"externalId": 42}, ("external_id", "42")),
            ({"externalId": {}}, ("external_id", None)),
            ({"authClientId": 7}, ("auth_client_id", "7")),
            ({"scope": ["read", 5, "write"]}, ("scope", "read write")),
            ({"scope": 5}, ("scope", "5")),
            ({"scope": []}, ("scope", None)),
        ],
    )
    def test_odd_decoration_of_a_value_becomes_text_or_nothing(self, sent, read):
        body = {"_id": "s", "type": "OA2_AUTHORIZATION_CODE", "value": {"accessToken": "t"} | sent}
        secret = answers.read_secret(answer({"data": body}), protocol.get_secret("s"))
        assert getattr(secret.value, read[0]) == read[1]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("SIMPLE", {"passphrase": 5}),
            ("SIMPLE", {"passphrase": "p", "username": ["u"]}),
            ("SIMPLE", {"passphrase": "p", "username": True}),
            ("API_KEY", {"key": ["k"]}),
            ("API_KEY", {"key": "k", "headerName": 5}),
            ("OA2_AUTHORIZATION_CODE", {"accessToken": 5}),
        ],
    )
    def test_what_is_presented_to_an_app_is_not_guessed(self, kind, value):
        with pytest.raises(ProtocolError):
            answers.read_secret(
                answer({"data": {"_id": "s", "type": kind, "value": value}}), protocol.get_secret("s")
            )

    def test_a_numeric_username_is_its_digits(self):
        body = {"_id": "s", "type": "SIMPLE", "value": {"passphrase": "p", "username": 5}}
        assert answers.read_secret(answer({"data": body}), protocol.get_secret("s")).value.username == "5"

    def test_another_secrets_answer_is_refused(self, exposed):
        """A proxy or a cache that mixes answers up must not hand one user's secret to another."""
        with pytest.raises(ProtocolError, match="another secret") as refused:
            answers.read_secret(answer({"data": self.BODY | {"_id": "t"}}), protocol.get_secret("s"))
        assert PLANTED not in exposed(refused.value)

    def test_a_secret_without_its_envelope_is_refused(self):
        with pytest.raises(ProtocolError):
            answers.read_secret(answer(self.BODY), protocol.get_secret("s"))
