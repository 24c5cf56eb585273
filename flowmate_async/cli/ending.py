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
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

import msgspec

from flowmate_async.cli.alert_flags import AlertFlags, run_on_failure
from flowmate_async.cli.exits import Exit, print_error, print_warning
from flowmate_async.cli.log import run_id, set_run
from flowmate_async.cli.loop import run_async
from flowmate_async.errors import ConfigurationError, FlowMateError, RunInProgressError
from flowmate_async.events import Event, RunBegan

if TYPE_CHECKING:  # they are not needed by every command
    from flowmate_async.integrations.ping import Ping
    from flowmate_async.stats import Stats
    from flowmate_async.stores import Run, RunTotals, Store

_COMMAND = "sync"


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """What learns of the end of a sync.

    Attributes:
        metrics_file: the metrics file.
        ping: the monitor.
        on_failure: a program to run if the exit code is not 0, and its arguments.
    """

    metrics_file: Path | None = None
    ping: "Ping | None" = None
    on_failure: list[str] | None = None

    @classmethod
    def unparsed(cls, arguments: Sequence[str], environ: Mapping[str, str]) -> "Listeners":
        """Read the flags from a command line that cannot be parsed."""

        def named(flag: str) -> str | None:
            variable = f"FLOWMATE_{flag.upper().replace('-', '_')}"
            return flag_value(arguments, f"--{flag}") or environ.get(variable)

        path, ping, command = named("metrics-file"), None, None
        flags = AlertFlags(ping_url=named("ping-url"), on_failure=named("on-failure"))
        with contextlib.suppress(ConfigurationError):  # the command line is refused already
            ping = flags.ping()
        with contextlib.suppress(ConfigurationError):
            command = flags.command()
        return cls(metrics_file=Path(path) if path else None, ping=ping, on_failure=command)


@dataclass(kw_only=True)
class Ending:
    """What is known of the end of one sync.

    Attributes:
        listeners: what learns of it; ``None`` while the command has not begun.
        began: when the process began, in seconds since the Unix epoch.
        succeeded_at: when a run last tried every user, as the store has it; 0 if that is not known.
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
    run: "Run | None" = None
    totals: "RunTotals | None" = None
    stats: "Stats | None" = None
    succeeded_at: float = 0.0
    credentials: dict[tuple[str, str], int] = field(default_factory=dict)
    _start: asyncio.Task[None] | None = None

    def note(self, event: Event) -> None:
        """Listen to the sync; tells the listeners that a run began. For the event loop."""
        if isinstance(event, RunBegan):
            set_run(event.run_id)
            self.began_run = True
            told = self.listeners
            if told is not None and told.metrics_file is not None:
                with _reported():  # at once, so that no kill comes before it
                    self._write_running(told.metrics_file)
            if told is not None and told.ping is not None:
                about = {"event": "start", "run_id": event.run_id}
                self._start = asyncio.get_running_loop().create_task(_pinged(told.ping, "start", about))

    async def note_end(self, store: "Store", stats: "Callable[[], Stats]", *, complete: bool) -> None:
        """Note how the run ended, before the store and the client are closed."""
        from flowmate_async.stores.run_history import last_success  # noqa: PLC0415 - only syncs need it
        from flowmate_async.sync.health import count_health  # noqa: PLC0415 - the same

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
                success = await last_success(store)
                self.succeeded_at = (success.finished_at if success else None) or 0.0

    def _write_running(self, path: Path) -> None:
        from flowmate_async.integrations import metrics_file  # noqa: PLC0415 - an extra

        metrics_file.write_running(path, started_at=self.began)

    def tell(self, code: int, error: BaseException | None) -> int:
        """Tell the listeners. Return the exit code: another one if they could not be told of a success.

        Args:
            code: the command's exit code.
            error: what ended the command.
        """
        told = self.listeners
        if told is None:
            return code
        refused = isinstance(error, RunInProgressError)
        with _uninterrupted():
            if told.metrics_file is not None:
                with _reported() as problems:
                    self._write_metrics(told.metrics_file, code, refused=refused)
                if problems:
                    code = code or Exit.USAGE
            about = self._about(code, error)
            if told.ping is not None and not refused:  # the sync that runs pings by itself
                event: _PingEvent = "success" if self._is_success() else "failure"
                run_async(partial(_pinged, told.ping, event, {"event": event} | about))
            if told.on_failure is not None and code != Exit.OK:
                run_on_failure(told.on_failure, about)
        return code

    def _about(self, code: int, error: BaseException | None) -> dict[str, object]:
        """Return how the sync ended, without names of users."""
        kind = error.kind if isinstance(error, FlowMateError) else "crash" if error else None
        return {
            "exit_code": code,
            "run_id": run_id(),
            "complete": self.complete,
            "users": self._users(),
            "failures": self.totals.errors if self.totals else {},
            "error": kind,
        }

    def _is_success(self) -> bool:
        from flowmate_async.stores.run_history import is_success  # noqa: PLC0415 - only syncs need it

        return self.complete and self.totals is not None and is_success(self.totals)

    def _users(self) -> dict[str, int]:
        totals = self.totals
        return {"synced": totals.synced if totals else 0, "failed": totals.failed if totals else 0}

    def _write_metrics(self, path: Path, code: int, *, refused: bool) -> None:
        from flowmate_async.integrations import metrics_file  # noqa: PLC0415 - an extra

        if refused:
            metrics_file.write_refused(path)
            return
        metrics_file.require_metrics_path(path)
        totals, stats, ended_at = self.totals, self.stats, time.time()
        run = metrics_file.LastRun(
            exit_code=code,
            complete=self.complete,
            started_at=self.began,
            ended_at=ended_at,
            succeeded_at=self.succeeded_at,
            users=self._users(),
            failures=totals.errors if totals else {},
            secrets=totals.secrets if totals else 0,
            requests=sum(stats.requests.values()) if stats else 0,
            throttled=stats.throttled if stats else 0,
            retries=sum(stats.retries.values()) if stats else 0,
            credentials=self.credentials,
        )
        metrics_file.write_last_run(path, run)


_PingEvent = Literal["start", "success", "failure"]


async def _pinged(ping: "Ping", event: _PingEvent, about: Mapping[str, object]) -> None:
    problem = await ping.send(event, msgspec.json.encode(about))
    if problem:
        print_warning(f"the ping URL was not told of the {event}: {problem}", event="not_pinged")


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


def is_flag_given(arguments: Sequence[str], flag: str) -> bool:
    """Return whether a command line has a flag, before the ``--`` that begins another program's."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return flag in own


@contextlib.contextmanager
def _reported() -> Iterator[list[str]]:
    """Print an error of the block instead of raising it; it must not hide how the sync ended."""
    problems: list[str] = []
    try:
        yield problems
    except FlowMateError as error:
        problems.append(str(error))
        print_error(str(error), event="not_told")
