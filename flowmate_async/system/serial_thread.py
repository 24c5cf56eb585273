"""Blocking work in a worker thread, one piece at a time, whoever is cancelled meanwhile."""

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import anyio
from anyio import to_thread

T = TypeVar("T")


class OneAtATime:
    """A turnstile before worker threads. Made inside a running loop.

    Args:
        lock: outlives the loop. A task cancelled from outside leaves its thread at work; this keeps the
            next one waiting for it.
    """

    def __init__(self, lock: Lock) -> None:
        self._turn = anyio.CapacityLimiter(1)
        self._lock = lock

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in a thread, after what was begun before it; what has begun is finished."""
        return await to_thread.run_sync(self._alone, work, limiter=self._turn)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()
