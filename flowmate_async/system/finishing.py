"""Finishing what has begun, whatever is cancelled meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Finish this, however often the task is cancelled meanwhile; the cancellation comes after it.

    A cancel scope would shield from anyio's cancellations, and not from ``task.cancel()``.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    result = await task
    if cancelled is not None:
        raise cancelled
    return result
