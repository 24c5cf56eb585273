"""Counting the requests made on behalf of one task, across the flights it starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Tally:
    """A count of requests."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests: int = 0


_current: ContextVar[Tally | None] = ContextVar("flowmate_async_tally", default=None)


@contextmanager
def tallied() -> Iterator[Tally]:
    """Count the requests sent from within, and from tasks started within."""
    tally = Tally()
    token = _current.set(tally)
    try:
        yield tally
    finally:
        _current.reset(token)


def count_request() -> None:
    """One request goes out."""
    tally = _current.get()
    if tally is not None:
        tally.requests += 1
