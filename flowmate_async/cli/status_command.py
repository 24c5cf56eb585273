"""``flowmate status``: the last runs of a store, and whether the last success is recent enough."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from cyclopts import Parameter

from flowmate_async.cli.durations import seconds_of
from flowmate_async.cli.exits import Exit, print_data, print_error, print_json
from flowmate_async.cli.options import StoreAlone
from flowmate_async.cli.sync_output import counts
from flowmate_async.errors import ConfigurationError
from flowmate_async.reporting.page import duration
from flowmate_async.stores import Run, RunTotals, Store
from flowmate_async.stores.held_lock import ReportsRunLock
from flowmate_async.stores.run_history import last_success, latest_runs

_COUNTED_RUNS = 2
"""Runs of a selection whose checkpoints every store keeps."""


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as shown.

    Attributes:
        run_id: the run in the store.
        started_at: when it was first begun, in seconds since the Unix epoch.
        ended_at: when every user had been tried; for an incomplete run, when its last user ended.
        seconds: from the first to the last of these; ``None`` if no user has ended.
        complete: whether every user was tried.
        users: users by outcome; ``None`` if the store has forgotten them.
        failures: failed users by kind of error.
        secrets: credentials stored or found unchanged.
    """

    run_id: str
    started_at: float
    ended_at: float | None
    seconds: float | None
    complete: bool
    users: dict[str, int] | None
    failures: dict[str, int] | None
    secrets: int | None


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What ``flowmate status --json`` prints.

    Attributes:
        ok: whether the last success is recent enough; always true without ``--max-age``.
        running: whether a sync runs now; ``None`` if the store cannot tell.
        last_success_at: when a run last tried every user, in seconds since the Unix epoch.
        age_seconds: how long ago that was.
        runs: the last runs, newest first.
    """

    ok: bool
    running: bool | None
    last_success_at: float | None
    age_seconds: float | None
    runs: tuple[RunStatus, ...]


async def status(
    *,
    max_age: Annotated[
        str | None, Parameter(help="End with 1 if no run has tried every user for so long, as 26h or 2d.")
    ] = None,
    limit: Annotated[int, Parameter(help="How many runs to show.")] = 5,
    json: Annotated[bool, Parameter(negative=(), help="Print one JSON object.")] = False,
    store: StoreAlone = StoreAlone(),
) -> Exit:
    """Show the last runs of a store: when, how long, whether complete, and failures by kind.

    A run is complete, and a success, when every user was tried. Users that failed are counted apart. A sync
    that never began, because a token is missing, say, leaves no run: see --metrics-file and --ping-url.

    Examples:
        flowmate status --store sqlite:///credentials.db

        flowmate status --max-age 26h --json
    """
    age = None if max_age is None else seconds_of(max_age)
    if max_age is not None and age is None:
        raise ConfigurationError("--max-age is not a duration", advice="Write 26h, 90m or 2d")
    if limit < 1:
        raise ConfigurationError("--limit must be at least 1")
    async with store.open() as opened:
        found = await _status(opened, limit=limit, max_age_seconds=age)
    if json:
        print_json(found)
    else:
        _show(found)
    if not found.ok:
        print_error(_too_old(found, max_age or ""), event="too_old")
    return Exit.OK if found.ok else Exit.SOME_FAILED


async def _status(store: Store, *, limit: int, max_age_seconds: float | None) -> StoreStatus:
    runs = await latest_runs(store, limit=limit)
    success = await last_success(store)
    finished = None if success is None else success.finished_at
    age = None if finished is None else max(0.0, time.time() - finished)
    return StoreStatus(
        ok=max_age_seconds is None or (age is not None and age <= max_age_seconds),
        running=await store.is_running() if isinstance(store, ReportsRunLock) else None,
        last_success_at=finished,
        age_seconds=age,
        runs=tuple([await _run(store, run, runs[:at]) for at, run in enumerate(runs)]),
    )


async def _run(store: Store, run: Run, newer: Sequence[Run]) -> RunStatus:
    totals = await store.totals(run)
    forgotten = (
        totals == RunTotals() and sum(one.selection == run.selection for one in newer) >= _COUNTED_RUNS
    )
    ended = run.finished_at
    if ended is None:
        async for checkpoint in store.checkpoints(run):
            ended = max(ended or 0.0, checkpoint.at)
    return RunStatus(
        run_id=run.id,
        started_at=run.started_at,
        ended_at=ended,
        seconds=None if ended is None else max(0.0, ended - run.started_at),
        complete=run.finished_at is not None,
        users=None if forgotten else {"synced": totals.synced, "failed": totals.failed},
        failures=None if forgotten else totals.errors,
        secrets=None if forgotten else totals.secrets,
    )


def _show(found: StoreStatus) -> None:
    for run in found.runs:
        print_data(_line(run))
    if not found.runs:
        print_data("No sync has begun yet")
    elif found.last_success_at is None or found.age_seconds is None:
        print_data("No run is complete yet")
    else:
        print_data(f"Last success: {_when(found.last_success_at)}, {duration(found.age_seconds)} ago")
    if found.running:
        print_data("A sync is running")


def _line(run: RunStatus) -> str:
    state = "complete" if run.complete else "incomplete"
    took = "-" if run.seconds is None else duration(run.seconds)
    users = "users forgotten"
    if run.users is not None:
        users = f"{run.users['synced']:,} synced, {run.users['failed']:,} failed"
    failures = f" ({counts(run.failures)})" if run.failures else ""
    return f"{_when(run.started_at)}  {run.run_id}  {state:<10}  {took:>12}  {users}{failures}"


def _when(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _too_old(found: StoreStatus, max_age: str) -> str:
    if found.age_seconds is None:
        return "no run has tried every user yet"
    return f"the last success was {duration(found.age_seconds)} ago, more than {max_age}"
