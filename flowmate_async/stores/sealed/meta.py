"""The metadata of a sealed store, and the checks on opening it.

Pure values and their checks; the store decides where they are kept. Errors name the store by ``where``, a
text fit for messages.
"""

import hmac
import os
from collections.abc import Sequence

import msgspec

from flowmate_async.errors import StoreError
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealed.manifests import Manifest, StoredRow, opened_manifest
from flowmate_async.stores.sealed.sealing import Sealing, key_check, opened_key, sealed_key
from flowmate_async.values.secrets import Secret


class Meta(msgspec.Struct, frozen=True):
    """The store's metadata.

    Attributes:
        store_id: random, made with the store.
        key_id: the public name of the key it is sealed with.
        key_check: a record that only this key can make.
        origin: the upstream it is bound to, if it is.
        previous_key_id: the public name of the previous key, while some credentials are still sealed with it.
        previous_key: the previous key, sealed with the new one.
        checked: what ``key_check`` covers besides key and store: the format, in stores that authenticate it.
    """

    store_id: str
    key_id: str
    key_check: bytes
    origin: str | None = None
    previous_key_id: str | None = None
    previous_key: bytes | None = None
    checked: str = ""


def new_meta(key: StoreKey, *, checked: str = "") -> Meta:
    """Return the metadata of a new store with this key."""
    store_id = os.urandom(16).hex()
    check = key_check(key, store_id=store_id, checked=checked)
    return Meta(store_id, key.key_id, check, checked=checked)


def upgraded_meta(meta: Meta, key: StoreKey, *, checked: str) -> Meta:
    """Return the metadata of a store upgraded to a newer format.

    Args:
        meta: the current metadata.
        key: the key it has.
        checked: see :class:`Meta`.
    """
    check = key_check(key, store_id=meta.store_id, checked=checked)
    return msgspec.structs.replace(meta, key_check=check, checked=checked)


def rekeying_meta(meta: Meta, old: StoreKey, new: StoreKey, *, where: str) -> Meta:
    """Return the metadata of a store during a key change.

    Args:
        meta: the current metadata.
        old: the current key.
        new: the new key.
        where: the store, for messages.

    Raises:
        StoreError: a change to another key is already in progress.
    """
    if new.key_id == meta.key_id:
        return meta  # begun already, and perhaps done
    if meta.previous_key_id is not None:
        raise StoreError(
            f"the store {where} is being given key {meta.key_id}, and that is not done yet",
            advice=f"Finish that first: rekey with the key {meta.key_id} as the new one",
        )
    return msgspec.structs.replace(
        meta,
        key_id=new.key_id,
        key_check=key_check(new, store_id=meta.store_id, checked=meta.checked),
        previous_key_id=old.key_id,
        previous_key=sealed_key(new, old, store_id=meta.store_id),
    )


class OpenedKeys:
    """The keys of an opened store, and the sealing derived from them and the metadata.

    Args:
        keys: the key, and optionally another key that the store may have.
        where: the store, for messages.
    """

    def __init__(self, *keys: StoreKey | None, where: str) -> None:
        self.keys: tuple[StoreKey, ...] = tuple(key for key in keys if key is not None)
        self._where = where
        self._meta: Meta | None = None
        self._sealing: Sealing | None = None
        self._columns: tuple[object, ...] = ()
        self._manifest = Manifest()

    @property
    def store_id(self) -> str:
        """The store's random id.

        Raises:
            StoreError: it is not open.
        """
        if self._meta is None:
            raise not_open(self._where)
        return self._meta.store_id

    def use(self, meta: Meta) -> None:
        """Take over the store's current metadata.

        Raises:
            StoreError: none of the keys is the store's.
        """
        if meta == self._meta:
            return
        self._columns = ()
        self._sealing = sealing_of(meta, pick_key(meta, self.keys, where=self._where))
        self._meta = meta

    def close(self) -> None:
        """Forget the metadata."""
        self._meta = self._sealing = None

    def sealing(self) -> Sealing:
        """Return the sealing.

        Raises:
            StoreError: the store is not bound to an upstream.
        """
        if self._sealing is None:
            raise not_bound(self._where)
        return self._sealing

    @property
    def checked(self) -> str:
        """What the store's key check covers; see :class:`Meta`."""
        return "" if self._meta is None else self._meta.checked

    @property
    def has_manifests(self) -> bool:
        """Whether the store's format has manifests."""
        return self._meta is not None and bool(self._meta.checked)

    def is_current(self, row: StoredRow) -> bool:
        """Return whether a row is the newest for its credential; always true for formats that cannot tell."""
        if not self.has_manifests:
            return True
        columns = (row.username, row.counter, row.entries, row.mac)
        if columns != self._columns:  # the rows of a user follow each other
            self._manifest, self._columns = opened_manifest(self.sealing(), row.manifest), columns
        return self._manifest.entries.get(row.secret_id) == row.digest

    def opened(self, row: StoredRow) -> Secret | None:
        """Return a row's credential; ``None`` if it cannot be decrypted or an older row was put back."""
        if not self.is_current(row):
            return None
        return self.sealing().opened(row.username, row.secret_id, row.sealed)

    def open(self, row: StoredRow) -> Secret:
        """Return a row's credential.

        Raises:
            StoreError: it cannot be decrypted, or an older row was put back.
        """
        secret = self.sealing().open(row.username, row.secret_id, row.sealed)
        if self.is_current(row):
            return secret
        del secret
        raise StoreError(
            "the stored credential is not what was written last: an older row, mark or time was put back",
            advice="Sync this user again, which replaces it; if there are many, restore a backup",
            username=row.username,
            secret_id=row.secret_id,
        )


def sealing_of(meta: Meta, key: StoreKey) -> Sealing | None:
    """Return the sealing of a store; ``None`` when it is not bound to an upstream yet.

    Raises:
        StoreError: its record of the previous key was tampered with.
    """
    previous = opened_key(key, meta.previous_key, store_id=meta.store_id)
    if meta.origin is None:
        return None
    return Sealing(key, store_id=meta.store_id, origin=meta.origin, previous=previous)


def pick_key(meta: Meta, keys: Sequence[StoreKey], *, where: str) -> StoreKey:
    """Return the key that belongs to the store.

    Raises:
        StoreError: none does, or the store's record was tampered with.
    """
    key = next((key for key in keys if key.key_id == meta.key_id), None)
    if key is None:
        given = " and ".join(key.key_id for key in keys)
        raise StoreError(
            f"the store {where} is sealed with key {meta.key_id}, and the key given is {given}",
            advice="Give the key it was made with, or was given since",
        )
    if not hmac.compare_digest(meta.key_check, key_check(key, store_id=meta.store_id, checked=meta.checked)):
        raise StoreError(f"the store {where} was tampered with, or is damaged", advice="Restore a backup")
    return key


def require_origin(bound: str | None, origin: str, *, where: str) -> None:
    """Refuse an upstream that is not the store's.

    Raises:
        StoreError: the store holds credentials of another one.
    """
    if bound != origin:
        raise StoreError(
            f"the store {where} holds credentials of {bound}, not of {origin}",
            advice="Use one store for each upstream",
        )


def not_bound(where: str) -> StoreError:
    """Return the error for a write before the store was bound."""
    return StoreError(f"the store {where} is not bound to an upstream", advice="Call bind(base_url) first")


def not_open(where: str) -> StoreError:
    """Return the error for using a store that was not entered."""
    return StoreError(f"the store {where} is not open", advice="Enter it with async with")


def damaged_meta() -> StoreError:
    """Return the error for a store without metadata."""
    return StoreError("the store has lost its first table's row, so it is damaged", advice="Restore a backup")
