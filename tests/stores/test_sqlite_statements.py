"""What the statements of a sqlite store cost: of one user, the same however many others there are."""

import pytest

from flowmate_async.stores import Checkpoint, UserWrite
from flowmate_async.testing.samples import api_key

pytestmark = pytest.mark.anyio


def user(name: str) -> UserWrite:
    checkpoint = Checkpoint(username=name, status="synced", secrets=1, seen=name, listing_proven=True)
    return UserWrite(checkpoint=checkpoint, secrets=(api_key("s1"),), listed=("s1",))


async def steps(store, work):
    """How many times hundred instructions of its virtual machine SQLite needs for this work."""
    taken = 0

    def count():
        nonlocal taken
        taken += 1

    store._connection.set_progress_handler(count, 10)
    await work
    store._connection.set_progress_handler(None, 10)
    return taken


@pytest.mark.parametrize("runs", [1, 3])
async def test_a_user_costs_the_same_among_many(open_sqlite, runs):
    cost = {}
    async with open_sqlite() as store:
        await store.bind("https://flowmate.example")
        for others in (50, 5000):
            for _ in range(runs):
                run = await store.begin_run(at=1.0)
                await store.write(run, [user(f"{number:05d}") for number in range(others)])
            few = [f"{number:05d}" for number in range(5)]
            cost[others] = [
                await steps(store, store.seen(few)),
                await steps(store, store.statuses(run, few)),
                await steps(store, store.write(run, [user(name) for name in few])),
                await steps(store, store.get(few[0], "s1")),
            ]
            assert await store.seen([*few, "nobody"]) == {name: name for name in few}
    assert all(many <= 2 * one + 5 for one, many in zip(cost[50], cost[5000], strict=True)), cost
