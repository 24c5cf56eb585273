"""Ending tasks that miss a cancellation."""

import asyncio

import pytest

from flowmate_async.system.finishing import cancel_and_wait

pytestmark = pytest.mark.anyio


async def test_a_task_that_takes_cancellations_for_timeouts_is_ended():
    """As a driver does that waits with a timeout of its own and tries again."""
    missed = 0

    async def work():
        nonlocal missed
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                missed += 1
                if missed == 3:
                    raise

    stubborn, other = asyncio.create_task(work()), asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await cancel_and_wait(stubborn, other)
    assert stubborn.cancelled()
    assert other.cancelled()
    assert missed == 3


async def test_nothing_is_waited_for_without_tasks():
    ended = asyncio.create_task(asyncio.sleep(0))
    await ended
    await cancel_and_wait(ended)
    assert not ended.cancelled()
