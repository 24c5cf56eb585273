"""The handling of stored credentials that upstream no longer has.

While a run writes, a store records what a proven complete listing lacks (``stores/base.py``). Once the run is
complete, the policy is applied here, to all missing credentials or to none. A permission revoked upstream
looks like thousands of deleted credentials, so no more than a set share is ever removed.
"""

from collections.abc import AsyncIterator, Collection
from typing import Literal

import msgspec

from flowmate_async.stores.base import Run, Store

RemovalPolicy = Literal["keep", "mark", "delete"]
DEFAULT_MAX_REMOVED_SHARE = 0.1

_CHUNK = 256


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a policy.

    Attributes:
        missing: credentials that upstream no longer has; not counted under ``keep``.
        removed: number of credentials that were marked or deleted.
        refused: whether none were, because too large a share is missing.
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
    """Apply a policy to the credentials that a complete run found missing.

    Args:
        store: the store of the run.
        run: the run, complete.
        policy: ``keep`` does nothing, ``mark`` records the time of removal, ``delete`` deletes.
        max_share: the largest share, from 0 to 1, of the credentials that the run could judge.
        accounts: every username of the tenant, if the run covered the whole tenant: stored credentials of
            other users are then missing, too.
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
    """Yield stored users without an account in the tenant. Upstream's usernames ignore case."""
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
