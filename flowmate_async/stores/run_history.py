"""Stores that can list their latest runs, newest first. The checkpoints of old runs may be gone."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from flowmate_async.stores.base import Run, RunTotals, Store


@runtime_checkable
class ListsRuns(Protocol):
    """A store that remembers more runs than the last one. All of this library's stores do."""

    async def runs(self, *, limit: int) -> Sequence[Run]:
        """Return the runs that were begun last, of any selection, newest first.

        Args:
            limit: maximum number of runs; a store may remember fewer.
        """
        ...


async def latest_runs(store: Store, *, limit: int) -> Sequence[Run]:
    """Return the latest runs of any store, newest first; the last one of a store that lists none.

    Args:
        store: entered.
        limit: maximum number of runs.
    """
    if isinstance(store, ListsRuns):
        return await store.runs(limit=limit)
    last = await store.last_run()
    return () if last is None else (last,)


async def last_success(store: Store, *, limit: int = 100) -> Run | None:
    """Return the newest run that tried every user and synced some of them, if there were any.

    A run whose checkpoints the store has forgotten counts if it is complete.

    Args:
        store: entered.
        limit: how many runs to look at.
    """
    for run in await latest_runs(store, limit=limit):
        if run.finished_at is not None and is_success(await store.totals(run)):
            return run
    return None


def is_success(totals: RunTotals) -> bool:
    """Return whether a complete run with these totals is a success: not all of its users failed."""
    return totals.synced > 0 or totals.failed == 0
