"""Names of keys in Redis, and the encryption of messages there.

Every name is an HMAC under a subkey of the application's key, so that reading Redis reveals no username, and
applications, tenants and upstreams never share a name. Only the name of the process list does not depend on
the key, so that processes with different keys notice each other.
"""

import hashlib
import hmac
import os
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flowmate_async.redaction import Redacted
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.stores.keys import StoreKey
from flowmate_async.values.secrets import Secret, presented

_NONCE_BYTES = 12
_NAME_BYTES = 16
_SENDER_BYTES = 8
_CIPHERS_KEPT = 1024


class _Subkey(Redacted, frozen=True):
    material: bytes


class Keyspace:
    """The names of one upstream's keys in Redis, and the encryption of short messages about them.

    A message is sealed with AES-256-GCM under a subkey of the process that sealed it, so that random nonces
    suffice for any number of messages.

    Args:
        key: the application's key.
        namespace: separates applications that share key and Redis.
        base_url: FlowMate's.

    Attributes:
        prefix: the prefix of all names.
        processes: the name of the list of processes.
    """

    def __init__(self, key: StoreKey, *, namespace: str, base_url: str) -> None:
        self._place = msgspec.json.encode([namespace, base_url])
        self._key = key
        self._names = _subkey(key, "redis names")
        self._values = _subkey(key, "redis presented values")
        self._sender = os.urandom(_SENDER_BYTES)
        self._cipher = lru_cache(maxsize=_CIPHERS_KEPT)(self._cipher_of)
        # The braces keep all of one upstream's keys in one slot of a Redis cluster.
        here = f"flowmate:{{{hashlib.sha256(self._place).digest()[:_NAME_BYTES].hex()}}}"
        self.processes: str = f"{here}:processes"
        self.prefix: str = f"{here}:{self._hashed(b'upstream')}"

    def of(self, kind: str, *parts: str) -> str:
        """Return the name of a key.

        Args:
            kind: its kind, in plaintext.
            parts: what identifies it, hashed.
        """
        if not parts:
            return f"{self.prefix}:{kind}"
        return f"{self.prefix}:{kind}:{self._hashed(msgspec.json.encode(parts))}"

    def fingerprint(self, username: str, secret_id: str, secret: Secret) -> bytes:
        """Return 32 bytes, equal for credentials that an app cannot tell apart; useless without the key."""
        shown = msgspec.json.encode([username, secret_id, presented(secret)])
        return hmac.digest(self._values.material, self._place + shown, "sha256")

    def seal(self, message: Plaintext, *, kind: str) -> bytes:
        """Encrypt a message.

        Args:
            message: the message.
            kind: its kind and subject; it cannot be opened as any other.
        """
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher(self._sender).encrypt(nonce, message.data, self._place + kind.encode())
        return self._sender + nonce + sealed

    def open(self, sealed: bytes, *, kind: str) -> Plaintext | None:
        """Decrypt a message. Return ``None`` unless :meth:`seal` made it with the same kind."""
        sender, rest = sealed[:_SENDER_BYTES], sealed[_SENDER_BYTES:]
        try:
            return Plaintext(
                self._cipher(sender).decrypt(
                    rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], self._place + kind.encode()
                )
            )
        except (InvalidTag, ValueError):
            return None

    def _cipher_of(self, sender: bytes) -> AESGCM:
        return AESGCM(_subkey(self._key, "redis messages", sender).material)

    def _hashed(self, what: bytes) -> str:
        return hmac.digest(self._names.material, self._place + what, "sha256")[:_NAME_BYTES].hex()


def _subkey(key: StoreKey, purpose: str, of: bytes = b"") -> _Subkey:
    info = f"flowmate_async {purpose}".encode() + of
    return _Subkey(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key.material))
