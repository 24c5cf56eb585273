"""What things are called in Redis, and how what must not be read there is sealed.

Every name is an HMAC under a subkey of the application's key, so that nobody who reads Redis learns a
username, and two applications, tenants or upstreams never meet under one name.
"""

import hmac
import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flowmate_async.redaction import Redacted
from flowmate_async.secrets import Secret, presented
from flowmate_async.stores.keys import StoreKey

_NONCE_BYTES = 12
_NAME_BYTES = 16


class _Subkey(Redacted, frozen=True):
    material: bytes


class Names:
    """The names of one upstream's things in Redis, and the seal of short messages about them.

    Args:
        key: the application's key.
        namespace: tells applications apart that share key and Redis.
        base_url: FlowMate's.
    """

    def __init__(self, key: StoreKey, *, namespace: str, base_url: str) -> None:
        self._place = msgspec.json.encode([namespace, base_url])
        self._names = _subkey(key, "redis names")
        self._values = _subkey(key, "redis presented values")
        self._messages = AESGCM(_subkey(key, "redis messages").material)
        # The braces keep all of one upstream's keys in one slot of a Redis cluster.
        self.prefix: str = f"flowmate:{{{self._hashed(b'upstream')}}}"

    def of(self, kind: str, *parts: str) -> str:
        """The name of a thing.

        Args:
            kind: what it is, in clear.
            parts: which one, hashed.
        """
        if not parts:
            return f"{self.prefix}:{kind}"
        return f"{self.prefix}:{kind}:{self._hashed(msgspec.json.encode(parts))}"

    def fingerprint(self, username: str, secret_id: str, secret: Secret) -> bytes:
        """The same for what an app cannot tell apart; of no use to who has not the key."""
        shown = msgspec.json.encode([username, secret_id, presented(secret)])
        return hmac.digest(self._values.material, self._place + shown, "sha256")

    def seal(self, message: bytes, *, kind: str) -> bytes:
        """Encrypt a message of that kind."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._messages.encrypt(nonce, message, self._place + kind.encode())

    def open(self, sealed: bytes, *, kind: str) -> bytes | None:
        """Decrypt a message; ``None`` when it was not sealed by :meth:`seal` as of that kind."""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._messages.decrypt(nonce, ciphertext, self._place + kind.encode())
        except (InvalidTag, ValueError):
            return None

    def _hashed(self, what: bytes) -> str:
        return hmac.digest(self._names.material, self._place + what, "sha256")[:_NAME_BYTES].hex()


def _subkey(key: StoreKey, purpose: str) -> _Subkey:
    info = f"flowmate_async {purpose}".encode()
    return _Subkey(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key.material))
