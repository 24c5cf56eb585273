"""Over any window the requests sent obey rate and burst; a pause holds everything."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

# Virtual time stands still between timers, so that a remainder of a float would be waited for forever.
# Moments and rates are therefore dyadic, which floats and looptime's microseconds hold exactly.
STEP = 1 / 64
moments = st.integers(0, 192).map(lambda steps: steps * STEP)
WAYS = [MemoryTransport, ImmediateMemoryTransport]
OK = json_response(b"[]")


class Instant:
    """Answers at once; knows which requests were sent when."""

    def __init__(self):
        self.sent = []

    def __call__(self, path):
        self.sent.append((path, asyncio.get_running_loop().time()))
        return OK

    @property
    def moments(self):
        return [at for _, at in self.sent]


def obeys(sent, rate, burst):
    """No window between any two of these moments holds more than ``rate * window + burst``."""
    return all(
        later - earlier + 1 <= rate * (sent[later] - sent[earlier]) + burst
        for earlier in range(len(sent))
        for later in range(earlier, len(sent))
    )


arrivals = st.lists(
    st.tuples(
        moments,  # when it asks
        st.none() | moments,  # after how long it is cancelled
    ),
    min_size=1,
    max_size=40,
)
pauses = st.lists(st.tuples(moments, moments), max_size=3)


@given(arrivals, pauses, st.sampled_from([0.5, 1, 4, 8, 64]), st.integers(1, 8), st.sampled_from(WAYS))
@example(
    arrivals=[(0.0, None), (0.0, None)],
    pauses=[(0.0, 2 * STEP)],
    rate=64,
    burst=1,
    carrier=MemoryTransport,
)
def test_over_any_window_rate_and_burst_are_obeyed(lab, virtually, arrivals, pauses, rate, burst, carrier):
    """Whichever calls come when, are dropped while they wait, and whatever pauses come in between."""

    async def main():
        loop, wire, paused = asyncio.get_running_loop(), Instant(), []
        made = lab(wire, rate=rate, burst=burst, concurrency=10_000, carrier=carrier)

        async def send(after):
            await asyncio.sleep(after)
            await made.send()

        async def give_up(task, after):
            await asyncio.sleep(after)
            task.cancel()

        async def pause(after, seconds):
            await asyncio.sleep(after)
            made.pacer.pause(seconds)
            paused.append((loop.time(), loop.time() + seconds))

        async with made:
            senders = [asyncio.create_task(send(after)) for after, _ in arrivals]
            others = [
                asyncio.create_task(give_up(task, after + patience))
                for task, (after, patience) in zip(senders, arrivals, strict=True)
                if patience is not None
            ]
            others += [asyncio.create_task(pause(*when)) for when in pauses]
            async with asyncio.timeout(1000):
                await asyncio.gather(*senders, *others, return_exceptions=True)
            assert made.engine.waiting == 0
        assert obeys(wire.moments, rate, burst)
        assert not [at for at in wire.moments for begin, end in paused if begin < at < end]
        assert len(wire.sent) >= sum(not task.cancelled() for task in senders)

    virtually(main)


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
class TestRate:
    async def sent(self, made, wire, count):
        await asyncio.gather(*(made.send(f"/{number}") for number in range(count)))
        return wire.sent

    async def test_first_come_first_served(self, lab, way):
        wire = Instant()
        async with lab(wire, rate=8, burst=3, carrier=way) as made:
            sent = await self.sent(made, wire, 30)
        assert [path for path, _ in sent] == [f"/{number}" for number in range(30)]

    async def test_the_limit_is_used_to_the_full(self, lab, way):
        """A limiter that let nothing through would obey every law above. One of five is slack."""
        wire = Instant()
        async with lab(wire, rate=8, burst=5, carrier=way) as made:
            await self.sent(made, wire, 84)
        assert wire.moments[:5] == [0, 0, 0, 0, 0.125]
        assert wire.moments[-1] == 10

    async def test_without_a_rate_no_call_waits(self, lab, way):
        wire = Instant()
        async with lab(wire, carrier=way, concurrency=100) as made:
            await self.sent(made, wire, 100)
        assert set(wire.moments) == {asyncio.get_running_loop().time()}

    @pytest.mark.parametrize("rate", [None, 4, 0.5])
    async def test_a_pause_holds_newcomers_and_calls_that_wait(self, lab, way, rate):
        loop, wire = asyncio.get_running_loop(), Instant()
        async with lab(wire, rate=rate, burst=1, carrier=way) as made:
            await made.send()
            waiting = asyncio.create_task(self.sent(made, wire, 3))
            await asyncio.sleep(STEP)
            assert made.engine.waiting == (0 if rate is None else 3)
            made.pacer.pause(60)
            made.pacer.pause(1)  # a shorter one does not shorten it
            began = loop.time()
            newcomers = asyncio.create_task(self.sent(made, wire, 3))
            await asyncio.gather(waiting, newcomers)
        sent = [at for at in wire.moments if at >= began]
        assert len(sent) == (3 if rate is None else 6)
        assert min(sent) >= began + 60

    async def test_statistics_tell_how_many_wait_and_for_how_long(self, lab, way):
        wire = Instant()
        async with lab(wire, rate=4, burst=1, carrier=way) as made:
            made.pacer.pause(60)
            waiting = [asyncio.create_task(made.send()) for _ in range(4)]
            await asyncio.sleep(20)
            found = made.traffic.statistics().limiter
            assert (found.waiting, found.rate, found.burst) == (4, 4, 1)
            assert found.paused_seconds == pytest.approx(40)
            await asyncio.gather(*waiting)
            assert made.traffic.statistics().limiter.paused_seconds == 0
