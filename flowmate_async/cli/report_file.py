"""The report of a run as a JSON file: totals, then a line a user, from its checkpoints. No credential."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from flowmate_async.private_files import replaced_atomically, require_replaceable
from flowmate_async.stores import Run, RunTotals, Store
from flowmate_async.sync.report import SyncReport


class _Head(msgspec.Struct, kw_only=True):
    """What is known of a run however it ended."""

    run_id: str
    complete: bool
    started_at: float
    finished_at: float | None
    totals: RunTotals
    call: SyncReport | None
    ended_early: str | None


_BEGINS = b'{"run_id":'


def require_report_path(path: Path) -> None:
    """Refuse, before anything is sent, a path where the report cannot be or must not be written.

    Raises:
        ConfigurationError: the folder cannot be written to, or the path is something other than a report.
    """
    require_replaceable(path, begins=_BEGINS, what="a report")


async def write_report(path: Path, store: Store, *, report: SyncReport | None, error: str | None) -> None:
    """Write the newest run's report, readable by its owner only; replaces an earlier one at once.

    Args:
        path: the file.
        store: the entered store.
        report: what the call returned, if it did.
        error: why the run was ended early, if it was.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    run = await store.last_run()
    if run is None:
        return
    with replaced_atomically(path) as file:
        async for piece in _pieces(store, run, report, error):
            file.write(piece)


async def _pieces(
    store: Store, run: Run, report: SyncReport | None, error: str | None
) -> AsyncIterator[bytes]:
    head = _Head(
        run_id=run.id,
        complete=run.finished_at is not None,
        started_at=run.started_at,
        finished_at=run.finished_at,
        totals=await store.totals(run),
        call=report,
        ended_early=error,
    )
    yield msgspec.json.encode(head)[:-1] + b',"users":['
    separator = b"\n"
    async for checkpoint in store.checkpoints(run):
        yield separator + msgspec.json.encode(checkpoint)
        separator = b",\n"
    yield b"\n]}\n"
