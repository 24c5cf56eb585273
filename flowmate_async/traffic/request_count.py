"""Counting the requests made on behalf of one user, across the tasks and flights that make them."""

from contextvars import ContextVar


class Tally:
    """A count of requests."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests: int = 0


_current: ContextVar[Tally | None] = ContextVar("flowmate_async_tally", default=None)


def count_in(tally: Tally) -> None:
    """Count the requests of the running task, and of tasks it starts, in this tally from now on."""
    _current.set(tally)


def count_request() -> None:
    """Count a request that goes out."""
    tally = _current.get()
    if tally is not None:
        tally.requests += 1
