"""Giving a store a new key: every credential is sealed anew, a page at a time, and the store stays in use.

The store says from the first step on that it has the new key, and keeps the old one, sealed with the new
one, until the last step. So the new key opens all of it at any time, and a call that was interrupted is
resumed by the next one.
"""

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Protocol, runtime_checkable

import msgspec

from flowmate_async.errors import StoreError
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealed.manifests import StoredRow
from flowmate_async.stores.sealed.meta import OpenedKeys
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.sealing import Sealed

Progress = Callable[[int], object]


class KeyChanged(Exception):  # noqa: N818 - no error: the store is asked which key it has
    """The store was given another key since it was opened."""


class Rekeyed(msgspec.Struct, frozen=True, kw_only=True):
    """What giving a store a new key did.

    Attributes:
        resealed: credentials sealed with the new key by this call.
        already: credentials that were so before, as an earlier call was interrupted.
        damaged: user and secret of those that neither key opens, which are left as they are, or that were put
            back from an older store.
        left: where something that the old key sealed may be left, in words; empty when there is nothing.
    """

    resealed: int = 0
    already: int = 0
    damaged: tuple[tuple[str, str], ...] = ()
    left: str = ""


class Resealed(msgspec.Struct, frozen=True):
    """A credential in its place, as it was found and as it becomes."""

    username: str
    secret_id: str
    found: Sealed
    sealed: Sealed


@runtime_checkable
class Rekeyable(Protocol):
    """A store that can be given a new key."""

    async def rekey(self, key: StoreKey, *, on_progress: Progress | None = None) -> Rekeyed:
        """Seal everything with this key; go on where an earlier call was interrupted.

        Hold the run lock meanwhile. Others may read, and write if they have the new key at hand, too.

        Args:
            key: the new key.
            on_progress: called now and then with how many credentials have been looked at.

        Raises:
            StoreError: the store is being given another key already, or cannot be written.
        """
        ...


async def reseal_all(
    rows: AsyncIterable[StoredRow],
    keys: OpenedKeys,
    put: Callable[[list[Resealed]], Awaitable[object]],
    on_progress: Progress | None,
) -> Rekeyed:
    """Seal every row anew that is not yet.

    Args:
        rows: everything that is stored.
        keys: has the sealing with the new key and the previous one.
        put: writes some rows, each only if it is still as it was found.
        on_progress: see :meth:`Rekeyable.rekey`.
    """
    page: list[Resealed] = []
    looked_at = resealed = already = 0
    damaged: list[tuple[str, str]] = []
    async for row in rows:
        looked_at += 1
        if not keys.is_current(row):  # sealed anew all the same, so that nothing of the old key is left
            damaged.append((row.username, row.secret_id))
        try:
            sealed = keys.sealing().resealed(row.username, row.secret_id, row.sealed)
        except StoreError:
            damaged.append((row.username, row.secret_id))
            continue
        if sealed is None:
            already += 1
            continue
        page.append(Resealed(row.username, row.secret_id, row.sealed, sealed))
        resealed += 1
        if len(page) == PAGE:
            await put(page)
            page = []
            if on_progress is not None:
                on_progress(looked_at)
    if page:
        await put(page)
    return Rekeyed(resealed=resealed, already=already, damaged=tuple(dict.fromkeys(damaged)))
