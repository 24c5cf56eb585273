"""What a sealed store says of itself, and whom it lets in.

Pure values and their checks; where they are kept is the store's business. Errors name the store as ``where``
has it, fit for a message.
"""

import hmac
import os

import msgspec

from flowmate_async.errors import StoreError
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealing import key_check


class Meta(msgspec.Struct, frozen=True):
    """What a store says of itself.

    Attributes:
        store_id: random, made with the store.
        key_id: the public name of the key it is sealed with.
        key_check: the record that only this key makes.
        origin: the upstream it is bound to, if any yet.
    """

    store_id: str
    key_id: str
    key_check: bytes
    origin: str | None = None


def new_meta(key: StoreKey) -> Meta:
    """What a store says of itself that is made with this key."""
    store_id = os.urandom(16).hex()
    return Meta(store_id, key.key_id, key_check(key, store_id=store_id))


def require_key(meta: Meta, key: StoreKey, *, where: str) -> None:
    """Refuse a key that is not the store's.

    Raises:
        StoreError: another key, or a record of it that was tampered with.
    """
    if meta.key_id != key.key_id:
        raise StoreError(
            f"the store {where} is sealed with key {meta.key_id}, and the key given is {key.key_id}",
            advice="Give the key it was made with",
        )
    if not hmac.compare_digest(meta.key_check, key_check(key, store_id=meta.store_id)):
        raise StoreError(f"the store {where} was tampered with, or is damaged", advice="Restore a backup")


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
    """The error of a write before the store was bound."""
    return StoreError(f"the store {where} is not bound to an upstream", advice="Call bind(base_url) first")


def not_open(where: str) -> StoreError:
    """The error of any use of a store that was not entered."""
    return StoreError(f"the store {where} is not open", advice="Enter it with async with")
