"""Two priorities: who is waited for, and who can wait."""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Priority(enum.IntEnum):
    """How urgent a request is; it is inherited by the tasks and flights that are started for it."""

    INTERACTIVE = 0
    """Somebody waits for this one answer."""
    BACKGROUND = 1
    """A sweep or a prefetch: goes behind, and waits out a sick upstream instead of failing."""


_current: ContextVar[Priority] = ContextVar("flowmate_async_priority", default=Priority.INTERACTIVE)


def current_priority() -> Priority:
    """The priority of what is being done now."""
    return _current.get()


@contextmanager
def in_background() -> Iterator[None]:
    """Within, and in tasks started within, everything goes behind interactive requests."""
    token = _current.set(Priority.BACKGROUND)
    try:
        yield
    finally:
        _current.reset(token)


def set_background() -> None:
    """Make the running task, and those it starts, a background one for good."""
    _current.set(Priority.BACKGROUND)


def set_interactive() -> None:
    """Make the current context an interactive one for good."""
    _current.set(Priority.INTERACTIVE)
