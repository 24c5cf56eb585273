"""Over any window the requests sent obey rate and burst; a pause holds everybody."""

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowmate_async.clock import SystemClock
from flowmate_async.traffic.admission import Admission

# Virtual time stands still between timers, so that a remainder of a float would be waited for forever.
# Moments and rates are therefore dyadic, which floats and looptime's microseconds hold exactly.
STEP = 1 / 64
moments = st.integers(0, 192).map(lambda steps: steps * STEP)


def limited(rate, burst):
    """Admission that only the rate limits."""
    return Admission(rate=rate, burst=burst, concurrency=10_000, clock=SystemClock())


async def admitted(limiter):
    if limiter.enter_at_once() is None:
        await limiter.enter()
    limiter.leave()


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


@given(arrivals, pauses, st.sampled_from([0.5, 1, 4, 8, 64]), st.integers(1, 8))
@example(arrivals=[(0.0, None), (0.0, None)], pauses=[(0.0, 2 * STEP)], rate=64, burst=1)
@settings(max_examples=60)
def test_over_any_window_rate_and_burst_are_obeyed(virtually, arrivals, pauses, rate, burst):
    """Whoever comes when, whoever gives up while waiting, and whatever pauses come in between."""

    async def main():
        loop = asyncio.get_running_loop()
        limiter = limited(rate=rate, burst=burst)
        sent, paused = [], []

        async def send(after):
            await asyncio.sleep(after)
            await admitted(limiter)
            sent.append(loop.time())

        async def give_up(task, after):
            await asyncio.sleep(after)
            task.cancel()

        async def pause(after, seconds):
            await asyncio.sleep(after)
            limiter.pause(seconds)
            paused.append((loop.time(), loop.time() + seconds))

        senders = [asyncio.create_task(send(after)) for after, _ in arrivals]
        others = [
            asyncio.create_task(give_up(task, after + patience))
            for task, (after, patience) in zip(senders, arrivals, strict=True)
            if patience is not None
        ]
        others += [asyncio.create_task(pause(*when)) for when in pauses]
        await asyncio.gather(*senders, *others, return_exceptions=True)
        assert obeys(sent, rate, burst)
        assert not [at for at in sent for begin, end in paused if begin < at < end]
        assert len(sent) == sum(not task.cancelled() for task in senders)
        assert limiter.statistics().waiting == 0

    virtually(main)


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


@pytest.mark.anyio
class TestLimiter:
    async def sent(self, limiter, count):
        loop, sent = asyncio.get_running_loop(), []

        async def send(number):
            await admitted(limiter)
            sent.append((number, loop.time()))

        await asyncio.gather(*(send(number) for number in range(count)))
        return sent

    async def test_first_come_first_served(self):
        sent = await self.sent(limited(rate=8, burst=3), 30)
        assert [number for number, _ in sent] == list(range(30))

    async def test_the_limit_is_used_to_the_full(self):
        """A limiter that let nothing through would obey every law above. One of five is slack."""
        sent = await self.sent(limited(rate=8, burst=5), 84)
        assert [at for _, at in sent[:5]] == [0, 0, 0, 0, 0.125]
        assert sent[-1][1] == 10

    async def test_without_a_rate_nobody_waits(self):
        limiter = limited(rate=None, burst=1)
        assert {at for _, at in await self.sent(limiter, 100)} == {asyncio.get_running_loop().time()}

    @pytest.mark.parametrize("rate", [None, 4, 0.5])
    async def test_a_pause_holds_everybody_also_those_who_wait_already(self, rate):
        loop = asyncio.get_running_loop()
        limiter = limited(rate=rate, burst=1)
        await admitted(limiter)
        waiting = asyncio.create_task(self.sent(limiter, 3))
        await asyncio.sleep(STEP)
        assert limiter.statistics().waiting == (0 if rate is None else 3)
        limiter.pause(60)
        limiter.pause(1)  # a shorter one does not shorten it
        began = loop.time()
        newcomers = asyncio.create_task(self.sent(limiter, 3))
        sent = [at for _, at in [*await waiting, *await newcomers] if at >= began]
        assert len(sent) == (3 if rate is None else 6)
        assert min(sent) >= began + 60

    async def test_it_tells_who_waits_and_for_how_long(self):
        limiter = limited(rate=4, burst=1)
        limiter.pause(60)
        waiting = [asyncio.create_task(admitted(limiter)) for _ in range(4)]
        await asyncio.sleep(20)
        found = limiter.statistics()
        assert (found.waiting, found.rate, found.burst) == (4, 4, 1)
        assert found.paused_seconds == pytest.approx(40)
        await asyncio.gather(*waiting)
        assert limiter.statistics().paused_seconds == 0
