"""Progress of a sync on stderr: a live bar on a terminal, lines of the log elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from flowmate_async.cli.log import Level, is_json, write_message
from flowmate_async.events import (
    Event,
    RunBegan,
    RunEnded,
    Throttled,
    UserNotStored,
    UserSkipped,
    UserStored,
)
from flowmate_async.redaction import one_line

_LINE_EVERY_SECONDS = 2.0
_TEXT_EVERY_SECONDS = 10.0
_NARROW = 64
"""Minimum terminal width for a bar, in columns."""


class Display(Protocol):
    """Shows a sync's events; a context manager and a listener."""

    def __enter__(self) -> Self:
        """Start the display."""
        ...

    def __exit__(self, *details: object) -> None:
        """Restore the terminal."""
        ...

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        ...


def display(*, stream: TextIO | None = None) -> Display:
    """Return a bar if the stream is a terminal and the log is text; otherwise lines of the log on stderr."""
    stream = stream or sys.stderr
    if is_json() or stream is None or not stream.isatty():
        return _Lines()
    return _Bar(stream)


class _Bar:
    def __init__(self, stream: TextIO) -> None:
        self._counts = _Counts()
        console = Console(file=stream)
        self._progress = Progress(*_columns(console.width), console=console, transient=False)
        self._task = self._progress.add_task("sync", total=None, speed="", errors="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        counts = self._counts
        counts.count(event)
        if isinstance(event, RunBegan):
            self._progress.update(self._task, total=event.total)
        if isinstance(event, UserNotStored):
            self._progress.console.print(
                f"[red]{escape(one_line(event.message))}[/red]", highlight=False, soft_wrap=True
            )
        if isinstance(event, UserStored | UserNotStored | UserSkipped | Throttled):
            speed = f"{counts.requests / max(counts.seconds, 1e-3):,.0f} req/s" if counts.requests else ""
            failed = f"[red]{counts.failed:,} failed[/red]" if counts.failed else ""
            throttled = f"[yellow]{counts.throttled:,} throttled[/yellow]" if counts.throttled else ""
            self._progress.update(
                self._task,
                completed=counts.done,
                speed=speed,
                errors=" ".join(filter(None, (failed, throttled))),
            )


def _columns(width: int) -> list[ProgressColumn]:
    """Return what fits into a line of that many characters."""
    counts: list[ProgressColumn] = [MofNCompleteColumn(), TextColumn("users")]
    errors = TextColumn("{task.fields[errors]}")
    share, left = TaskProgressColumn(), TimeRemainingColumn(compact=True)
    if width < _NARROW:
        return [share, *counts, left, errors]
    return [
        SpinnerColumn(),
        BarColumn(bar_width=None),
        share,
        *counts,
        TextColumn("{task.fields[speed]}"),
        errors,
        left,
    ]


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many credentials of a total are done: a bar on a terminal, single lines otherwise.

    Args:
        what: what is done to them.
    """
    stream = sys.stderr
    if is_json() or stream is None or not stream.isatty():
        yield partial(_counted, what)
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _counted(what: str, done: int, total: int) -> None:
    text = f"{what}: {done:,} of {total:,} credentials done"
    write_message("info", "progress", text, {"credentials_done": done, "credentials_total": total})


class _Counts:
    """What has been done so far."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.total: int | None = None
        self.done = 0
        self.failed = 0
        self.requests = 0
        self.throttled = 0

    def count(self, event: Event) -> None:
        match event:
            case RunBegan():
                self.total = event.total
            case UserSkipped():
                self.done += 1
            case UserStored():
                self.requests += event.requests
                self.done += 1
            case UserNotStored():
                self.requests += event.requests
                self.done += 1
                self.failed += 1
            case Throttled():
                self.throttled += 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


class _Lines:
    """One line now and then, and one per failed user: JSON, or text in a file."""

    def __init__(self) -> None:
        self._counts = _Counts()
        self._written = self._counts.began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        """Leave the stream as it is."""

    def __call__(self, event: Event) -> None:
        self._counts.count(event)
        match event:
            case RunBegan():
                how = "resumed" if event.resumed else "began"
                self._write("info", "run_began", f"Run {event.run_id} {how}", resumed=event.resumed)
            case UserNotStored():
                self._write(
                    "warning", "user_failed", event.message, username=event.username, error=event.error
                )
            case RunEnded():
                how = "complete" if event.complete else "incomplete"
                self._write("info", "run_ended", f"Run {event.run_id} {how}", complete=event.complete)
            case UserStored() | UserSkipped():
                apart = _LINE_EVERY_SECONDS if is_json() else _TEXT_EVERY_SECONDS
                if time.monotonic() - self._written >= apart:
                    self._write("info", "progress", self._progress())

    def _progress(self) -> str:
        counts = self._counts
        of = "" if counts.total is None else f" of {counts.total:,}"
        return (
            f"{counts.done:,}{of} users, {counts.failed:,} failed, {plural(counts.requests, 'request')}"
            f"{throttling(counts.throttled)}, {counts.seconds:.0f} s"
        )

    def _write(self, level: Level, event: str, text: str, **fields: object) -> None:
        self._written = time.monotonic()
        counts = self._counts
        known: dict[str, object] = {
            "users_done": counts.done,
            "users_total": counts.total,
            "users_failed": counts.failed,
            "requests": counts.requests,
            "throttled": counts.throttled,
            "seconds": round(counts.seconds, 3),
        }
        write_message(level, event, text, fields | known)


def throttling(times: int) -> str:
    """Return how often FlowMate throttled, as the end of a sentence's part; empty for never."""
    return f", throttled {plural(times, 'time')}" if times else ""


def plural(count: int, noun: str) -> str:
    """Return a count and its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
