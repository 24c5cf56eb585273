"""``flowmate sync``: the batch job from a terminal or a cron job."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from msgspec.structs import replace

from flowmate_async.cli.alert_flags import AlertFlags
from flowmate_async.cli.cluster import Cluster, ClusterFlags, WorkerWatch
from flowmate_async.cli.delta_flags import DeltaFlags
from flowmate_async.cli.ending import Listeners, current
from flowmate_async.cli.exits import (
    Exit,
    InterruptedSyncError,
    exit_code,
    print_data,
    print_error,
    print_json,
)
from flowmate_async.cli.interrupts import graceful
from flowmate_async.cli.local_pool import LocalPool
from flowmate_async.cli.notify_flags import NotifyFlags, deliver
from flowmate_async.cli.observing import MetricsFlags
from flowmate_async.cli.options import Connection, StoreFlags
from flowmate_async.cli.progress import display
from flowmate_async.cli.sync_output import planned, show
from flowmate_async.cli.usernames import checked_usernames, read_usernames
from flowmate_async.client import FlowMate
from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.events import Event
from flowmate_async.reporting import recording, require_report_path, write_report
from flowmate_async.reporting.recorder import Observation
from flowmate_async.stores import Store
from flowmate_async.sync.engine import SyncOptions
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.removal import DEFAULT_MAX_REMOVED_SHARE, RemovalPolicy
from flowmate_async.sync.report import SyncReport

if TYPE_CHECKING:
    from flowmate_async.integrations.observable import Observable


@Parameter(name="*", group="Users")
@dataclass(frozen=True, kw_only=True)
class Selection:
    """Whose credentials are synced."""

    all_users: Annotated[bool, Parameter(negative=(), help="All active users of the tenant.")] = False
    users_file: Annotated[
        Path | None,
        Parameter(allow_leading_hyphen=True, help="A file of usernames, one a line; - for standard input."),
    ] = None

    def usernames(self, named: tuple[str, ...]) -> list[str] | None:
        """Return the usernames; ``None`` for all.

        Raises:
            ConfigurationError: not exactly one way of selecting users was used, or a username is malformed.
        """
        ways = [bool(named), self.all_users, self.users_file is not None]
        if sum(ways) != 1:
            raise ConfigurationError(
                "no users are named" if not any(ways) else "users are named in more than one way",
                advice="Pass usernames, or --users-file FILE, or --all-users",
            )
        if self.users_file is not None:
            return read_usernames(self.users_file)
        return checked_usernames(named, what="the command line", unit="username") if named else None


@Parameter(name="*", group="Run")
@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """How the run behaves."""

    max_age: Annotated[
        float, Parameter(help="Hours; an incomplete run older than this is not resumed, a new one begins.")
    ] = 12.0
    retry_failed: Annotated[
        bool, Parameter(negative=(), help="Also resume a complete run, for its failed users.")
    ] = False
    max_failures: Annotated[
        int | None, Parameter(help="End the run when more users than this have failed.")
    ] = None
    removed: Annotated[
        RemovalPolicy,
        Parameter(help="What becomes of stored credentials that upstream no longer has."),
    ] = "keep"
    max_removed_share: Annotated[
        float, Parameter(help="Mark or delete nothing when more than this share, 0 to 1, would be.")
    ] = DEFAULT_MAX_REMOVED_SHARE
    celery: Annotated[
        bool,
        Parameter(
            negative=(), help="Have `flowmate worker` processes do the work, and follow it; see there."
        ),
    ] = False
    workers: Annotated[
        int,
        Parameter(
            env_var="FLOWMATE_WORKERS",
            help="Processes that share the work, the rate and the checkpoint; one a core.",
        ),
    ] = 1
    report: Annotated[
        tuple[Path, ...],
        Parameter(
            negative=(),
            help="Write a report to this file: a page if it ends in .html, JSON if not; repeatable.",
        ),
    ] = ()
    json: Annotated[bool, Parameter(negative=(), help="Print the totals as JSON.")] = False
    verbose: Annotated[
        bool, Parameter(name=("--verbose", "-v"), negative=(), help="Name the accounts that were left out.")
    ] = False

    def options(self, delta: DeltaPolicy) -> SyncOptions:
        """Return the flags as the library's options.

        Args:
            delta: what is fetched again.

        Raises:
            ConfigurationError: a number is out of range.
        """
        if not self.max_age >= 0 or (self.max_failures or 0) < 0:
            raise ConfigurationError("--max-age and --max-failures cannot be negative")
        if not 0 <= self.max_removed_share <= 1:
            raise ConfigurationError("--max-removed-share is a share, from 0 to 1")
        if self.workers < 1:
            raise ConfigurationError("--workers must be at least 1")
        if self.workers > 1 and self.celery:
            raise ConfigurationError("--workers and --celery cannot be combined", advice="Choose one of them")
        return SyncOptions(
            max_age_seconds=self.max_age * 3600,
            retry_failed=self.retry_failed,
            max_failures=self.max_failures,
            removed=self.removed,
            max_removed_share=self.max_removed_share,
            delta=delta,
        )


async def sync(  # noqa: PLR0913 - a group of flags each
    *usernames: str,
    selection: Selection = Selection(),
    store: StoreFlags = StoreFlags(),
    run: RunFlags = RunFlags(),
    cluster: ClusterFlags = ClusterFlags(),
    delta: DeltaFlags = DeltaFlags(),
    metrics: MetricsFlags = MetricsFlags(),
    alerts: AlertFlags = AlertFlags(),
    notify: NotifyFlags = NotifyFlags(),
    connection: Connection = Connection(),
) -> Exit:
    """Copy the credentials of many users into a sealed store; run again to resume.

    Examples:
        flowmate sync --all-users --store sqlite:///credentials.db

        flowmate sync --users-file users.txt --report report.json

        flowmate sync --all-users --workers 4

        flowmate sync --all-users --celery

    Args:
        usernames: Users by name.
        selection: Whose credentials are synced.
        store: Where they go.
        run: How the run behaves.
        cluster: What all workers of --celery have in common.
        delta: What is fetched again of what was stored before.
        metrics: The monitoring flags.
        alerts: Who is told how it ended.
        notify: Who hears of broken credentials.
        connection: How FlowMate is reached.
    """
    ending = current()
    if delta.dry_run:
        ending.listeners = Listeners()
    else:
        ending.listeners = Listeners(
            metrics_file=metrics.metrics_file, ping=alerts.ping(), on_failure=alerts.command()
        )
    names = selection.usernames(usernames)
    options = run.options(delta.policy())
    for path in run.report:
        require_report_path(path)
    metrics.check()
    notifier = notify.notifier()
    if delta.dry_run:
        return await _dry_run(connection, store, names, options.delta, as_json=run.json)
    stop = asyncio.Event()
    with graceful(stop) as interruption:
        try:
            pool = _pool(run, store, connection, cluster, options.delta)
            client = connection.client() if pool is None else pool.client()
            async with (
                store.open(create=True) as opened,
                client as fm,
                metrics.watched(_aggregate(pool, fm), leaving=stop.is_set),
            ):
                executor = None if pool is None else pool.executor(opened)
                job = partial(fm.sync, opened, names, options=options, stop=stop, executor=executor)
                end = await _ended(job, stop, opened, _aggregate(pool, fm), run)
                interruption.drained()
                if not end.is_refused:
                    await deliver(notify, notifier, fm, opened)
                if ending.began_run:
                    await _write_reports(run, opened, end)
        except asyncio.CancelledError:
            if not _is_ours(stop):
                raise
            raise _interrupted() from None
    if end.error is not None:
        raise end.error
    if end.report is None:
        raise _interrupted()
    show(end.report, as_json=run.json, verbose=run.verbose, removal=run.removed)
    return _exit(end.report)


def _pool(
    run: RunFlags, store: StoreFlags, connection: Connection, cluster: ClusterFlags, delta: DeltaPolicy
) -> LocalPool | Cluster | None:
    """Who does the work, if it is not this process."""
    if run.celery:
        return Cluster(connection, store, cluster, delta=delta)
    return LocalPool(connection, store, count=run.workers, delta=delta) if run.workers > 1 else None


def _aggregate(pool: LocalPool | Cluster | None, fm: FlowMate) -> "Observable":
    """This process together with its workers, for monitoring."""
    return fm if pool is None else pool.aggregate(fm)


async def _dry_run(
    connection: Connection,
    store: StoreFlags,
    names: list[str] | None,
    delta: DeltaPolicy,
    *,
    as_json: bool,
) -> Exit:
    """Report what would be fetched; without a store that is everything."""
    async with store.open() as opened, connection.client() as fm:
        plan = await fm.plan_sync(opened, names, delta=delta)
    if as_json:
        print_json(plan)
    else:
        print_data(planned(plan))
    return Exit.SOME_FAILED if plan.failed else Exit.OK


def _interrupted() -> InterruptedSyncError:
    return InterruptedSyncError(
        "the sync was stopped; what was acknowledged is kept",
        advice="Run the same command again to resume it",
    )


def _exit(report: SyncReport) -> Exit:
    if not report.complete:
        return Exit.INTERRUPTED
    return Exit.SOME_FAILED if report.failed or report.removal_refused else Exit.OK


@dataclass(frozen=True, kw_only=True)
class _End:
    """A report, or the error that ended the run, or neither if it was cancelled."""

    report: SyncReport | None = None
    error: FlowMateError | None = None
    observed: Observation | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the store or the configuration was the reason."""
        return self.error is not None and exit_code(self.error) is Exit.USAGE


async def _ended(
    job: Callable[..., Awaitable[SyncReport]],
    stop: asyncio.Event,
    store: Store,
    observable: "Observable",
    run: RunFlags,
) -> _End:
    """Run the sync, show its progress and note its end."""
    report, error, ending, workers = None, None, current(), WorkerWatch()
    watched = recording(observable.stats, elsewhere=run.celery) if run.report else nullcontext()
    with watched as record, display() as shown:

        def told(event: Event) -> None:
            ending.note(event)
            shown(event)
            if run.celery:
                workers(event)

        try:
            if not stop.is_set():
                report = await job(on_event=told)
                report = replace(report, throttled=observable.stats().throttled)
        except FlowMateError as raised:
            error = raised
        except asyncio.CancelledError:
            if not _is_ours(stop):
                raise
        finally:
            workers.cancel()
            complete = report is not None and report.complete
            await ending.note_end(store, observable.stats, complete=complete)
    return _End(report=report, error=error, observed=None if record is None else record.observation())


def _is_ours(stop: asyncio.Event) -> bool:
    """Return whether a second signal or the drain's end caused a cancellation, and take it back if so."""
    task = asyncio.current_task()
    if not stop.is_set() or task is None:
        return False
    task.uncancel()
    return True


async def _write_reports(run: RunFlags, store: Store, end: _End) -> None:
    """Write the report files. If the sync failed, a failure to write them is printed and no more."""
    for path in run.report:
        try:
            await write_report(
                path,
                store,
                report=end.report,
                error=str(end.error) if end.error else None,
                observed=end.observed,
            )
        except FlowMateError as problem:
            if end.error is None:
                raise
            print_error(str(problem))
