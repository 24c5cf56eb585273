"""Progress of a sync on stderr: a live bar on a terminal, JSON lines elsewhere."""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from flowmate_async.cli.exits import json_text, print_status
from flowmate_async.events import Event, RunBegan, RunEnded, UserNotStored, UserSkipped, UserStored
from flowmate_async.redaction import one_line

_LINE_EVERY_SECONDS = 2.0
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
    """Return a bar if the stream is a terminal, JSON lines otherwise."""
    stream = stream or sys.stderr or io.StringIO()  # None if stderr was closed
    return _Bar(stream) if stream.isatty() else _Lines(stream)


class _Bar:
    def __init__(self, stream: TextIO) -> None:
        self._began = time.monotonic()
        self._requests = 0
        self._failed = 0
        console = Console(file=stream)
        self._progress = Progress(*_columns(console.width), console=console, transient=False)
        self._task = self._progress.add_task("sync", total=None, speed="", errors="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case RunBegan():
                self._progress.update(self._task, total=event.total)
            case UserSkipped():
                self._advance()
            case UserStored():
                self._requests += event.requests
                self._advance()
            case UserNotStored():
                self._requests += event.requests
                self._failed += 1
                self._advance()
                self._progress.console.print(
                    f"[red]{escape(one_line(event.message))}[/red]", highlight=False, soft_wrap=True
                )

    def _advance(self) -> None:
        rate = self._requests / max(time.monotonic() - self._began, 1e-3)
        speed = f"{rate:,.0f} req/s" if self._requests else ""  # a cluster does not tell
        errors = f"[red]{self._failed} failed[/red]" if self._failed else ""
        self._progress.update(self._task, advance=1, speed=speed, errors=errors)


def _columns(width: int) -> list[ProgressColumn]:
    """Return what fits into a line of that many characters."""
    counts: list[ProgressColumn] = [MofNCompleteColumn(), TextColumn("users")]
    errors = TextColumn("{task.fields[errors]}")
    if width < _NARROW:
        return [SpinnerColumn(), *counts, errors]
    return [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        *counts,
        TextColumn("{task.fields[speed]}"),
        errors,
        TimeRemainingColumn(compact=True),
    ]


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many credentials of a total are done: a bar on a terminal, single lines otherwise.

    Args:
        what: what is done to them.
    """
    stream = sys.stderr or io.StringIO()
    if not stream.isatty():
        yield lambda done, total: print_status(f"{done:,} of {total:,} credentials done")
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._written = self._began
        self._requests = 0
        self._done = 0
        self._failed = 0
        self._total: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._stream.flush()

    def __call__(self, event: Event) -> None:
        match event:
            case RunBegan():
                self._total = event.total
                self._write(event="run_began", run_id=event.run_id, resumed=event.resumed)
            case UserSkipped():
                self._done += 1
                self._write_now_and_then()
            case UserStored():
                self._requests += event.requests
                self._done += 1
                self._write_now_and_then()
            case UserNotStored():
                self._requests += event.requests
                self._done += 1
                self._failed += 1
                self._write(
                    event="user_failed", username=event.username, error=event.error, message=event.message
                )
            case RunEnded():
                self._write(event="run_ended", run_id=event.run_id, complete=event.complete)

    def _write_now_and_then(self) -> None:
        if time.monotonic() - self._written >= _LINE_EVERY_SECONDS:
            self._write(event="progress")

    def _write(self, **fields: object) -> None:
        self._written = time.monotonic()
        seconds = self._written - self._began
        counts = {
            "users_done": self._done,
            "users_total": self._total,
            "users_failed": self._failed,
            "requests": self._requests,
            "seconds": round(seconds, 3),
        }
        self._stream.write(json_text(fields | counts) + "\n")
