"""Messages on stderr: lines for people, or JSON Lines without exception.

Each JSON line has ``ts`` (RFC 3339), ``level``, ``event`` and ``run_id`` (``null`` until the run is known).
Records of :mod:`logging`, warnings and tracebacks become such lines as well. The schema is
``reporting/schemas/events.v1.json``.
"""

import contextlib
import logging
import sys
import threading
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from flowmate_async.redaction import escaped, one_line

Level = Literal["info", "warning", "error"]
_COMMANDS = (
    ("sync",),
    ("worker",),
    ("store", "rekey"),
    ("store", "upgrade"),
    ("store", "migrate"),
    ("store", "import"),
)
"""The commands that run unattended: their messages are JSON Lines unless stderr is a terminal."""

_VARIABLE = "FLOWMATE_LOG_FORMAT"
_LIMIT = 4000
_TRACEBACK_LIMIT = 20_000


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LogFlags:
    """What messages look like; read by ``app.py`` before anything can be printed."""

    log_format: Annotated[
        Literal["text", "json"] | None,
        Parameter(
            env_var=_VARIABLE,
            group="Output",
            help="Format of the messages on stderr: text, or json for JSON Lines. json is the default unless "
            "stderr is a terminal.",
        ),
    ] = None


class _Log:
    def __init__(self) -> None:
        self.json = False
        self.run_id: str | None = None


_LOG = _Log()


def is_json() -> bool:
    """Return whether messages are JSON Lines."""
    return _LOG.json


def run_id() -> str | None:
    """Return the run in the lines; ``None`` until it is known."""
    return _LOG.run_id


def set_run(run_id: str) -> None:
    """Name the run in every line from now on."""
    _LOG.run_id = run_id


def log_json(named: str | None, arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether a command logs JSON Lines.

    Args:
        named: the value of ``--log-format``, if it is given.
        arguments: the command line.
        environ: the environment.
    """
    chosen = named or environ.get(_VARIABLE)
    if chosen in ("text", "json"):
        return chosen == "json"
    unattended = any(tuple(arguments[: len(command)]) == command for command in _COMMANDS)
    return unattended and not (sys.stderr is not None and sys.stderr.isatty())


@contextlib.contextmanager
def logging_to_stderr(*, as_json: bool) -> Iterator[None]:
    """In the block, messages have this format, also those of libraries, and tracebacks."""
    before = _LOG.json, _LOG.run_id
    _LOG.json, _LOG.run_id = as_json, None
    try:
        with _records_as_json() if as_json else contextlib.nullcontext():
            yield
    finally:
        _LOG.json, _LOG.run_id = before


def write_line(level: Level, event: str, **fields: object) -> None:
    """Write a JSON line; one that cannot be written is dropped.

    Args:
        level: how bad it is.
        event: what happened, in snake_case.
        fields: whatever else is known.
    """
    line = {
        "ts": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "event": event,
        "run_id": _LOG.run_id,
    } | fields
    with contextlib.suppress(OSError, ValueError):  # a closed pipe, a full disk, a closed stream
        print(escaped(msgspec.json.encode(line).decode()), file=sys.stderr, flush=True)  # noqa: T201


def write_message(
    level: Level, event: str, text: str, fields: Mapping[str, object], *, limit: int = _LIMIT
) -> None:
    """Write a message as one line, in the format of the log; one that cannot be written is dropped.

    Args:
        level: how bad it is.
        event: what happened, in snake_case.
        text: the message.
        fields: whatever else is known; only for JSON.
        limit: maximum characters of the message.
    """
    if _LOG.json:
        write_line(level, event, **{"message": one_line(text, limit=limit), **fields})
        return
    with contextlib.suppress(OSError):
        print(one_line(text if level == "info" else f"flowmate: {text}", limit=limit), file=sys.stderr)  # noqa: T201


def write_crash(error: BaseException) -> None:
    """Write the traceback of a bug; it contains no locals."""
    if _LOG.json:
        _write_traceback("crash", error)
    else:
        with contextlib.suppress(OSError):
            traceback.print_exception(error)


def _write_traceback(event: str, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))[-_TRACEBACK_LIMIT:]
    write_line("error", event, message=f"{type(error).__name__}, a bug: please report it", traceback=text)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        fields = {"message": one_line(record.getMessage(), limit=_LIMIT), "logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))[-_TRACEBACK_LIMIT:]
        write_line(level, "log", **fields)


@contextlib.contextmanager
def _records_as_json() -> Iterator[None]:
    handler, root = _Handler(logging.WARNING), logging.getLogger()
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    sys.excepthook, sys.unraisablehook, threading.excepthook = _crashed, _unraisable, _thread_crashed
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)


def _crashed(_kind: type[BaseException], error: BaseException, _trace: types.TracebackType | None) -> None:
    _write_traceback("crash", error)


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    if found.exc_value is not None:
        _write_traceback("unraisable", found.exc_value)


def _thread_crashed(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None:
        _write_traceback("crash", found.exc_value)
