"""Copying a store into another one: credentials with their storage times, then compared.

Health records and pending notices are copied too, if both stores keep health.

Runs are not copied, but the state with which the next delta sync compares is: it fetches no more than it
would have in the source. Marks of removal are not copied; the next sync marks again. A copy is a run of its
own, which is finished once both stores were compared, so an interrupted copy is recognised and resumed.
Nothing here knows any store.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing

import msgspec

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.health.records import HealthRecord
from flowmate_async.redaction import Redacted
from flowmate_async.stores.base import Checkpoint, Run, Store, UserWrite
from flowmate_async.stores.health import KeepsHealth
from flowmate_async.values.secrets import Secret

SELECTION = "copy"
"""Prefix of the selection of a copy's run; no sync resumes it."""

_BATCH = 256
_NOTICES = 100_000


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a copy.

    Attributes:
        users: users with credentials.
        secrets: credentials, each read back from the copy and found the same.
        changed: how many of them were missing or different in the other store.
    """

    users: int = 0
    secrets: int = 0
    changed: int = 0


class _Held(Redacted, frozen=True):
    """A credential, its user, and when it was stored."""

    username: str
    secret: Secret
    stored_at: float


async def copy_store(
    source: Store,
    target: Store,
    *,
    at: float,
    source_url: str = "",
    on_progress: Callable[[int, int], object] | None = None,
) -> Copied:
    """Copy every credential and read each back. Repeating an interrupted copy resumes it.

    Args:
        source: entered; hold its run lock, since nothing may be written to it meanwhile.
        target: entered; its other contents stay.
        at: the time, in seconds since the Unix epoch.
        source_url: identifies this source; a copy of another source is not resumed.
        on_progress: called periodically with the number of credentials copied, and of all.

    Raises:
        StoreError: the source is empty, either store failed, or the copy differs.
    """
    origin = await source.origin()
    if origin is None:
        raise StoreError("there is nothing to copy: the store was never synced", advice="Name another store")
    await target.bind(origin)
    run = await unfinished_copy(target)
    if run is None or run.selection != _selection(source_url):
        run = await target.begin_run(at=at, selection=_selection(source_url))
    total = 0 if on_progress is None else await count_items(source)
    users = secrets = changed = 0
    async for batch in _batches(source):
        changed += (await target.write(run, [_write_of(one) for one in batch])).changed
        seen = await source.seen(list({one.username: None for one in batch}))
        done = _done_of(batch, seen, at)
        await target.write(run, done)
        users, secrets = users + len(done), secrets + len(batch)
        if on_progress is not None:
            on_progress(secrets, total)
    await _copy_health(source, target)
    await _compare(source, target)
    await target.finish_run(run, at=at)
    return Copied(users=users, secrets=secrets, changed=changed)


async def unfinished_copy(store: Store) -> Run | None:
    """Return the run of an interrupted copy, if nothing else was written to the store since."""
    run = await store.last_run()
    is_copy = run is not None and run.selection.startswith(SELECTION)
    return run if is_copy and run is not None and run.finished_at is None else None


async def is_copy_of(store: Store, source_url: str, *, finished: bool) -> bool:
    """Return whether the store's last run is a copy of this source.

    Args:
        store: entered.
        source_url: identifies the source.
        finished: whether a complete copy counts too, not only an interrupted one.
    """
    run = await store.last_run()
    if run is None or run.selection != _selection(source_url):
        return False
    return finished or run.finished_at is None


def _selection(source_url: str) -> str:
    return f"{SELECTION} {hashlib.sha256(source_url.encode()).hexdigest()[:16]}"


async def count_items(store: Store) -> int:
    """Return the number of credentials that are stored."""
    count = 0
    async for _ in store.items():
        count += 1
    return count


async def is_empty(store: Store) -> bool:
    """Return whether nothing is stored."""
    async with aclosing(store.items()) as items:  # type: ignore[type-var] # a generator
        async for _ in items:
            return False
    return True


def require_target(*, empty: bool, backup: bool, copied: bool = False) -> None:
    """Refuse to write into a store that is not empty and will have no backup.

    Args:
        empty: whether the store is empty.
        backup: whether what it holds is backed up first.
        copied: whether what it holds is a complete copy of the same source.

    Raises:
        ConfigurationError: the store is such a store.
    """
    if not empty and not backup:
        held = "a complete copy of this store" if copied else "credentials"
        raise ConfigurationError(
            f"the store to copy into holds {held} already",
            advice="Name an empty store, or one for a backup of it with --backup",
        )


async def _batches(source: Store) -> AsyncIterator[list[_Held]]:
    """Yield everything stored in batches, with all credentials of a user in one batch."""
    batch: list[_Held] = []
    async with aclosing(source.items()) as items:  # type: ignore[type-var] # a generator
        async for username, secret in source.secrets():
            item = await anext(items)
            if (item.username, item.secret_id) != (username, secret.id):
                raise StoreError("the store was written to while it was copied", advice="Copy it again")
            if len(batch) >= _BATCH and batch[-1].username != username:
                yield batch
                batch = []
            batch.append(_Held(username, secret, item.stored_at))
    if batch:
        yield batch


async def _copy_health(source: Store, target: Store) -> None:
    """Copy health records and pending notices, if both stores keep them."""
    if not (isinstance(source, KeepsHealth) and isinstance(target, KeepsHealth)):
        return
    batch: list[HealthRecord] = []
    async for record in source.health():
        batch.append(record)
        if len(batch) == _BATCH:
            await target.put_health(batch)
            batch = []
    await target.put_health(batch, await source.notices(_NOTICES))


def _write_of(held: _Held) -> UserWrite:
    checkpoint = Checkpoint(
        username=held.username, status="synced", secrets=1, at=held.stored_at, listing_proven=False
    )
    return UserWrite(checkpoint=checkpoint, secrets=(held.secret,))


def _done_of(batch: list[_Held], seen: Mapping[str, str], at: float) -> list[UserWrite]:
    counts: dict[str, int] = {}
    for held in batch:
        counts[held.username] = counts.get(held.username, 0) + 1
    return [
        UserWrite(
            checkpoint=Checkpoint(
                username=username,
                status="synced",
                secrets=count,
                at=at,
                listing_proven=False,
                seen=seen.get(username, ""),
            )
        )
        for username, count in counts.items()
    ]


async def _compare(source: Store, target: Store) -> None:
    """Compare both in order, side by side; the target may have more."""
    async with aclosing(target.secrets()) as copies:  # type: ignore[type-var] # a generator
        async for username, secret in source.secrets():
            if not await _has(copies, username, secret):
                raise StoreError(
                    "the copy is not the same as the store",
                    advice="Remove the copy and copy again; should it stay so, verify the store",
                    username=username,
                    secret_id=secret.id,
                )


async def _has(copies: AsyncIterator[tuple[str, Secret]], username: str, secret: Secret) -> bool:
    async for owner, copy in copies:
        if (owner, copy.id) >= (username, secret.id):
            return owner == username and copy == secret
    return False
