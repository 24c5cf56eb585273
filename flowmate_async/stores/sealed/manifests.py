"""Manifests: which rows of a user are the newest, to detect older rows that were put back.

A user's manifest holds the digest of each of the user's rows and a counter that grows with every change; a
MAC under
a subkey of the store's key authenticates it. A row's digest covers its type, expiry, run, time, mark of
removal and sealed credential. Rows and manifests change in the same transaction. A manifest cannot detect
that all of a user's rows and the manifest, or the whole store, were put back together. Nothing here
knows where rows are.
"""

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from flowmate_async.stores.base import RecordKey
from flowmate_async.stores.sealed.sealing import Sealed, Sealing
from flowmate_async.stores.sealed.secrets import SecretRow

_DIGEST_BYTES = 16
_TAG = slice(-16, None)

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decoder = msgspec.msgpack.Decoder(dict[str, bytes])


class ManifestRow(msgspec.Struct, frozen=True, gc=False):
    """A stored manifest; its fields are the columns, in their order.

    Attributes:
        username: the user.
        counter: grows with every change.
        entries: the digests by secret id, encoded.
        mac: authenticates all of it.
    """

    username: str
    counter: int
    entries: bytes
    mac: bytes


class StoredRow(msgspec.Struct, frozen=True, gc=False):
    """A stored, sealed credential and its user's manifest; the fields are the columns."""

    username: str
    secret_id: str
    run_id: str
    data: bytes
    fingerprint: bytes
    type: str
    expires_at: str | None
    stored_at: float
    removed_at: float | None
    counter: int | None = None
    entries: bytes | None = None
    mac: bytes | None = None

    @property
    def sealed(self) -> Sealed:
        """The sealed credential."""
        return Sealed(self.run_id, self.data, self.fingerprint)

    @property
    def manifest(self) -> ManifestRow | None:
        """The user's manifest, if there is one."""
        if self.counter is None or self.entries is None or self.mac is None:
            return None
        return ManifestRow(self.username, self.counter, self.entries, self.mac)

    @property
    def digest(self) -> bytes:
        """The digest that a manifest holds for this row; empty when a column has another type."""
        try:
            return digest_of(
                self.type, self.expires_at, self.run_id, self.stored_at, self.data, removed_at=self.removed_at
            )
        except (TypeError, ValueError):
            return b""


class Manifest(msgspec.Struct, frozen=True):
    """An authenticated manifest; empty when it is missing or was tampered with."""

    counter: int = 0
    entries: Mapping[str, bytes] = {}


_NONE = Manifest()


def digest_of(
    type_: str,
    expires_at: str | None,
    run_id: str,
    stored_at: float,
    data: bytes,
    *,
    removed_at: float | None = None,
) -> bytes:
    """Return the digest of a row. It covers the sealed credential's tag, which only the key can make."""
    facts = _encode((type_, expires_at, run_id, float(stored_at), removed_at))
    return hashlib.blake2b(facts + data[_TAG], digest_size=_DIGEST_BYTES).digest()


def opened_manifest(sealing: Sealing, row: ManifestRow | None) -> Manifest:
    """Authenticate a manifest."""
    if row is None or not _is_genuine(sealing, row):
        return _NONE
    return Manifest(row.counter, _decoder.decode(row.entries))


def _is_genuine(sealing: Sealing, row: ManifestRow) -> bool:
    try:
        return sealing.has_made(row.mac, row.username, row.counter, row.entries)
    except (
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
    ):  # columns of other types, numbers out of range
        return False


class Changes:
    """The manifests of some users while their rows are changed, within one transaction."""

    def __init__(self, sealing: Sealing, rows: Iterable[ManifestRow]) -> None:
        self._sealing = sealing
        self._before = {row.username: opened_manifest(sealing, row) for row in rows}
        self._digests: dict[str, dict[str, bytes | None]] = {}

    def is_current(self, row: StoredRow) -> bool:
        """Return whether a row is the newest for its credential."""
        manifest = self._before.get(row.username, _NONE)
        return manifest.entries.get(row.secret_id) == row.digest

    def current(self, rows: Iterable[StoredRow]) -> dict[RecordKey, Sealed]:
        """Return those of these rows that are the newest for their credentials."""
        return {(row.username, row.secret_id): row.sealed for row in rows if self.is_current(row)}

    def put(self, rows: Iterable[SecretRow]) -> None:
        """Note that these rows were written."""
        for row in rows:
            digest = digest_of(row.type, row.expires_at, row.run_id, row.stored_at, row.sealed)
            self._note(row.username, row.secret_id, digest)

    def marked(self, row: StoredRow, removed_at: float | None) -> None:
        """Note that a row gains or loses its mark of removal."""
        # This must not make an older row that was put back pass for the newest.
        if row.removed_at != removed_at and self.is_current(row):
            new = msgspec.structs.replace(row, removed_at=removed_at)
            self._note(row.username, row.secret_id, new.digest)

    def resealed(self, row: StoredRow, sealed: Sealed) -> None:
        """Note that a row was re-encrypted with another key."""
        if self.is_current(row):
            new = msgspec.structs.replace(row, data=sealed.data)
            self._note(row.username, row.secret_id, new.digest)

    def deleted(self, row: StoredRow) -> None:
        """Note that a row was deleted."""
        self._note(row.username, row.secret_id, None)

    def rows(self) -> list[ManifestRow]:
        """Return the manifests that have changed, by username."""
        return [self._renewed(name, digests) for name, digests in sorted(self._digests.items())]

    def _note(self, username: str, secret_id: str, digest: bytes | None) -> None:
        self._digests.setdefault(username, {})[secret_id] = digest

    def _renewed(self, username: str, digests: Mapping[str, bytes | None]) -> ManifestRow:
        before = self._before.get(username, _NONE)
        both = {**before.entries, **digests}
        entries = {one: digest for one, digest in both.items() if digest is not None}
        return manifest_row(self._sealing, username, Manifest(before.counter + 1, entries))


def manifest_row(sealing: Sealing, username: str, manifest: Manifest) -> ManifestRow:
    """Return a manifest in its stored form."""
    entries = _encode(manifest.entries)
    mac = sealing.mac(username, manifest.counter, entries)
    return ManifestRow(username, manifest.counter, entries, mac)
