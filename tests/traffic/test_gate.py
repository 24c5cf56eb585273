"""One at a time, first come first served within a priority, interactive first, nobody starved."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async.traffic.gate import BACKGROUND_SHARE, PriorityGate
from flowmate_async.traffic.priority import Priority, current_priority, in_background, set_background

pytestmark = pytest.mark.anyio

FRONT, BEHIND = Priority.INTERACTIVE, Priority.BACKGROUND


async def passing(gate, priority, name, order):
    await gate.enter(priority)
    order.append(name)
    await asyncio.sleep(0)
    gate.leave()


async def order_of(*arrivals):
    """In which order those pass who come one after the other while somebody is inside."""
    gate, order = PriorityGate(), []
    await gate.enter(FRONT)
    tasks = []
    for name, priority in arrivals:
        tasks.append(asyncio.create_task(passing(gate, priority, name, order)))
        await asyncio.sleep(0)
    assert gate.waiting == len(arrivals)
    gate.leave()
    await asyncio.gather(*tasks)
    assert not gate.full
    return order


async def test_first_come_first_served_within_each_priority():
    arrivals = [(number, priority) for number in range(50) for priority in (FRONT, BEHIND)]
    order = await order_of(*[((number, priority), priority) for number, priority in arrivals])
    for wanted in (FRONT, BEHIND):
        assert [number for number, priority in order if priority is wanted] == list(range(50))


async def test_interactive_ones_go_first():
    order = await order_of(("later", BEHIND), ("later", BEHIND), ("a", FRONT), ("b", FRONT))
    assert order == ["a", "b", "later", "later"]


async def test_the_background_gets_its_share_whoever_else_waits():
    order = await order_of(*[("b", BEHIND)] * 20, *[("i", FRONT)] * 100)
    shared = order[: 20 * BACKGROUND_SHARE]
    assert shared.count("b") == 20
    assert all(
        shared[at : at + BACKGROUND_SHARE].count("b") == 1 for at in range(0, len(shared), BACKGROUND_SHARE)
    )


async def test_a_newcomer_never_overtakes():
    gate, order = PriorityGate(), []
    await gate.enter(FRONT)
    waiting = asyncio.create_task(passing(gate, FRONT, "first", order))
    await asyncio.sleep(0)
    gate.leave()  # handed over; the newcomer comes before the other has run
    newcomer = asyncio.create_task(passing(gate, FRONT, "second", order))
    await asyncio.gather(waiting, newcomer)
    assert order == ["first", "second"]


async def test_a_cancellation_that_comes_together_with_the_turn_passes_it_on():
    gate, order = PriorityGate(), []
    await gate.enter(FRONT)
    first = asyncio.create_task(passing(gate, FRONT, "first", order))
    second = asyncio.create_task(passing(gate, FRONT, "second", order))
    await asyncio.sleep(0)
    gate.leave()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert order == ["second"]
    assert not gate.full


arrivals = st.lists(
    st.tuples(
        st.sampled_from([FRONT, BEHIND]),
        st.integers(0, 20),  # when it comes
        st.none() | st.integers(0, 40),  # after how long it gives up
        st.integers(0, 3),  # how long it stays inside
    ),
    min_size=1,
    max_size=30,
)


@given(arrivals, st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_whoever_comes_and_gives_up_the_places_are_kept_and_nobody_is_lost(virtually, arrivals, places):
    async def main():
        gate, inside, most = PriorityGate(places), 0, 0

        async def visit(priority, comes, stays):
            nonlocal inside, most
            await asyncio.sleep(comes)
            await gate.enter(priority)
            inside += 1
            most = max(most, inside)
            try:
                await asyncio.sleep(stays)
            finally:
                inside -= 1
                gate.leave()
            return True

        async def one(priority, comes, patience, stays):
            task = asyncio.create_task(visit(priority, comes, stays))
            if patience is not None:
                asyncio.get_running_loop().call_later(comes + patience, task.cancel)
            return await asyncio.gather(task, return_exceptions=True)

        async with asyncio.timeout(1000):
            ended = await asyncio.gather(*(one(*arrival) for arrival in arrivals))
        assert most <= places
        assert gate.inside == 0
        assert gate.waiting == 0
        for (_, _, patience, _), [end] in zip(arrivals, ended, strict=True):
            assert end is True or patience is not None

    virtually(main)


async def test_more_places_let_those_in_who_wait_and_fewer_send_nobody_away():
    gate, order, tasks = PriorityGate(2), [], []

    async def stay(name):
        await gate.enter(FRONT)
        order.append(name)

    for name in range(6):
        tasks.append(asyncio.create_task(stay(name)))
        await asyncio.sleep(0)
    assert (order, gate.inside, gate.waiting) == ([0, 1], 2, 4)
    gate.resize(4)
    await asyncio.sleep(0)
    assert (order, gate.inside, gate.waiting) == ([0, 1, 2, 3], 4, 2)
    gate.resize(1)
    for left in range(3):
        gate.leave()
        await asyncio.sleep(0)
        assert (len(order), gate.inside) == (4, 3 - left), "the places that are gone are not given again"
    gate.leave()
    gate.leave()
    await asyncio.gather(*tasks)
    assert order == list(range(6))


async def test_priority_is_inherited_by_what_is_started_within():
    async def seen():
        return current_priority()

    assert await asyncio.create_task(seen()) is FRONT
    with in_background():
        task = asyncio.create_task(seen())
    assert await task is BEHIND
    assert current_priority() is FRONT


async def test_a_task_that_set_itself_behind_leaves_the_others_where_they_are():
    async def behind():
        set_background()
        return await asyncio.create_task(asyncio.sleep(0, current_priority()))

    assert await asyncio.create_task(behind()) is BEHIND
    assert current_priority() is FRONT


async def test_whoever_is_waved_through_and_cancelled_at_once_says_so():
    """What it was waved through with is not lost; nobody else would know of it."""
    gate, lost = PriorityGate(), []
    await gate.enter(FRONT)
    waiting = asyncio.create_task(gate.enter(FRONT, on_lost=lambda: lost.append("slot")))
    await asyncio.sleep(0)
    assert gate.wave_through(5.0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert lost == ["slot"]
    gate.leave()
    assert not gate.full
