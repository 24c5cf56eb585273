"""Over any window rate and burst are obeyed, and never more are in flight than may be."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async.clock import SystemClock
from flowmate_async.traffic.admission import Admission
from flowmate_async.traffic.priority import in_background

pytestmark = pytest.mark.anyio

# Dyadic moments and rates, which floats and looptime's microseconds hold exactly.
moments = st.integers(0, 192).map(lambda steps: steps / 64)


def admission(*, rate=None, burst=1, concurrency=64):
    return Admission(rate=rate, burst=burst, concurrency=concurrency, clock=SystemClock())


@asynccontextmanager
async def inside(door):
    """As a request is: at once, where that is possible."""
    if door.enter_at_once() is None:
        await door.enter()
    try:
        yield
    finally:
        door.leave()


def obeys(sent, rate, burst):
    """No window between any two of these moments holds more than ``rate * window + burst``."""
    return all(
        later - earlier + 1 <= rate * (sent[later] - sent[earlier]) + burst + 1e-6
        for earlier in range(len(sent))
        for later in range(earlier, len(sent))
    )


visits = st.lists(
    st.tuples(
        moments,  # when it comes
        st.none() | moments,  # after how long it gives up
        moments,  # how long its request takes
        st.booleans(),  # in the background
    ),
    min_size=1,
    max_size=30,
)


@given(
    visits=visits,
    pauses=st.lists(st.tuples(moments, moments), max_size=3),
    rate=st.sampled_from([None, 1, 4, 16]),
    burst=st.integers(1, 6),
    concurrency=st.integers(1, 5),
)
@settings(max_examples=300, deadline=None)
def test_whoever_comes_and_gives_up_the_limits_hold_and_nobody_is_lost(
    virtually, visits, pauses, rate, burst, concurrency
):
    async def main():
        loop = asyncio.get_running_loop()
        door = admission(rate=rate, burst=burst, concurrency=concurrency)
        sent, paused, now, most = [], [], 0, 0

        async def visit(comes, takes):
            nonlocal now, most
            await asyncio.sleep(comes)
            async with inside(door):
                sent.append(loop.time())
                now += 1
                most = max(most, now)
                try:
                    await asyncio.sleep(takes)
                finally:
                    now -= 1
            return True

        async def pause(after, seconds):
            await asyncio.sleep(after)
            door.pause(seconds)
            paused.append((loop.time(), loop.time() + seconds))

        def start(comes, patience, takes, behind):
            if behind:
                with in_background():
                    task = asyncio.create_task(visit(comes, takes))
            else:
                task = asyncio.create_task(visit(comes, takes))
            if patience is not None:
                loop.call_later(comes + patience, task.cancel)
            return task

        async with asyncio.timeout(1000):
            holders = [asyncio.create_task(pause(*each)) for each in pauses]
            ended = await asyncio.gather(*(start(*each) for each in visits), return_exceptions=True)
            await asyncio.gather(*holders)
        assert most <= concurrency
        assert rate is None or obeys(sent, rate, burst)
        assert not any(begin < moment < end for moment in sent for begin, end in paused)
        for (_, patience, _, _), end in zip(visits, ended, strict=True):
            assert end is True or patience is not None
        standing = door.statistics()
        assert (standing.admitted, standing.waiting) == (0, 0)
        async with asyncio.timeout(1000), inside(door):
            pass

    virtually(main)


async def test_a_pause_holds_also_those_who_were_let_through_in_the_step_it_came_in():
    door, loop, sent = admission(), asyncio.get_running_loop(), []

    async def send():
        async with inside(door):
            sent.append(loop.time() - began)
            if len(sent) == 1:
                door.pause(4)  # as an answer does that comes now

    began = loop.time()
    door.pause(1)  # for all of them to wait
    await asyncio.gather(*(send() for _ in range(4)))
    assert sent == [1, 5, 5, 5]


async def test_interactive_requests_go_first_and_the_background_gets_its_share():
    door, order = admission(rate=8, burst=1), []

    async def send(name):
        async with inside(door):
            order.append(name)

    with in_background():
        behind = [asyncio.create_task(send("b")) for _ in range(10)]
    await asyncio.sleep(0)
    front = [asyncio.create_task(send("i")) for _ in range(40)]
    await asyncio.gather(*behind, *front)
    assert order[2:42].count("i") == 32
    assert order[2:42].count("b") == 8


async def test_statistics_tell_the_limits_and_the_pause():
    door = admission(rate=8, burst=2, concurrency=3)
    door.pause(5)
    waiting = [asyncio.create_task(door.enter()) for _ in range(3)]
    await asyncio.sleep(1)
    standing = door.statistics()
    assert (standing.rate, standing.burst, standing.concurrency) == (8, 2, 3)
    assert (standing.admitted, standing.waiting, standing.paused_seconds) == (0, 3, 4)
    await asyncio.gather(*waiting)
    assert door.statistics().admitted == 3


async def test_a_longer_pause_under_way_stays():
    door = admission()
    door.pause(10)
    door.pause(1)
    async with inside(door):
        assert asyncio.get_running_loop().time() >= 10


async def test_a_pause_also_holds_who_waits_for_a_token_already():
    door, sent = admission(rate=1, burst=1), []

    async def send():
        async with inside(door):
            sent.append(asyncio.get_running_loop().time())

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(send())
        await asyncio.sleep(0.5)
        door.pause(5)
    assert sent[0] == 0
    assert sent[1] >= 5.5
    assert obeys(sent, 1, 1)


async def test_waiters_who_gave_up_leave_no_slot_taken():
    door = admission(concurrency=2)
    door.pause(1)
    first, *others = [asyncio.create_task(door.enter()) for _ in range(4)]
    await asyncio.sleep(0)
    for other in others:
        other.cancel()
    await first
    async with asyncio.timeout(1):
        await door.enter()
    assert door.statistics().admitted == 2
