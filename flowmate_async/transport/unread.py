"""Whether anything waits on an idle connection that the event loop has not looked at yet.

Nothing was asked there, so it can only be the connection's end, or bytes that would be taken for the answer
to the next request. It costs a system call of half a microsecond, and narrows the window in which that can
happen to the time a request takes to leave; nothing can close it, since HTTP/1.1 does not number its answers.
"""

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress

_LOOK = getattr(select, "POLLIN", 0) | getattr(select, "POLLRDHUP", 0)


def unread_on(transport: asyncio.BaseTransport | None) -> Callable[[], bool]:
    """A function that tells it of this connection; always ``False`` where the platform cannot tell."""
    socket = None if transport is None else transport.get_extra_info("socket")
    if socket is None or not hasattr(select, "poll"):
        return lambda: False
    poller = select.poll()
    with suppress(OSError, ValueError):  # closed already
        poller.register(socket.fileno(), _LOOK)
    return lambda: bool(poller.poll(0))
