"""Encode and decode credentials and users' tokens without a trace of them in tracebacks.

Every store encodes a credential as ``msgspec.json.encode`` does, refresh fields included. The store decides
what happens to the bytes, such as sealing.
"""

import msgspec

from flowmate_async.errors import ProtocolError, StoreError
from flowmate_async.redaction import Redacted
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret, decode_secret


class Plaintext(Redacted, frozen=True):
    """An encoded credential or token, which never prints."""

    data: bytes


def encode_secret(username: str, secret: Secret) -> Plaintext:
    """Encode one credential.

    Raises:
        StoreError: it holds a value that JSON cannot represent.
    """
    try:
        return Plaintext(msgspec.json.encode(secret))
    except (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError):
        pass  # the error is raised below, where it has no context: that would hold the credential
    raise StoreError("the credential cannot be encoded as JSON", username=username, secret_id=secret.id)


def secret_of(plaintext: Plaintext) -> Secret | None:
    """Decode one credential; ``None`` when it is not valid."""
    try:
        return decode_secret(plaintext.data, keep_refresh_fields=True)
    except ProtocolError:
        return None


def encode_token(username: str, kept: KeptToken) -> Plaintext:
    """Encode a user's token.

    Raises:
        StoreError: it holds a value that JSON cannot represent.
    """
    try:
        return Plaintext(msgspec.json.encode(kept))
    except (msgspec.MsgspecError, UnicodeError):
        pass  # raised below, without a context that would hold the token
    raise StoreError("the user's token cannot be encoded as JSON", username=username)


def token_of(plaintext: Plaintext) -> KeptToken | None:
    """Decode a user's token; ``None`` when it is not valid."""
    try:
        return msgspec.json.decode(plaintext.data, type=KeptToken)
    except (msgspec.MsgspecError, UnicodeError):
        return None
