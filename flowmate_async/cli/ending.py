"""How a sync ends, and what learns of it. It is told however the sync ends, even if it never began.

``run`` in ``app.py`` makes an :class:`Ending` for every command, and tells it afterwards, outside the event
loop. A sync only adds what it knows. If the command line cannot be parsed, the flags are read from it one by
one.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from anyio import to_thread

from flowmate_async.cli.exits import Exit, print_error
from flowmate_async.errors import FlowMateError, RunInProgressError
from flowmate_async.events import Event, RunBegan
from flowmate_async.stats import Stats
from flowmate_async.stores import Run, RunTotals, Store
from flowmate_async.sync.health import count_health

_COMMAND = "sync"


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """What learns of the end of a sync.

    Attributes:
        metrics_file: the metrics file.
    """

    metrics_file: Path | None = None

    @classmethod
    def unparsed(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> "Listeners":
        """Read the flags from a command line that cannot be parsed."""
        path = flag_value(arguments, "--metrics-file") or environ.get("FLOWMATE_METRICS_FILE")
        return cls(metrics_file=Path(path) if path else None)


@dataclass(kw_only=True)
class Ending:
    """What is known of the end of one sync.

    Attributes:
        listeners: what learns of it; ``None`` while the command has not begun.
        began: when the process began, in seconds since the Unix epoch.
        began_run: whether a run was begun or resumed.
        complete: whether every user was tried.
        run: the run, as the store has it at the end.
        totals: the run's totals.
        stats: the client's counters at the end.
        credentials: credentials that do not plainly work, by state and type.
    """

    listeners: Listeners | None = None
    began: float = field(default_factory=time.time)
    began_run: bool = False
    complete: bool = False
    run: Run | None = None
    totals: RunTotals = field(default_factory=RunTotals)
    stats: Stats | None = None
    credentials: dict[tuple[str, str], int] = field(default_factory=dict)
    _start: asyncio.Task[None] | None = None

    def note(self, event: Event) -> None:
        """Listen to the sync; tells the listeners that a run began. For the event loop."""
        if isinstance(event, RunBegan):
            self.began_run = True
            self._start = asyncio.get_running_loop().create_task(self._tell_start())

    async def note_end(self, store: Store, stats: Callable[[], Stats], *, complete: bool) -> None:
        """Note how the run ended, before the store and the client are closed."""
        self.complete, self.stats = complete, stats()
        if self._start is not None:
            await asyncio.wait([self._start], timeout=10.0)
        if self.began_run:
            # A store that failed may fail again; the sync's own error is the one to report.
            with contextlib.suppress(FlowMateError):
                self.run = await store.last_run()
                if self.run is not None:
                    self.totals = await store.totals(self.run)
                self.credentials = await count_health(store)

    async def _tell_start(self) -> None:
        if self.listeners is not None and self.listeners.metrics_file is not None:
            with _reported():
                await to_thread.run_sync(self._write_running, self.listeners.metrics_file)

    def _write_running(self, path: Path) -> None:
        from flowmate_async.integrations import metrics_file  # noqa: PLC0415 - an extra

        metrics_file.write_running(path, started_at=self.began)

    def tell(self, code: int, error: FlowMateError | None) -> int:
        """Tell the listeners. Return the exit code: another one if they could not be told of a success.

        Args:
            code: the command's exit code.
            error: what ended the command.
        """
        told = self.listeners
        if told is None:
            return code
        with _uninterrupted():
            if told.metrics_file is not None:
                with _reported() as problems:
                    refused = isinstance(error, RunInProgressError)
                    self._write_metrics(told.metrics_file, code, refused=refused)
                if problems:
                    code = code or Exit.USAGE
        return code

    def _write_metrics(self, path: Path, code: int, *, refused: bool) -> None:
        from flowmate_async.integrations import metrics_file  # noqa: PLC0415 - an extra

        if refused:
            metrics_file.write_refused(path)
            return
        metrics_file.require_metrics_path(path)
        finished = self.run.finished_at if self.run is not None else None
        stats, ended_at = self.stats, time.time()
        run = metrics_file.LastRun(
            exit_code=code,
            complete=self.complete,
            started_at=self.began,
            ended_at=ended_at,
            succeeded_at=(finished or ended_at) if self.complete else 0.0,
            users={"synced": self.totals.synced, "failed": self.totals.failed},
            failures=self.totals.errors,
            secrets=self.totals.secrets,
            requests=sum(stats.requests.values()) if stats else 0,
            throttled=stats.throttled if stats else 0,
            retries=sum(stats.retries.values()) if stats else 0,
            credentials=self.credentials,
        )
        metrics_file.write_last_run(path, run)


_CURRENT: ContextVar[Ending | None] = ContextVar("flowmate_ending", default=None)


def current() -> Ending:
    """Return the running command's ending; outside a command line, one that nothing listens to."""
    return _CURRENT.get() or Ending()


@contextlib.contextmanager
def ending_of(arguments: Sequence[str]) -> Iterator[Ending]:
    """In the block, a command runs. SIGTERM ends a sync as Ctrl-C does, so that its end is told.

    Args:
        arguments: the command line without the program's name.
    """
    ending = Ending()
    token = _CURRENT.set(ending)
    try:
        with (
            _handling(signal.SIGTERM, handler=_interrupt) if is_sync(arguments) else contextlib.nullcontext()
        ):
            yield ending
    finally:
        _CURRENT.reset(token)


def is_sync(arguments: Sequence[str]) -> bool:
    """Return whether a command line is that of a sync."""
    return arguments[:1] == [_COMMAND]


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag of a command line that cannot be parsed; ``None`` if it is not there."""
    for at, argument in enumerate(arguments):
        if argument == "--":
            return None
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and at + 1 < len(arguments):
            return arguments[at + 1]
    return None


def _uninterrupted() -> contextlib.AbstractContextManager[None]:
    """In the block, which is short, signals are ignored: the sync has ended already."""
    return _handling(signal.SIGINT, signal.SIGTERM, handler=signal.SIG_IGN)


@contextlib.contextmanager
def _handling(
    *numbers: signal.Signals, handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """In the block, handle signals this way; only in the main thread, which alone can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _reported() -> Iterator[list[str]]:
    """Print an error of the block instead of raising it; it must not hide how the sync ended."""
    problems: list[str] = []
    try:
        yield problems
    except FlowMateError as error:
        problems.append(str(error))
        print_error(str(error))
