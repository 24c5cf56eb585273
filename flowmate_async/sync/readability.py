"""Whether the store shows that some of the tenant's users are readable, after a run found only masks.

The raw-read permission belongs to each user (docs/contract/OBSERVED.md § Second look). "Everything is masked"
is a statement about the whole tenant, so secrets stored by earlier runs count as well.
"""

from flowmate_async.contract.masks import proves_raw_read, shows_masking
from flowmate_async.errors import StoreError
from flowmate_async.stores.base import Run, Store, StoredItem
from flowmate_async.sync.abort import MASKED


async def others_are_readable(store: Store, run: Run) -> bool:
    """Return whether a user that was not masked in this run has a credential in clear in the store.

    Items and checkpoints are both sorted by username, so this takes one pass and bounded memory.

    Args:
        store: the store of this run and earlier ones.
        run: the run, in which all users were tried.
    """
    masked = (end.username async for end in store.checkpoints(run) if end.error == MASKED)
    name = await anext(masked, None)
    async for item in store.items():
        while name is not None and name < item.username:
            name = await anext(masked, None)
        if name != item.username and await _is_clear(store, item):
            return True
    return False


async def _is_clear(store: Store, item: StoredItem) -> bool:
    if item.removed_at is not None or not shows_masking(item.type):
        return False
    try:
        secret = await store.get(item.username, item.secret_id)
    except StoreError:  # damaged: another item may show it
        return False
    return secret is not None and proves_raw_read(secret)
