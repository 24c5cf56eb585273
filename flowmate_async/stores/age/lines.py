"""The lines of a jsonl+age store, and how a credential's line is authenticated.

Anyone who knows a public key can encrypt for it. So each credential's line has a fingerprint under a subkey,
bound to store, upstream, user and secret. Pure values; nothing here reads or writes.
"""

import hmac
from typing import ClassVar

import msgspec

from flowmate_async.errors import StoreError
from flowmate_async.health.records import HealthRecord, Notice
from flowmate_async.redaction import Redacted
from flowmate_async.stores.base import Checkpoint, Run, StoredItem
from flowmate_async.stores.encoding import Plaintext, encode_secret, secret_of
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealed.sealing import length_prefixed, subkey
from flowmate_async.values.secrets import Secret


class StoreLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="store"):
    """The store's header; ``through`` is the last segment that the file already contains."""

    format: int
    store_id: str
    key_check: str
    origin: str | None = None
    through: int = 0


class RunLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="run"):
    """The current state of a run."""

    run: Run


class CheckpointLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="checkpoint"):
    """How one user of a run ended."""

    run_id: str
    checkpoint: Checkpoint


class SecretLine(Redacted, frozen=True, kw_only=True, tag_field="kind", tag="secret"):
    """A credential in upstream's form, and the metadata that is safe to show."""

    username: str
    secret_id: str
    type: str
    expires_at: str | None
    stored_at: float
    fingerprint: str
    secret: msgspec.Raw
    missing_run: str | None = None
    removed_at: float | None = None

    __shown__: ClassVar[tuple[str, ...]] = ("username", "secret_id", "type")


class NoteLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="note"):
    """What was learned about a credential after it was written."""

    username: str
    secret_id: str
    missing_run: str | None = None
    removed_at: float | None = None


class GoneLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="gone"):
    """A credential that was deleted."""

    username: str
    secret_id: str


class HealthLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="health"):
    """A credential's health record; ``None`` when it was dropped."""

    username: str
    secret_id: str
    record: HealthRecord | None


class NoticeLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="notice"):
    """A notice waiting in the outbox."""

    notice: Notice


class DeliveredLine(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="delivered"):
    """Notices that have left the outbox."""

    ids: tuple[str, ...]


Line = (
    StoreLine
    | RunLine
    | CheckpointLine
    | SecretLine
    | NoteLine
    | GoneLine
    | HealthLine
    | NoticeLine
    | DeliveredLine
)

_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode_line(line: Line) -> bytes:
    """Encode a line."""
    return msgspec.json.encode(line)


def decode_line(data: bytes) -> Line:
    """Decode a line.

    Raises:
        StoreError: it is none.
    """
    text = msgspec.Raw(data)  # bytes would show among the locals of this frame
    del data
    try:
        return _decoder.decode(text)
    except msgspec.MsgspecError:
        pass
    raise StoreError("the store has a line that this version cannot read", advice="Upgrade flowmate-async")


class Fingerprints:
    """Makes and authenticates credential lines, for one store of one upstream."""

    def __init__(self, key: StoreKey, *, store_id: str, origin: str) -> None:
        self._subkey = subkey(key, "jsonl+age fingerprint", store_id, origin)

    def line_of(self, username: str, secret: Secret, *, at: float) -> SecretLine:
        """Return the line of a credential.

        Raises:
            StoreError: it cannot be encoded.
        """
        plaintext = encode_secret(username, secret)
        moment = secret.expires_at
        return SecretLine(
            username=username,
            secret_id=secret.id,
            type=secret.kind,
            expires_at=None if moment is None else moment.isoformat(),
            stored_at=at,
            fingerprint=self._fingerprint(username, secret.id, plaintext),
            secret=msgspec.Raw(plaintext.data),
        )

    def fingerprinted(self, line: SecretLine) -> SecretLine:
        """Return the same credential's line, authenticated for this store."""
        plaintext = Plaintext(bytes(line.secret))
        fingerprint = self._fingerprint(line.username, line.secret_id, plaintext)
        return msgspec.structs.replace(line, fingerprint=fingerprint)

    def opened(self, line: SecretLine) -> Secret | None:
        """Return the credential in a line; ``None`` when the line was forged or changed."""
        plaintext = Plaintext(bytes(line.secret))
        genuine = self._fingerprint(line.username, line.secret_id, plaintext)
        if not hmac.compare_digest(genuine, line.fingerprint):
            return None
        return secret_of(plaintext)

    def _fingerprint(self, username: str, secret_id: str, plaintext: Plaintext) -> str:
        place = length_prefixed(username, secret_id)
        return hmac.digest(self._subkey.material, place + plaintext.data, "sha256").hex()


def fingerprints_of(store: StoreLine, key: StoreKey) -> Fingerprints:
    """Return the object that makes and authenticates the credential lines of a store."""
    return Fingerprints(key, store_id=store.store_id, origin=store.origin or "")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The index entry of a stored credential; ``file`` is the segment it is in, 0 for the base."""

    type: str
    expires_at: str | None
    stored_at: float
    fingerprint: str
    file: int
    missing_run: str | None = None
    removed_at: float | None = None

    def item(self, username: str, secret_id: str) -> StoredItem:
        """Return the metadata that may be shown."""
        return StoredItem(
            username=username,
            secret_id=secret_id,
            type=self.type,
            expires_at=self.expires_at,
            stored_at=self.stored_at,
            removed_at=self.removed_at,
        )


def entry_of(line: SecretLine, file: int) -> Entry:
    """Return the index entry for a line."""
    return Entry(
        type=line.type,
        expires_at=line.expires_at,
        stored_at=line.stored_at,
        fingerprint=line.fingerprint,
        file=file,
        missing_run=line.missing_run,
        removed_at=line.removed_at,
    )
