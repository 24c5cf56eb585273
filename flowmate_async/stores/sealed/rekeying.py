"""Key changes: every credential is re-encrypted, page by page, while the store stays in use.

From the first step on, the store names the new key and keeps the old one, sealed with the new one, until the
last step. So the new key opens everything at any time, and the next call resumes an interrupted one.
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


class KeyChanged(Exception):  # noqa: N818 - not an error: the store is asked which key it has
    """The store was given another key since it was opened."""


class Rekeyed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a key change.

    Attributes:
        resealed: credentials sealed with the new key by this call.
        already: credentials that an interrupted earlier call had sealed with it.
        damaged: user and secret of credentials that neither key opens, which are left unchanged, or that were
            put back from an older store.
        left: where data sealed with the old key may remain, as text; empty if nowhere.
    """

    resealed: int = 0
    already: int = 0
    damaged: tuple[tuple[str, str], ...] = ()
    left: str = ""


class Resealed(msgspec.Struct, frozen=True):
    """A credential as it was read, and its replacement."""

    username: str
    secret_id: str
    found: Sealed
    sealed: Sealed


@runtime_checkable
class Rekeyable(Protocol):
    """A store that can be given a new key."""

    async def rekey(self, key: StoreKey, *, on_progress: Progress | None = None) -> Rekeyed:
        """Seal everything with this key; resume an interrupted earlier call.

        Hold the run lock meanwhile. Other processes may read, and write if they also have the new key.

        Args:
            key: the new key.
            on_progress: called periodically with the number of credentials checked.

        Raises:
            StoreError: a change to another key is in progress, or the store cannot be written.
        """
        ...


async def reseal_all(
    rows: AsyncIterable[StoredRow],
    keys: OpenedKeys,
    put: Callable[[list[Resealed]], Awaitable[object]],
    on_progress: Progress | None,
) -> Rekeyed:
    """Re-encrypt every row that does not have the new key yet.

    Args:
        rows: everything that is stored.
        keys: has the sealing with the new key and the previous one.
        put: writes some rows, each only if it has not changed since it was read.
        on_progress: see :meth:`Rekeyable.rekey`.
    """
    page: list[Resealed] = []
    looked_at = resealed = already = 0
    damaged: list[tuple[str, str]] = []
    async for row in rows:
        looked_at += 1
        if not keys.is_current(row):  # re-encrypted anyway, so that nothing of the old key is left
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
