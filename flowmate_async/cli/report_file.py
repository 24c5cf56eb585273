"""The report of a run as a JSON file: totals, then a line a user, from its checkpoints. No credential."""

from pathlib import Path

import msgspec

from flowmate_async.private_files import write_private_atomically
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
    if run is not None:
        write_private_atomically(path, await _encoded(store, run, report, error))


async def _encoded(store: Store, run: Run, report: SyncReport | None, error: str | None) -> bytes:
    head = _Head(
        run_id=run.id,
        complete=run.finished_at is not None,
        started_at=run.started_at,
        finished_at=run.finished_at,
        totals=await store.totals(run),
        call=report,
        ended_early=error,
    )
    encoded = bytearray(msgspec.json.encode(head)[:-1] + b',"users":[')
    separator = b"\n"
    async for checkpoint in store.checkpoints(run):
        encoded += separator + msgspec.json.encode(checkpoint)
        separator = b",\n"
    return bytes(encoded + b"\n]}\n")
