"""Sealing: authenticated encryption of credentials and user tokens, each bound to its user and secret.

AES-256-GCM. Every run has its own subkey for each of the two (HKDF-SHA256), every record a random 96-bit
nonce.
The associated data names the place of the record, so that a record moved to another user, secret, store or
upstream does not open. Lengths are rounded up in steps. An older record that is put back in its own place
does open; ``manifests.py`` detects that. Nothing here knows where records are kept.

Plaintext and keys live in :class:`~flowmate_async.redaction.Redacted` structs only, and errors are raised
once those are gone: error trackers print the locals of every frame.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flowmate_async.errors import StoreError
from flowmate_async.redaction import Redacted
from flowmate_async.stores.base import RecordKey
from flowmate_async.stores.encoding import Plaintext, encode_secret, encode_token, secret_of, token_of
from flowmate_async.stores.keys import StoreKey
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret

SEAL_FORMAT = "flowmate_async seal 1"
NONCE_BYTES = 12

_MAC_BYTES = 32
_SMALLEST_STEP = 256
_STEPS_OF_A_POWER = 3
_SUBKEYS_KEPT = 1024
_CREDENTIAL, _TOKEN = "seal", "seal a user's token"
"""The purpose of a run's subkeys."""


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """A sealed credential; opaque, and safe to write anywhere.

    Attributes:
        run_id: the run under whose subkey it is sealed.
        data: nonce, ciphertext and tag.
        fingerprint: equal for the same credential of the same user and secret in any run.
    """

    run_id: str
    data: bytes
    fingerprint: bytes


class Subkey(Redacted, frozen=True):
    """A derived key, which never prints."""

    material: bytes


class Sealing:
    """Authenticated encryption for one store of one upstream.

    Args:
        key: the store's key.
        store_id: the store's random id.
        origin: the upstream's base URL.
        previous: the store's previous key, which still opens what is sealed with it.
    """

    def __init__(
        self, key: StoreKey, *, store_id: str, origin: str, previous: StoreKey | None = None
    ) -> None:
        self.key_id: str = key.key_id
        self._key = key
        self._store_id = store_id
        self._before = None if previous is None else Sealing(previous, store_id=store_id, origin=origin)
        self._store = length_prefixed(SEAL_FORMAT, key.key_id, store_id, origin)
        self._fingerprints = HMAC(subkey(key, "fingerprint", store_id).material, SHA256())
        self._manifests = subkey(key, "manifest", store_id, origin)
        self._cipher = lru_cache(maxsize=_SUBKEYS_KEPT)(self._cipher_of_run)

    def seal_unless_same(
        self, username: str, secret: Secret, *, run_id: str, stored: Sealed | None
    ) -> Sealed | None:
        """Seal one credential; ``None`` if it is stored already and can be decrypted; see :meth:`changed`."""
        before = {} if stored is None else {(username, secret.id): stored}
        changed = self.changed(username, (secret,), run_id=run_id, stored=before)
        return next((sealed for _, sealed in changed), None)

    def changed(
        self,
        username: str,
        secrets: Iterable[Secret],
        *,
        run_id: str,
        stored: Mapping[RecordKey, Sealed],
    ) -> Iterator[tuple[Secret, Sealed]]:
        """Seal those of a user's credentials that differ from the stored ones.

        Args:
            username: whose credentials they are.
            secrets: the credentials.
            run_id: the run to seal under.
            stored: the stored records, by username and secret id; a damaged record counts as different, so it
                heals.

        Raises:
            StoreError: a credential cannot be encoded.
        """
        user, run, encrypt = _prefixed(username), _prefixed(run_id), self._cipher(_CREDENTIAL, run_id).encrypt
        for secret in secrets:
            plaintext = encode_secret(username, secret)
            place = user + _prefixed(secret.id)
            hmac_of = self._fingerprints.copy()  # faster than hmac.digest(), which prepares the key anew
            hmac_of.update(place + plaintext.data)
            fingerprint = hmac_of.finalize()
            before = stored.get((username, secret.id))
            sealed = None
            if before is None or not self._is_same(before, fingerprint, place):
                nonce = os.urandom(NONCE_BYTES)
                data = nonce + encrypt(nonce, padded(plaintext).data, self._store + place + run)
                sealed = Sealed(run_id, data, fingerprint)
            del plaintext  # the next one may raise
            if sealed is not None:
                yield secret, sealed

    def open(self, username: str, secret_id: str, sealed: Sealed) -> Secret:
        """Open one credential.

        Raises:
            StoreError: it was damaged, moved or tampered with.
        """
        secret = self.opened(username, secret_id, sealed)
        if secret is None:
            raise StoreError(
                "the stored credential does not open: it was damaged, moved or tampered with",
                advice="Sync this user again, which replaces it; if many do not open, restore a backup",
                username=username,
                secret_id=secret_id,
            )
        return secret

    def opened(self, username: str, secret_id: str, sealed: Sealed) -> Secret | None:
        """Return the credential; ``None`` if it cannot be decrypted."""
        plaintext = self._opened(username, secret_id, sealed)
        if plaintext is None and self._before is not None:
            return self._before.opened(username, secret_id, sealed)
        return None if plaintext is None else secret_of(plaintext)

    def resealed(self, username: str, secret_id: str, sealed: Sealed) -> Sealed | None:
        """Return the credential sealed with the store's new key; ``None`` if it already is.

        Raises:
            StoreError: it was damaged, moved or tampered with.
        """
        if self._opened(username, secret_id, sealed) is not None:
            return None
        secret = self.open(username, secret_id, sealed)
        return self.seal_unless_same(username, secret, run_id=sealed.run_id, stored=None)

    def seal_token(self, username: str, kept: KeptToken, *, run_id: str) -> bytes:
        """Seal a user's token.

        Args:
            username: the user.
            kept: the token.
            run_id: the run to seal under.

        Raises:
            StoreError: it cannot be encoded.
        """
        return self._encrypted(encode_token(username, kept), _TOKEN, run_id, length_prefixed(username))

    def opened_token(self, username: str, run_id: str, data: bytes) -> KeptToken | None:
        """Return a user's token; ``None`` if it cannot be decrypted."""
        plaintext = self._decrypted(data, _TOKEN, run_id, length_prefixed(username))
        if plaintext is None and self._before is not None:
            return self._before.opened_token(username, run_id, data)
        return None if plaintext is None else token_of(plaintext)

    def resealed_token(self, username: str, run_id: str, data: bytes) -> bytes | None:
        """Return a token sealed with the store's new key; ``None`` if it already is or does not decrypt."""
        if self._decrypted(data, _TOKEN, run_id, length_prefixed(username)) is not None:
            return None
        kept = self.opened_token(username, run_id, data)
        return None if kept is None else self.seal_token(username, kept, run_id=run_id)

    def mac(self, username: str, counter: int, entries: bytes) -> bytes:
        """Return the MAC of a user's manifest (``manifests.py``): keyed BLAKE2b is faster than HMAC."""
        text = length_prefixed(username) + counter.to_bytes(8, "big") + entries
        return hashlib.blake2b(text, key=self._manifests.material, digest_size=_MAC_BYTES).digest()

    def has_made(self, mac: bytes, username: str, counter: int, entries: bytes) -> bool:
        """Return whether this is the MAC of a manifest, with the store's current or previous key."""
        if hmac.compare_digest(mac, self.mac(username, counter, entries)):
            return True
        return self._before is not None and self._before.has_made(mac, username, counter, entries)

    def _is_same(self, stored: Sealed, fingerprint: bytes, place: bytes) -> bool:
        equal = hmac.compare_digest(stored.fingerprint, fingerprint)
        return equal and self._decrypted(stored.data, _CREDENTIAL, stored.run_id, place) is not None

    def _opened(self, username: str, secret_id: str, sealed: Sealed) -> Plaintext | None:
        place = length_prefixed(username, secret_id)
        return self._decrypted(sealed.data, _CREDENTIAL, sealed.run_id, place)

    def _encrypted(self, plaintext: Plaintext, purpose: str, run_id: str, place: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        bound = self._bound(place, run_id)
        return nonce + self._cipher(purpose, run_id).encrypt(nonce, padded(plaintext).data, bound)

    def _decrypted(self, data: bytes, purpose: str, run_id: str, place: bytes) -> Plaintext | None:
        nonce, ciphertext = data[:NONCE_BYTES], data[NONCE_BYTES:]
        bound = self._bound(place, run_id)
        try:
            return Plaintext(self._cipher(purpose, run_id).decrypt(nonce, ciphertext, bound))
        except (InvalidTag, ValueError):  # ValueError: cut so short that not even a nonce is left
            return None

    def _bound(self, place: bytes, run_id: str) -> bytes:
        """Return the associated data of a record: its store, its place there, and the run."""
        return self._store + place + _prefixed(run_id)

    def _cipher_of_run(self, purpose: str, run_id: str) -> AESGCM:
        return AESGCM(subkey(self._key, purpose, self._store_id, run_id).material)


def padded(plaintext: Plaintext) -> Plaintext:
    """Return JSON padded with blanks, so that its length reveals little about the credential's.

    Lengths are rounded up to 256 bytes, and long ones to an eighth of the power of two below them.
    """
    length = len(plaintext.data)
    step = _SMALLEST_STEP
    if length > step << _STEPS_OF_A_POWER:
        step = max(step, 1 << (length.bit_length() - 1 - _STEPS_OF_A_POWER))
    return Plaintext(plaintext.data.ljust(-(-length // step) * step))


def key_check(key: StoreKey, *, store_id: str, checked: str = "") -> bytes:
    """Return a record that only this key makes for this store, to detect a wrong key before opening anything.

    Args:
        key: the key.
        store_id: the store's random id.
        checked: what else the record covers, such as the store's format, so that it cannot be set back.
    """
    return hmac.digest(subkey(key, "key check", store_id).material, checked.encode(), "sha256")


def sealed_key(key: StoreKey, other: StoreKey, *, store_id: str) -> bytes:
    """Return a key sealed with another key, for a key change."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + _key_cipher(key, store_id).encrypt(nonce, other.material, store_id.encode())


def opened_key(key: StoreKey, sealed: bytes | None, *, store_id: str) -> StoreKey | None:
    """Return the previous key from its sealed form, if there is one.

    Raises:
        StoreError: it was damaged or tampered with.
    """
    if sealed is None:
        return None
    try:
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        return StoreKey(_key_cipher(key, store_id).decrypt(nonce, ciphertext, store_id.encode()))
    except (InvalidTag, ValueError):
        pass
    raise StoreError("the store's record of its previous key was tampered with", advice="Restore a backup")


def _key_cipher(key: StoreKey, store_id: str) -> AESGCM:
    return AESGCM(subkey(key, "previous key", store_id).material)


def subkey(key: StoreKey, purpose: str, *context: str) -> Subkey:
    """Derive a key for one purpose in one context; it reveals neither the store's key nor another one."""
    info = length_prefixed("flowmate_async", purpose, *context)
    return Subkey(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key.material))


def length_prefixed(*texts: str) -> bytes:
    """Join texts with length prefixes, so that no two lists give the same bytes."""
    return b"".join(map(_prefixed, texts))


def _prefixed(text: str) -> bytes:
    part = text.encode("utf-8", "surrogatepass")
    return len(part).to_bytes(4, "big") + part
