"""Two priorities: interactive requests, and background requests that can wait."""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Priority(enum.IntEnum):
    """The urgency of a request. Tasks and flights started for it inherit it."""

    INTERACTIVE = 0
    """A caller waits for this one answer."""
    BACKGROUND = 1
    """A sweep or a prefetch: it queues behind and waits for a failing upstream to recover."""


_current: ContextVar[Priority] = ContextVar("flowmate_async_priority", default=Priority.INTERACTIVE)


def current_priority() -> Priority:
    """Return the priority of the current context."""
    return _current.get()


@contextmanager
def in_background() -> Iterator[None]:
    """Give requests in this block, and in tasks started in it, background priority."""
    token = _current.set(Priority.BACKGROUND)
    try:
        yield
    finally:
        _current.reset(token)


def set_background() -> None:
    """Give the running task, and tasks it starts, background priority permanently."""
    _current.set(Priority.BACKGROUND)
