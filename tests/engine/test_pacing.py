"""Concurrency, rate and pauses hold for everything the engine sends, and no call is lost."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async.engine.priority import Priority
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

pytestmark = pytest.mark.anyio

WAYS = [MemoryTransport, ImmediateMemoryTransport]
OK = json_response(b"[]")
FRONT, BEHIND = Priority.INTERACTIVE, Priority.BACKGROUND

# Dyadic moments and rates, which floats and looptime's microseconds hold exactly.
moments = st.integers(0, 192).map(lambda steps: steps / 64)


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


class Wire:
    """Answers each request after the seconds that its path names; knows when each was sent."""

    def __init__(self):
        self.sent, self.paths, self.inside, self.most_inside = [], [], 0, 0

    async def __call__(self, path):
        self.sent.append(asyncio.get_running_loop().time())
        self.paths.append(path)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await asyncio.sleep(float(path.rpartition("/")[2] or 0))
        self.inside -= 1
        return OK


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
        st.sampled_from([FRONT, BEHIND]),
        st.none() | moments,  # after how long it is hurried
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
    carrier=st.sampled_from(WAYS),
)
@settings(max_examples=3 * settings().max_examples)
def test_limits_hold_and_no_call_is_lost_under_any_schedule(
    lab, virtually, visits, pauses, rate, burst, concurrency, carrier
):
    async def main():
        loop, wire, paused = asyncio.get_running_loop(), Wire(), []
        made = lab(wire, rate=rate, burst=burst, concurrency=concurrency, carrier=carrier)

        async def visit(comes, takes, priority, hurried):
            await asyncio.sleep(comes)
            call = made.call(f"/{takes}", priority=priority)
            if hurried is not None:
                loop.call_later(hurried, made.engine.hurry, call)
            return await call.answer(made.engine)

        async def pause(after, seconds):
            await asyncio.sleep(after)
            made.pacer.pause(seconds)
            paused.append((loop.time(), loop.time() + seconds))

        def start(comes, patience, takes, priority, hurried):
            # Only a call that was submitted can be hurried.
            task = asyncio.create_task(visit(comes, takes, priority, hurried))
            if patience is not None:
                loop.call_later(comes + patience, task.cancel)
            return task

        async with made, asyncio.timeout(1000):
            holders = [asyncio.create_task(pause(*each)) for each in pauses]
            ended = await asyncio.gather(*(start(*each) for each in visits), return_exceptions=True)
            await asyncio.gather(*holders)
            await asyncio.sleep(10)  # what was given up on the wire ends
            standing = made.traffic.statistics()
            assert (standing.in_flight, standing.limiter.waiting) == (0, 0)
            assert await made.send() is OK
        assert wire.most_inside <= concurrency
        assert rate is None or obeys(wire.sent, rate, burst)
        assert not any(begin < moment < end for moment in wire.sent for begin, end in paused)
        for (_, patience, _, _, _), end in zip(visits, ended, strict=True):
            assert end is OK or (patience is not None and isinstance(end, asyncio.CancelledError))

    virtually(main)


async def test_a_pause_also_holds_calls_that_wait_in_the_same_step(lab):
    """The transport answers at once, so the pause comes while the engine sends the others."""
    wire, sent = [json_response(b"{}", 429, retry_after="4")], []

    class Eager(ImmediateMemoryTransport):
        def send_at_once(self, *request, then):
            sent.append(asyncio.get_running_loop().time())
            then(wire.pop() if wire else OK)
            return True

    async with lab(None, carrier=Eager) as made:
        made.pacer.pause(1)  # for all of them to wait
        await asyncio.gather(*(made.send() for _ in range(4)))
    assert sent[0] == 1
    assert [at >= 5 for at in sent[1:]] == [True] * 4


async def test_a_pause_also_holds_what_a_carrier_has_not_begun_to_send(lab):
    """A coroutine transport begins to send one turn of the loop later; the pause comes in between."""
    told, sent = asyncio.Event(), []

    async def answer(path):
        sent.append((path, asyncio.get_running_loop().time()))
        if path == "/first":
            await told.wait()
            told.clear()
            return json_response(b"{}", 429, retry_after="4") if len(sent) == 1 else OK
        return OK

    async with lab(answer) as made:
        first = asyncio.create_task(made.send("/first"))
        await asyncio.sleep(1)
        second = asyncio.create_task(made.send("/second"))
        await asyncio.sleep(0)
        told.set()
        await second
        told.set()
        await first
    assert sent[0] == ("/first", 0)
    assert len(sent) == 3
    assert all(at >= 5 for _, at in sent[1:])


async def test_interactive_calls_go_first_and_one_in_five_is_background(lab, way):
    wire = Wire()
    async with lab(wire, rate=8, burst=1, carrier=way) as made:
        behind = [asyncio.create_task(made.send("/b/0", priority=BEHIND)) for _ in range(10)]
        await asyncio.sleep(0)
        front = [asyncio.create_task(made.send("/i/0")) for _ in range(40)]
        await asyncio.gather(*behind, *front)
    assert wire.paths[2:42].count("/i/0") == 32
    assert wire.paths[2:42].count("/b/0") == 8


async def test_statistics_tell_the_limits_and_the_pause(lab, way):
    async with lab(Wire(), rate=8, burst=2, concurrency=3, carrier=way) as made:
        made.pacer.pause(5)
        waiting = [asyncio.create_task(made.send("/2")) for _ in range(3)]
        await asyncio.sleep(1)
        standing = made.traffic.statistics().limiter
        assert (standing.rate, standing.burst, standing.concurrency) == (8, 2, 3)
        assert (standing.admitted, standing.waiting, standing.paused_seconds) == (0, 3, 4)
        await asyncio.sleep(5)
        assert made.traffic.statistics().limiter.admitted == 3
        await asyncio.gather(*waiting)
        assert made.traffic.statistics().limiter.admitted == 0


async def test_a_longer_pause_under_way_stays(lab, way):
    async with lab(Wire(), carrier=way) as made:
        made.pacer.pause(10)
        made.pacer.pause(1)
        await made.send()
        assert asyncio.get_running_loop().time() >= 10


async def test_a_pause_also_holds_a_call_that_waits_for_a_token(lab, way):
    wire = Wire()
    async with lab(wire, rate=1, burst=1, carrier=way) as made, asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(made.send())
        await asyncio.sleep(0.5)
        made.pacer.pause(5)
    assert wire.sent[0] == 0
    assert wire.sent[1] >= 5.5
    assert obeys(wire.sent, 1, 1)


async def test_dropped_calls_leave_no_slot_taken(lab, way):
    async with lab(Wire(), concurrency=2, carrier=way) as made:
        made.pacer.pause(1)
        first, *others = [asyncio.create_task(made.send("/3")) for _ in range(4)]
        await asyncio.sleep(0)
        for other in others:
            other.cancel()
        await asyncio.sleep(2)
        async with asyncio.timeout(1):
            await made.send("/0.5")
        assert made.traffic.statistics().limiter.admitted == 1
        await first


async def test_a_call_is_dropped_silently_and_one_on_the_wire_finishes(lab, way):
    wire = Wire()
    async with lab(wire, concurrency=1, carrier=way) as made:
        sent, queued = made.call("/5"), made.call("/5")
        made.engine.submit(sent)
        made.engine.submit(queued)
        await asyncio.sleep(1)
        made.engine.drop(sent)
        made.engine.drop(queued)
        await asyncio.sleep(10)
        assert sent.future.result() is OK
        assert not queued.future.done()
        assert (len(wire.sent), made.pacer.taken) == (1, 0)


class Allotting:
    """Other processes, which use a part of the concurrency."""

    def __init__(self):
        self.allot = None

    def on_allotment(self, listener):
        self.allot = listener

    def on_pause(self, listener):
        """Nobody pauses."""

    def pause(self, seconds):
        """Nobody is told."""

    def budget(self, *, rate, burst):
        """Nothing is lent."""


async def test_more_slots_let_waiting_calls_go_and_fewer_interrupt_none(lab, way):
    others, wire = Allotting(), Wire()
    async with lab(wire, concurrency=4, coordination=others, carrier=way) as made:
        others.allot(2)
        tasks = [asyncio.create_task(made.send("/100")) for _ in range(4)]
        await asyncio.sleep(1)
        assert (wire.inside, made.engine.waiting) == (2, 2)
        others.allot(3)
        await asyncio.sleep(1)
        assert (wire.inside, made.engine.waiting) == (3, 1), "at once, not with the next answer"
        others.allot(1)
        await asyncio.sleep(1)
        assert (wire.inside, made.engine.waiting) == (3, 1)
        await asyncio.sleep(97.5)  # the first two have ended
        assert (wire.inside, made.engine.waiting) == (1, 1), "the slots that are gone are not given again"
        await asyncio.gather(*tasks)
    assert len(wire.sent) == 4
