"""Finish work that was started, even if its task is cancelled meanwhile."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish_despite_cancellation(work: Coroutine[Any, Any, T]) -> T:
    """Finish this work, then raise the cancellation that came meanwhile, if any.

    A cancel scope would shield from anyio's cancellations, but not from ``task.cancel()``.
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
