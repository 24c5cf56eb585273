"""Every type decodes, survives a round trip and hides its value; anything else is a ProtocolError."""

import copy
import json
import pickle
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from flowmate_async import (
    FAR_FUTURE,
    ApiKeySecret,
    MixedSecret,
    OAuth1Secret,
    OAuth1TwoLeggedSecret,
    OAuth2Secret,
    ProtocolError,
    Secret,
    SessionSecret,
    SimpleSecret,
    UnknownSecret,
    decode_secret,
)

PLANTED = "5ecr3t"
VALUES = {
    "SIMPLE": (SimpleSecret, {"username": f"{PLANTED}-u", "passphrase": f"{PLANTED}-p"}),
    "API_KEY": (ApiKeySecret, {"key": f"{PLANTED}-k", "headerName": "X-Key"}),
    "OA2_AUTHORIZATION_CODE": (
        OAuth2Secret,
        {
            "authClientId": "c", "accessToken": f"{PLANTED}-a", "scope": "r w", "externalId": "e",
            "expires": "2026-11-23T17:24:11.359Z", "refreshToken": f"{PLANTED}-r",
        },
    ),
    "SESSION_AUTH": (
        SessionSecret,
        {"authClientId": "c", "accessToken": f"{PLANTED}-a", "expires": None,
         "inputFields": {"pw": f"{PLANTED}-i"}},
    ),
    "MIXED": (MixedSecret, {"payload": f"{PLANTED}-m"}),
    "OA1_TWO_LEGGED": (OAuth1TwoLeggedSecret, {"expiresAt": "2026-11-23T17:24:11Z"}),
    "OA1_THREE_LEGGED": (
        OAuth1Secret,
        {"accessToken": f"{PLANTED}-a", "accessTokenSecret": f"{PLANTED}-s", "scope": "r", "externalId": "e"},
    ),
    "FUTURE_TYPE": (UnknownSecret, {"passkey": {"private": f"{PLANTED}-f"}, "tags": ["a", 2, None]}),
}  # fmt: skip
KINDS = list(VALUES)


def wire(kind, **value):
    """A secret as upstream sends it, with everything of the envelope."""
    return {
        "value": VALUES[kind][1] | value,
        "_id": "6b04797823ada047ee5701f2",
        "name": "an app",
        "owners": [{"id": "o", "type": "USER"}],
        "type": kind,
        "domain": "crm",
        "encryptedFields": [],
        "__t": f"S_{kind}",
        "createdAt": "2026-11-23T17:35:53.176Z",
        "updatedAt": "2026-11-24T17:35:53.176Z",
        "__v": 0,
    }


def decoded(kind, *, keep_refresh_fields=False, **value):
    return decode_secret(json.dumps(wire(kind, **value)).encode(), keep_refresh_fields=keep_refresh_fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryType:
    def test_it_decodes_to_its_class_with_everything_public_about_it(self, kind):
        secret = decoded(kind)
        assert type(secret) is VALUES[kind][0]
        assert isinstance(secret, Secret)
        assert (secret.id, secret.name, secret.kind) == ("6b04797823ada047ee5701f2", "an app", kind)
        assert secret.type == {"FUTURE_TYPE": "UNKNOWN"}.get(kind, kind)
        assert [(owner.id, owner.type) for owner in secret.owners] == [("o", "USER")]
        assert secret.created_at == datetime(2026, 11, 23, 17, 35, 53, 176_000, UTC)
        assert secret.updated_at == datetime(2026, 11, 24, 17, 35, 53, 176_000, UTC)

    @given(extra=st.dictionaries(st.text(min_size=1).map("new {}".format), json_values, max_size=3))
    def test_it_survives_a_round_trip_with_fields_nobody_knows(self, kind, extra):
        secret = decoded(kind, keep_refresh_fields=True, **extra)
        again = decode_secret(msgspec.json.encode(secret), keep_refresh_fields=True)
        assert again == secret
        kept = again.value if kind == "FUTURE_TYPE" else again.value.extra
        assert {name: kept[name] for name in extra} == json.loads(json.dumps(extra))

    def test_refresh_fields_are_dropped_unless_asked_for(self, kind):
        """Wherever they turn up: a type that gains them later must not start to store them."""
        fields = {"refreshToken": "keep-out-r", "inputFields": {"pin": "keep-out-i"}}
        for secret in (decoded(kind, **fields), decode_secret(msgspec.json.encode(decoded(kind, **fields)))):
            assert b"keep-out" not in msgspec.json.encode(secret)
        kept = msgspec.json.encode(decoded(kind, keep_refresh_fields=True, **fields))
        assert b"keep-out-r" in kept
        assert b"keep-out-i" in kept

    def test_no_way_of_printing_shows_its_value(self, kind):
        secret = decoded(kind, keep_refresh_fields=True)
        for held in (secret, secret.value):
            if isinstance(held, dict):
                continue
            nested = [held, {"deep": (held,)}]
            shown = [
                repr(held),
                str(held),
                format(held),
                f"{held!a}",
                f"{held}",
                repr(nested),
                pretty_repr(nested),
            ]
            assert not [text for text in shown if PLANTED in text]
        assert secret.id in repr(secret)

    def test_it_refuses_to_be_pickled_and_a_copy_is_itself(self, kind):
        secret = decoded(kind)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps({"deep": [secret]}, protocol)
        assert copy.copy(secret) is secret
        assert copy.deepcopy({"deep": secret})["deep"] is secret

    def test_the_two_deliberate_ways_out_work(self, kind):
        secret = decoded(kind, keep_refresh_fields=True)
        value = secret.value if isinstance(secret.value, dict) else msgspec.structs.asdict(secret.value)
        assert (PLANTED in str(value)) == (kind != "OA1_TWO_LEGGED")
        as_sent = {name: part for name, part in VALUES[kind][1].items() if part is not None}
        assert json.loads(msgspec.json.encode(secret))["value"] == as_sent

    def test_without_its_credential_it_does_not_decode(self, kind):
        required = {"SIMPLE": "passphrase", "API_KEY": "key", "MIXED": "payload"}.get(kind, "accessToken")
        if kind in ("FUTURE_TYPE", "OA1_TWO_LEGGED", "OA1_THREE_LEGGED"):
            return
        body = wire(kind)
        for broken in (None, 5, ["x"]):
            body["value"] = {**body["value"], required: broken}
            with pytest.raises(ProtocolError):
                decode_secret(json.dumps(body).encode())
        del body["value"][required]
        with pytest.raises(ProtocolError):
            decode_secret(json.dumps(body).encode())


class TestExpiry:
    @pytest.mark.parametrize(
        "kind", ["OA2_AUTHORIZATION_CODE", "SESSION_AUTH", "OA1_THREE_LEGGED", "FUTURE_TYPE"]
    )
    @pytest.mark.parametrize(
        ("expires", "meant"),
        [
            ("2026-11-23T17:31:07+00:00", datetime(2026, 11, 23, 17, 31, 7, tzinfo=UTC)),
            ("33658-09-27T01:46:40+00:00", FAR_FUTURE),
            (None, None),
            ("soon", None),
            (5, None),
            ({"odd": 1}, None),
        ],
    )
    def test_an_odd_expiry_never_fails_a_decode(self, kind, expires, meant):
        assert decoded(kind, expires=expires).expires_at == meant

    def test_two_legged_oauth_has_its_own_word_for_it(self):
        assert decoded("OA1_TWO_LEGGED").expires_at == datetime(2026, 11, 23, 17, 24, 11, tzinfo=UTC)

    @pytest.mark.parametrize("kind", ["SIMPLE", "API_KEY", "MIXED"])
    def test_other_types_do_not_expire(self, kind):
        assert decoded(kind).expires_at is None


def planted(strategy):
    return st.builds(lambda text: f"{PLANTED}{text}", strategy)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | planted(st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["_id", "type", "value", "owners", "name", "key", "accessToken", "_extra"])
        | planted(st.text(max_size=5)),
        inner | st.sampled_from(KINDS),
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


class TestHostileInput:
    @given(anything)
    def test_arbitrary_json_is_a_secret_or_a_protocol_error(self, exposed, data):
        """And the error shows nothing of it, not even to an error tracker that captures locals."""
        refused = refusal(json.dumps(data).encode())
        if refused is not None:
            assert PLANTED not in exposed(refused)

    @pytest.mark.parametrize("kind", KINDS)
    @given(data=st.data())
    def test_one_wrong_field_never_shows_the_others(self, exposed, kind, data):
        body = wire(kind)
        place = data.draw(st.sampled_from([body, body["value"]]))
        place[data.draw(st.sampled_from(list(place)))] = data.draw(anything)
        refused = refusal(json.dumps(body).encode())
        if refused is not None:
            assert PLANTED not in exposed(refused)

    @given(
        st.binary()
        | st.binary().map(lambda junk: b'{"_id":"5ecr3t","type":"API_KEY","value":{"key":"5ecr3t' + junk)
    )
    def test_arbitrary_bytes_are_a_protocol_error(self, exposed, data):
        refused = refusal(data)
        if refused is not None:
            assert PLANTED not in exposed(refused)

    def test_bottomless_nesting_is_a_protocol_error(self):
        with pytest.raises(ProtocolError):
            decode_secret(b'{"_id":"i","type":"NEW","value":' + b"[" * 100_000)


def refusal(data):
    try:
        decode_secret(data)
    except ProtocolError as error:
        return error
    return None
