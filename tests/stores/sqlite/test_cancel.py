"""Cancelled however often, a store gives its run lock back."""

import asyncio

import pytest

from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("pauses", range(8))
async def test_a_run_that_is_cancelled_twice_leaves_the_lock_free(tmp_path, pauses):
    """At whatever step of its ending the second cancellation comes."""
    async with SqliteStore(tmp_path / "credentials.db", key=StoreKey.generate()) as store:
        inside = asyncio.Event()

        async def hold():
            async with store.exclusive_run():
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.get_running_loop().create_task(hold())
        await inside.wait()
        task.cancel()
        for _ in range(pauses):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with store.exclusive_run():
            pass
