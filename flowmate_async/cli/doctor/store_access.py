"""Whether the store opens with its key, belongs to this upstream and is not locked. Nothing is written."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread

from flowmate_async.cli.doctor.findings import Finding, failed, ok, skipped, warning
from flowmate_async.cli.options import StoreFlags
from flowmate_async.errors import FlowMateError, StoreMissingError
from flowmate_async.stores import Store
from flowmate_async.stores.held_lock import ReportsRunLock
from flowmate_async.stores.sealed.meta import require_origin
from flowmate_async.system.private_files import require_replaceable

_SQLITE = "sqlite:///"


async def check_store(flags: StoreFlags, base_url: str | None) -> AsyncIterator[Finding]:
    """Check whether a sync could use the store.

    Args:
        flags: the store's.
        base_url: FlowMate's, checked; ``None`` when it is not known.
    """
    if not flags.store:
        yield skipped("store", "none is named; a sync needs --store or FLOWMATE_STORE")
        return
    try:
        store = flags.open()
        missing = await anyio.to_thread.run_sync(_missing, flags.store)
        if missing is not None:
            require_replaceable(missing, begins=b"", what="the store")
            yield ok("store", f"{missing} is not there yet; the first sync makes it")
            return
        async with store:
            async for finding in _check_opened(store, base_url):
                yield finding
    except StoreMissingError:  # the server or service was reached, and lets this user look
        yield ok("store", "there is none at this URL yet; the first sync makes it")
    except FlowMateError as problem:
        yield failed("store", problem, fix="Check the store's URL and key")


def _missing(url: str) -> Path | None:
    """Return the file of an embedded store that does not exist yet."""
    if not url.startswith(_SQLITE):
        return None
    path = Path(url.removeprefix(_SQLITE))
    return None if path.exists() else path


async def _check_opened(store: Store, base_url: str | None) -> AsyncIterator[Finding]:
    run = await store.last_run()
    if run is None:
        yield ok("store", "it opens with its key; no sync has run yet")
        return
    origin = await store.origin()
    if base_url is not None and origin is not None:
        require_origin(origin, base_url, where="named")
    hours = (time.time() - (run.finished_at or run.started_at)) / 3600
    state = "ended" if run.finished_at is not None else "is incomplete; it began"
    yield ok("store", f"it opens with its key and is this upstream's; the last run {state} {hours:.1f} h ago")
    if isinstance(store, ReportsRunLock):
        yield await _check_run_lock(store)


async def _check_run_lock(store: ReportsRunLock) -> Finding:
    if await store.is_running():
        return warning(
            "store lock", "a sync holds the run lock", "Wait for it to end before you begin another"
        )
    return ok("store lock", "no sync is running")
