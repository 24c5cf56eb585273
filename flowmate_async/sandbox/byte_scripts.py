"""Byte scripts: how the bytes of an answer are corrupted in transit. Pure, from head and body to steps."""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum

import msgspec

from flowmate_async.sandbox.faults import (
    Fault,
    HangInBody,
    Overlong,
    ResetInBody,
    ResetInHeaders,
    SlowLoris,
    StaleKeepAlive,
    StaleNextRequest,
    Truncated,
    WrongLength,
)

_AFTER_THE_END = b"HTTP/1.1 200 OK\r\n\r\n<!-- bytes after the end -->"


class Ending(Enum):
    """State of the connection after the last step."""

    KEPT = "kept"
    STALE = "kept, but its next request is reset"
    CLOSED = "closed in order"
    RESET = "reset"
    SILENT = "open and silent until the caller goes"


Step = bytes | float
"""Bytes to write, or seconds to wait."""


class Script(msgspec.Struct, frozen=True):
    """Steps, then the ending; ``seconds`` bounds a silence."""

    steps: Iterable[Step]
    ending: Ending
    seconds: float | None = None


def script_for(fault: Fault, body: bytes, head: Callable[[int], bytes]) -> Script | None:
    """Return a fault's script, None for a fault without one; ``head(content_length)`` makes the head."""
    whole, half = head(len(body)), len(body) // 2
    match fault:
        case ResetInHeaders():
            return Script((whole[: len(whole) // 2],), Ending.RESET)
        case ResetInBody():
            return Script((whole + body[:half],), Ending.RESET)
        case HangInBody(seconds=seconds):
            return Script((whole + body[:half],), Ending.SILENT, seconds)
        case Truncated():
            return Script((whole + body[:half],), Ending.CLOSED)
        case StaleKeepAlive():
            return Script((whole + body,), Ending.CLOSED)
        case StaleNextRequest():
            return Script((whole + body,), Ending.STALE)
        case Overlong():
            return Script((whole + body + _AFTER_THE_END,), Ending.KEPT)
        case WrongLength():
            return Script((head(half) + body,), Ending.KEPT)
        case SlowLoris(seconds=seconds, piece_bytes=size):
            return Script(_in_pieces(whole + body, size, seconds), Ending.KEPT)
        case _:
            return None


def _in_pieces(sent: bytes, size: int, pause_seconds: float) -> Iterator[Step]:
    for start in range(0, len(sent), size):
        if start:
            yield pause_seconds
        yield sent[start : start + size]
