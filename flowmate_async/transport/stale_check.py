"""Whether anything waits on an idle connection that the event loop has not looked at yet.

Nothing was asked there, so it can only be the connection's end, or bytes that would be taken for the answer
to the next request. The look costs a system call of half a microsecond and narrows the window for such bytes
to the time a request takes to leave. Nothing can close it, since HTTP/1.1 does not number its answers.
"""

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress
from functools import partial

_LOOK = getattr(select, "POLLIN", 0) | getattr(select, "POLLRDHUP", 0)


def nothing_unread() -> bool:
    """Return ``False``: for a connection without a socket to look at."""
    return False


def unread_on(transport: asyncio.BaseTransport) -> Callable[[], object]:
    """Return a function that returns whether anything waits; never where the platform cannot tell."""
    socket = transport.get_extra_info("socket")
    if socket is None or not hasattr(select, "poll"):
        return nothing_unread
    poller = select.poll()
    with suppress(OSError, ValueError):  # closed already
        poller.register(socket.fileno(), _LOOK)
    return partial(poller.poll, 0)
