"""The run lock of a service that has no locks: a lease in the store's own document, renewed while held.

A vanished process holds it until the lease ends by the waiting processes' clocks. If clocks differ by more
than two thirds of the lease, two processes could hold it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from flowmate_async.clock import Clock
from flowmate_async.errors import FlowMateError, RunInProgressError
from flowmate_async.stores.documents.base import RunLease, StoreState
from flowmate_async.stores.held_lock import LockHolder, cancelled_when_lost
from flowmate_async.system.finishing import finish_despite_cancellation

Change = Callable[[Callable[[StoreState], StoreState]], Coroutine[Any, Any, StoreState]]


@asynccontextmanager
async def held_lease(change: Change, *, clock: Clock, seconds: float, where: str) -> AsyncIterator[None]:
    """Hold the lease. If it is lost, cancel the task that holds it.

    Args:
        change: changes the store's own document by check-and-set.
        clock: decides when a lease ends.
        seconds: how long it lasts unless it is renewed.
        where: the store, for messages.

    Raises:
        RunInProgressError: another run holds it.
        CheckpointError: it was lost.
    """
    owner = os.urandom(16).hex()

    def take(state: StoreState) -> StoreState:
        now, lease = clock.wall(), state.lease
        if lease is not None and lease.owner != owner and lease.until > now:
            until = datetime.fromtimestamp(lease.until, UTC).strftime("%H:%M:%S UTC")
            raise RunInProgressError(
                f"another run holds the store {where} until {until}, and for longer if it goes on",
                advice="Wait for it to end, or stop its process and wait until then",
            )
        return replace(state, lease=RunLease(owner, now + seconds))

    def give_back(state: StoreState) -> StoreState:
        mine = state.lease is not None and state.lease.owner == owner
        return replace(state, lease=None) if mine else state

    try:
        await change(take)
    except asyncio.CancelledError:  # after the writing, perhaps, which is finished in any case
        await finish_despite_cancellation(change(give_back))
        raise
    async with cancelled_when_lost(where) as holder:
        renewal = asyncio.get_running_loop().create_task(
            _renewed(holder, lambda: change(take), clock=clock, seconds=seconds / 3)
        )
        try:
            yield
        finally:
            await finish_despite_cancellation(_ended(renewal, holder, lambda: change(give_back)))


async def _renewed(
    holder: LockHolder, renew: Callable[[], Awaitable[StoreState]], *, clock: Clock, seconds: float
) -> None:
    """Renew a lease until that fails, then cancel its holder."""
    while True:
        await clock.sleep(seconds)
        try:
            await renew()
        except FlowMateError as failure:
            holder.lose(failure.message)
            return


async def _ended(
    renewal: asyncio.Task[None], holder: LockHolder, give_back: Callable[[], Awaitable[StoreState]]
) -> None:
    renewal.cancel()
    await asyncio.gather(renewal, return_exceptions=True)
    if not holder.lost:
        await give_back()
