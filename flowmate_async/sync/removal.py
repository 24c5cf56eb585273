"""What becomes of stored credentials that upstream no longer has.

A store notes what a proven complete listing lacks while a run writes (``stores/base.py``); once the run is
complete, the policy is applied here, to everything at once or not at all: a permission taken away upstream
looks just like thousands of deleted credentials, so more than a set share is never removed.
"""

from collections.abc import AsyncIterator, Collection
from typing import Literal

import msgspec

from flowmate_async.stores.base import Run, Store

RemovalPolicy = Literal["keep", "mark", "delete"]
DEFAULT_MAX_REMOVED_SHARE = 0.1

_CHUNK = 256


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy did.

    Attributes:
        missing: credentials that upstream no longer has; not counted under ``keep``.
        removed: how many were marked or deleted.
        refused: whether nothing was, because too large a share is missing.
    """

    missing: int = 0
    removed: int = 0
    refused: bool = False


async def remove_missing(
    store: Store,
    run: Run,
    *,
    policy: RemovalPolicy,
    max_share: float,
    accounts: Collection[str] | None,
    at: float,
) -> Removed:
    """Apply a policy to what a complete run found missing.

    Args:
        store: where the run was written.
        run: the run, complete.
        policy: ``keep`` does nothing, ``mark`` notes the time of removal, ``delete`` deletes.
        max_share: the largest share, from 0 to 1, of the credentials that the run could judge.
        accounts: every username of the tenant, when the run was of all its users: what is stored of others
            is missing, too.
        at: the time, in seconds since the Unix epoch.
    """
    if policy == "keep":
        return Removed()
    if accounts is not None:
        async for usernames in _gone(store, accounts):
            await store.note_missing(run, usernames)
    found = await store.missing(run)
    if found.share > max_share:
        return Removed(missing=found.missing, refused=True)
    removed = await store.remove_missing(run, how=policy, at=at)
    return Removed(missing=found.missing, removed=removed)


async def _gone(store: Store, accounts: Collection[str]) -> AsyncIterator[list[str]]:
    """The stored users that are no accounts of the tenant; upstream's usernames ignore case."""
    known = {username.casefold() for username in accounts}
    chunk: list[str] = []
    last = None
    async for item in store.items():
        if item.username == last:
            continue
        last = item.username
        if last.casefold() not in known:
            chunk.append(last)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
