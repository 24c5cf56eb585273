"""Finish work despite a cancellation, and end tasks that may miss one."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_AGAIN_SECONDS = 0.2


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


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until each of them has ended.

    Once is not always enough: the drivers of Redis may mistake a cancellation for a timeout of their own.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
