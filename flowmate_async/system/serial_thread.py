"""Blocking calls in a worker thread, one at a time, even if the task that made one is cancelled."""

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import anyio
from anyio import to_thread

T = TypeVar("T")


class SerialThread:
    """Runs blocking calls in a worker thread, one after the other. Made inside a running loop.

    Args:
        lock: outlives the loop. A task that is cancelled from outside leaves its thread running; the next
            call waits for that thread.
    """

    def __init__(self, lock: Lock) -> None:
        self._turn = anyio.CapacityLimiter(1)
        self._lock = lock

    async def run(self, work: Callable[[], T]) -> T:
        """Run the work in a thread, after earlier work. Work that was started is always finished."""
        return await to_thread.run_sync(self._alone, work, limiter=self._turn)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()
