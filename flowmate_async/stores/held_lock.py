"""End a run that has lost its lock and refuse its writes, so that two syncs never run at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable

import msgspec

from flowmate_async.errors import CheckpointError


@runtime_checkable
class ReportsRunLock(Protocol):
    """A store that can tell whether a run holds its lock, without taking it."""

    async def is_running(self) -> bool:
        """Return whether a run holds the lock."""
        ...


class LockHolder:
    """The task that holds a run lock. Create it in that task."""

    def __init__(self) -> None:
        self.lost: str = ""
        self._task = asyncio.current_task()

    def lose(self, reason: str) -> None:
        """Cancel the holder because its lock was lost. A second call does nothing."""
        if not self.lost:
            self.lost = reason
            if self._task is not None:
                self._task.cancel()


@asynccontextmanager
async def cancelled_when_lost(where: str) -> AsyncIterator[LockHolder]:
    """Run a block that holds a run lock. The block is cancelled if the lock is lost.

    Raises:
        CheckpointError: the lock was lost.
    """
    holder = LockHolder()
    try:
        yield holder
    except asyncio.CancelledError:
        if not holder.lost:
            raise
    if holder.lost:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        raise lock_lost(where, holder.lost)


def lock_lost(where: str, reason: str) -> CheckpointError:
    """Return the error for a run whose lock was lost."""
    return CheckpointError(
        f"the run lock of the store {where} was lost: {reason}",
        advice="Run again: what was acknowledged is kept",
    )


class Fence(msgspec.Struct, frozen=True):
    """Fence: lets a write pass only while its store still holds the run lock.

    Attributes:
        holder: the holder that ``meta`` must name; ``None`` for stores that do not hold the lock themselves,
            such as those of a run's worker processes.
        where: the store, for messages.
    """

    holder: str | None
    where: str

    def require(self, found: str | None) -> None:
        """Refuse a write after another run has taken the lock.

        Args:
            found: the holder that ``meta`` names.

        Raises:
            CheckpointError: it is another holder.
        """
        if self.holder is not None and found != self.holder:
            raise lock_lost(self.where, "another run has taken it")
