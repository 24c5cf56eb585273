"""Storing the contents of an export; existing credentials are kept unless they are to be replaced."""

import msgspec

from flowmate_async.containers import chunked
from flowmate_async.stores.base import Checkpoint, Store, UserWrite
from flowmate_async.stores.transfer.exports import Exported

SELECTION = "import"
"""The selection of an import's run; no sync resumes it."""

_BATCH = 64


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an import.

    Attributes:
        users: users with credentials in the export.
        written: credentials that were written.
        unchanged: credentials that were already stored with this value.
        kept: credentials that were already stored and were not to be replaced.
    """

    users: int = 0
    written: int = 0
    unchanged: int = 0
    kept: int = 0


async def import_export(
    exported: list[Exported], store: Store, *, origin: str, at: float, replace: bool = False
) -> Imported:
    """Store the credentials of an export.

    Args:
        exported: all of them.
        store: entered; hold its run lock.
        origin: the upstream they belong to.
        at: the time, in seconds since the Unix epoch.
        replace: replace stored credentials; FlowMate's own answers are newer than any export.

    Raises:
        StoreError: the store belongs to another upstream, or cannot be written.
    """
    await store.bind(origin)
    held = set() if replace else {(item.username, item.secret_id) async for item in store.items()}
    wanted = [one for one in exported if (one.username, one.secret.id) not in held]
    by_user: dict[str, list[Exported]] = {}
    for one in wanted:
        by_user.setdefault(one.username, []).append(one)
    run = await store.begin_run(at=at, selection=SELECTION)
    writes = [_write_of(username, found, at) for username, found in by_user.items()]
    changed = unchanged = 0
    for batch in chunked(writes, _BATCH):
        written = await store.write(run, batch)
        changed, unchanged = changed + written.changed, unchanged + written.unchanged
    await store.finish_run(run, at=at)
    return Imported(
        users=len({one.username for one in exported}),
        written=changed,
        unchanged=unchanged,
        kept=len(exported) - len(wanted),
    )


def _write_of(username: str, found: list[Exported], at: float) -> UserWrite:
    secrets = tuple(one.secret for one in found)
    checkpoint = Checkpoint(
        username=username, status="synced", secrets=len(secrets), at=at, listing_proven=False
    )
    return UserWrite(checkpoint=checkpoint, secrets=secrets)
