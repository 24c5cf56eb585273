"""The laws of concurrency and cancellation; a part of :class:`~.store_suite.StoreSuite`."""

# ruff: noqa: S101 - these are tests

from collections.abc import Sequence

import anyio
import pytest
from msgspec.structs import replace

from flowmate_async.errors import CheckpointError
from flowmate_async.stores.base import Run, RunTotals, Store, UserWrite, Written
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import ORIGIN, OpenStore, collect, synced, write

__all__ = [
    "ConcurrencyLaws",
]


class ConcurrencyLaws:
    """Locks, cancellation, concurrent writers."""

    async def test_one_run_at_a_time(self, open_store: OpenStore) -> None:
        """A second taker fails at once; the lock is free again afterwards, even after an error."""
        async with open_store() as store:
            async with store.exclusive_run():
                with pytest.raises(CheckpointError):
                    await _hold(store)
                await write(store, synced("ann", api_key()))
            with pytest.raises(ZeroDivisionError):
                await _hold(store, fail=True)
            await _hold(store)

    async def test_a_cancelled_run_lets_go_of_the_lock(self, open_store: OpenStore) -> None:
        """The next run can begin at once."""
        async with open_store() as store:
            with anyio.CancelScope() as scope:
                async with store.exclusive_run():
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            await _hold(store)

    async def test_concurrent_writers_lose_nothing(self, open_store: OpenStore) -> None:
        """Tasks may share a store; each write is atomic."""
        async with open_store() as store:
            run = await write(store)
            async with anyio.create_task_group() as group:
                for writer in range(8):
                    group.start_soon(_write_many, store, run, writer)
            assert await store.totals(run) == RunTotals(synced=80, secrets=160, requests=160)
            assert (await store.verify()).intact == 160

    async def test_two_openings_of_a_store_see_and_lose_nothing(self, open_store: OpenStore) -> None:
        """Like two processes: both write, each sees the other's writes, and only one holds the run lock."""
        async with open_store() as one, open_store() as other:
            run = await write(one, synced("ann", api_key()))
            await other.bind(ORIGIN)
            assert await other.last_run() == run
            async with anyio.create_task_group() as group:
                group.start_soon(_write_many, one, run, 1)
                group.start_soon(_write_many, other, run, 2)
            for store in (one, other):
                assert await store.totals(run) == RunTotals(synced=21, secrets=41, requests=42)
                assert len(await collect(store.items())) == 41
                assert await store.get("user-1-9", "b") == await store.get("user-2-9", "b") == api_key("b")
            async with one.exclusive_run():
                with pytest.raises(CheckpointError):
                    await _hold(other)
            await _hold(other)

    async def test_two_writers_of_the_same_users_do_not_block_each_other(self, open_store: OpenStore) -> None:
        """In any order of their batches, the last write wins as a whole."""
        users = [synced(f"user-{number}", api_key("a"), api_key("b")) for number in range(20)]
        async with open_store() as one, open_store() as other:
            run = await write(one)
            await other.bind(ORIGIN)
            for turn in range(5):
                again = [
                    replace(user, secrets=tuple(api_key(s.id, key=f"{turn}") for s in user.secrets))
                    for user in users
                ]
                async with anyio.create_task_group() as group:
                    group.start_soon(one.write, run, again)
                    group.start_soon(other.write, run, again[::-1])
            assert await one.totals(run) == RunTotals(synced=20, secrets=40, requests=40)
            expected = [(user.checkpoint.username, secret) for user in again for secret in user.secrets]
            assert await collect(other.secrets()) == sorted(expected, key=lambda pair: pair[0])

    async def test_a_cancelled_write_leaves_whole_users_and_a_usable_store(
        self, open_store: OpenStore
    ) -> None:
        """Each user is stored with checkpoint and all credentials, or not at all."""
        users = [synced(f"user-{n}", *(api_key(f"s{k}") for k in range(20))) for n in range(50)]
        async with open_store() as store:
            run = await write(store)
            async with anyio.create_task_group() as group:
                group.start_soon(store.write, run, users)
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            done = await store.statuses(run, [user.checkpoint.username for user in users])
            assert len(await collect(store.items())) == 20 * len(done)
            assert await store.write(run, [synced("late", api_key())]) == Written(1, 0)


async def _write_many(store: Store, run: Run, writer: int) -> None:
    for number in range(10):
        batch: Sequence[UserWrite] = [synced(f"user-{writer}-{number}", api_key("a"), api_key("b"))]
        await store.write(run, batch)


async def _hold(store: Store, *, fail: bool = False) -> None:
    async with store.exclusive_run():
        if fail:
            raise ZeroDivisionError
