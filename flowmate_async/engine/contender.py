"""Waiters for the turn of a secret or for a refresh slot: calls, and coroutines with a ticket."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from flowmate_async.engine.priority import Priority
from flowmate_async.engine.states import DONE, READY


class Contender(Protocol):
    """A call, or a :class:`Ticket`."""

    state: int
    priority: Priority

    def go_on(self) -> None:
        """Resume: what it waited for is available."""


class Ticket:
    """Waits on behalf of a coroutine.

    Args:
        priority: the queue it waits in.
        hurry: called when an interactive contender waits behind this background one.

    Attributes:
        has_come: whether what it waits for has come, even if the coroutine was cancelled at the same time.
    """

    __slots__ = ("_came", "has_come", "hurry", "priority", "state")

    def __init__(self, priority: Priority, hurry: Callable[[], object] = lambda: None) -> None:
        self.priority: Priority = priority
        self.hurry: Callable[[], object] = hurry
        self.state: int = READY
        self.has_come: bool = False
        self._came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def go_on(self) -> None:
        """Wake the coroutine."""
        self.has_come = True
        if not self._came.done():
            self._came.set_result(None)

    async def wait(self) -> None:
        """Wait until :meth:`go_on` is called."""
        try:
            await self._came
        except asyncio.CancelledError:
            self.state = DONE
            raise
