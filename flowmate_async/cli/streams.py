"""The standard streams of a command: always open, and able to write every character."""

import codecs
import contextlib
import io
import os
import sys
from typing import TextIO

from flowmate_async.redaction import as_escapes

_ESCAPING = "flowmate.escape"
_MODES = {0: "r", 1: "w", 2: "w"}


def prepare_streams() -> None:
    """Open missing standard streams, and escape what a terminal cannot show.

    A descriptor from 0 to 2 that was closed at the start would be reused for the next file or socket, which
    would then receive the printed output.
    """
    codecs.register_error(_ESCAPING, _escape)
    for number in _MODES:
        _open_if_closed(number)
    sys.stdin = sys.stdin or _stream(0)
    sys.stdout = sys.stdout or _stream(1)
    sys.stderr = sys.stderr or _stream(2)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ESCAPING)


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        with contextlib.suppress(OSError):
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(number, True)  # noqa: FBT003 - positional only


def _stream(number: int) -> TextIO:
    raw = io.FileIO(number, _MODES[number], closefd=False)
    buffered = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding="utf-8")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return as_escapes(error.object[error.start : error.end]), error.end
