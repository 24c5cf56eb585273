"""Signed messages: the specification's vector, the published library, and what a receiver must refuse."""

import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from flowmate_async.errors import ConfigurationError
from flowmate_async.health import Credential, Health, HealthState, Notice, Reason
from flowmate_async.health.webhook import (
    Message,
    SigningKey,
    digest_of,
    headers,
    message_of,
    signature,
    verify,
)

TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = SigningKey.parse(TEXT)
NOTICE = Notice(
    id="msg_1",
    type="credential.broken",
    at=1_790_000_000.0,
    credential=Credential(username="abc", secret_id="a" * 24, type="API_KEY"),
    health=Health(HealthState.BROKEN, Reason.REJECTED, 1_789_000_000.0),
)


def test_the_vector_of_the_specification():
    message = Message("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(KEY, message, timestamp=1614265330) == expected


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.binary())
def test_what_was_signed_is_verified_and_nothing_else(message_id, body):
    sent = headers(KEY, Message(message_id, body), now=1000.5)
    assert verify(KEY, sent, body, now=1000.0)
    assert not verify(KEY, sent, body + b" ", now=1000.0)
    assert not verify(KEY, {**sent, "webhook-id": message_id + "x"}, body, now=1000.0)
    assert not verify(SigningKey(b"x" * 32), sent, body, now=1000.0)
    assert not verify(KEY, sent, body, now=1000.0 + 301)
    assert not verify(KEY, sent, body, now=1000.0 - 301)
    assert verify(KEY, {**sent, "webhook-signature": "v1,old " + sent["webhook-signature"]}, body, now=1000.0)


@pytest.mark.parametrize("bad", ["", "garbage", "v1,x", "v1,", "v2,AAAA", "v1a,é"])
def test_a_malformed_signature_is_refused_without_an_exception(bad):
    sent = headers(KEY, Message("msg_1", b"{}"), now=1000.0)
    assert not verify(KEY, {**sent, "webhook-signature": bad}, b"{}", now=1000.0)
    assert not verify(KEY, {**sent, "webhook-timestamp": bad}, b"{}", now=1000.0)


@pytest.mark.parametrize("bad", ["", "whsec_", "whsec_c2hvcnQ=", "not base64!", "whsec_" + "é" * 40])
def test_what_is_not_a_key_is_refused_without_showing_it(bad):
    with pytest.raises(ConfigurationError) as caught:
        SigningKey.parse(bad)
    assert "c2hvcnQ" not in str(caught.value)
    assert "MfKQ" not in repr(KEY)


def test_the_published_library_agrees():
    webhooks = pytest.importorskip("standardwebhooks.webhooks")
    theirs, now = webhooks.Webhook(TEXT), time.time()
    message = message_of(NOTICE)
    sent = headers(KEY, message, now=now)
    assert theirs.verify(message.body, sent)["data"]["health"] == "broken"
    signed = theirs.sign("msg_2", datetime.fromtimestamp(now, UTC), "{}")
    received = {"webhook-id": "msg_2", "webhook-timestamp": str(int(now)), "webhook-signature": signed}
    assert verify(KEY, received, b"{}", now=now)


def test_a_message_says_who_what_since_when_and_what_to_do():
    message = message_of(NOTICE)
    assert message.id == "msg_1"
    assert json.loads(message.body) == {
        "type": "credential.broken",
        "timestamp": "2026-09-21T14:13:20Z",
        "data": {
            "id": "msg_1",
            "username": "abc",
            "secret_id": "a" * 24,
            "secret_type": "API_KEY",
            "auth_client_id": None,
            "health": "broken",
            "reason": "rejected",
            "since": "2026-09-10T00:26:40Z",
            "action": "Ask the user to reconnect, or to enter the new password or key.",
        },
    }


def test_a_digest_is_one_message_with_a_stable_id():
    message = digest_of([NOTICE, NOTICE])
    assert message == digest_of([NOTICE, NOTICE])
    assert len(json.loads(message.body)["data"]["changes"]) == 2


@pytest.mark.parametrize("seconds", [-300.0, 300.0])
def test_a_message_is_accepted_for_exactly_five_minutes(seconds):
    sent = headers(KEY, Message("msg_1", b"{}"), now=1000.0)
    assert verify(KEY, sent, b"{}", now=1000.0 + seconds)


def test_a_digest_is_dated_by_its_newest_change():
    older = structs.replace(NOTICE, id="msg_0", at=NOTICE.at - 3600)
    for notices in ([older, NOTICE], [NOTICE, older]):
        assert json.loads(digest_of(notices).body)["timestamp"] == "2026-09-21T14:13:20Z"
