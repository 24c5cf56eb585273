"""Signed messages by the Standard Webhooks specification (version 1, symmetric signatures).

Pure: what to send and how to check it. Nothing here sends, and the time comes in as an argument. The
specification is at https://www.standardwebhooks.com; its test vector is in tests/health/test_webhook.py,
which also checks against the published library when that is installed.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from flowmate_async.errors import ConfigurationError
from flowmate_async.health.records import Notice
from flowmate_async.redaction import Redacted, one_line

PREFIX = "whsec_"
TOLERANCE_SECONDS = 300.0
_SHORTEST_KEY = 24
"""The specification asks for keys of 24 to 64 bytes."""


class SigningKey(Redacted, frozen=True):
    """The key of one receiver, shared with it.

    Attributes:
        key: the key's bytes.
    """

    key: bytes

    @classmethod
    def parse(cls, text: str) -> "SigningKey":
        """Return the key of ``whsec_`` and base64.

        Args:
            text: the key as it was configured.

        Raises:
            ConfigurationError: it is not one, or shorter than 24 bytes.
        """
        key = cls._decoded(text)
        del text  # or an error's frames would show it
        if key is None:
            raise ConfigurationError(
                "the webhook's key is not a key",
                advice=f"Use {PREFIX} and at least {_SHORTEST_KEY} random bytes in base64, as made by: "
                f"echo whsec_$(openssl rand -base64 32)",
            )
        return key

    @classmethod
    def _decoded(cls, text: str) -> "SigningKey | None":
        if not isinstance(text, str):
            return None
        stripped = text.strip().removeprefix(PREFIX)
        try:
            key = base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)
        except (binascii.Error, ValueError):
            return None
        return cls(key) if len(key) >= _SHORTEST_KEY else None


class Message(msgspec.Struct, frozen=True):
    """A message to send.

    Attributes:
        id: the same for every attempt, so that the receiver can ignore duplicates.
        body: JSON.
    """

    id: str
    body: bytes


def signature(key: SigningKey, message: Message, *, timestamp: int) -> str:
    """Return the value of ``webhook-signature``.

    Args:
        key: the receiver's key.
        message: what is sent.
        timestamp: the value of ``webhook-timestamp``, in seconds since the Unix epoch.
    """
    signed = b".".join((message.id.encode(), str(timestamp).encode(), message.body))
    return "v1," + base64.b64encode(hmac.digest(key.key, signed, hashlib.sha256)).decode()


def headers(key: SigningKey, message: Message, *, now: float) -> dict[str, str]:
    """Return the headers of a request that delivers a message.

    Args:
        key: the receiver's key.
        message: what is sent.
        now: seconds since the Unix epoch.
    """
    timestamp = int(now)
    return {
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(key, message, timestamp=timestamp),
    }


def verify(key: SigningKey, received: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Return whether a request was signed with the key and is not a replay.

    Args:
        key: the receiver's key.
        received: the request's headers, their names in lower case.
        body: the request's body, as it came.
        now: seconds since the Unix epoch.
    """
    message_id, sent_at = received.get("webhook-id", ""), received.get("webhook-timestamp", "")
    if not (message_id and sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= 12):
        return False
    if abs(now - int(sent_at)) > TOLERANCE_SECONDS:
        return False
    expected = signature(key, Message(message_id, body), timestamp=int(sent_at)).encode()
    given = received.get("webhook-signature", "").encode("utf-8", "surrogateescape").split(b" ")
    return any(hmac.compare_digest(expected, one) for one in given)


def message_of(notice: Notice) -> Message:
    """Return the message about one change. Its id is the notice's."""
    return Message(notice.id, msgspec.json.encode(_payload(notice)))


def digest_of(notices: Sequence[Notice]) -> Message:
    """Return one message about several changes, in their order. Its id follows from theirs.

    Args:
        notices: at least one.
    """
    joined = hashlib.sha256("\0".join(notice.id for notice in notices).encode()).hexdigest()
    body = {
        "type": "credentials.changed",
        "timestamp": _iso(max(notice.at for notice in notices)),
        "data": {"changes": [_payload(notice) for notice in notices]},
    }
    return Message(f"msg_{joined[:32]}", msgspec.json.encode(body))


def _payload(notice: Notice) -> dict[str, object]:
    credential, health = notice.credential, notice.health
    return {
        "type": notice.type,
        "timestamp": _iso(notice.at),
        "data": {
            "id": notice.id,
            "username": credential.username,
            "secret_id": credential.secret_id,
            "secret_type": one_line(credential.type),
            "auth_client_id": None
            if credential.auth_client_id is None
            else one_line(credential.auth_client_id),
            "health": health.state.value,
            "reason": health.reason.value,
            "since": _iso(health.since) if health.since else None,
            "action": health.action,
        },
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
