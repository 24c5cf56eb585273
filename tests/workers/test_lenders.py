"""All processes together never exceed what is lent to them, and hardly any of it is lost."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import FlowMate, FlowPolicy
from flowmate_async.clock import SystemClock
from flowmate_async.engine.leased_bucket import LeasedBucket, lease_terms
from flowmate_async.sandbox import burst_needed
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.workers.lenders import ParentCoordination, Pauses, RateLender, SharedLimits, SlotLender
from flowmate_async.workers.pool import _Session
from flowmate_async.workers.work_queue import WorkQueue
from flowmate_async.workers.worker import Worker


class Slow:
    """A budget behind a slow channel."""

    def __init__(self, lender, seconds):
        self.lender, self.seconds = lender, seconds

    async def lease(self, most):
        await asyncio.sleep(self.seconds)
        lease = await self.lender.lease(most)
        await asyncio.sleep(self.seconds)
        return lease


class Process:
    """A client as a separate process has one, whose requests take 10 ms each."""

    def __init__(self, *, rate, burst, concurrency, lender, pauses):
        self.sent = []
        shared = SharedLimits(rate=lender, refreshes=SlotLender(8), pauses=pauses, concurrency=concurrency)
        self.fm = FlowMate(
            admin_token="a",
            transport=MemoryTransport(self.answer),
            rate=rate,
            burst=burst,
            concurrency=concurrency,
            coordination=ParentCoordination(shared),
            flow=FlowPolicy(adaptive_concurrency=False),
        )

    async def answer(self, method, path, headers, body):
        self.sent.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        return json_response(b"[]")

    async def send(self):
        """Send one request."""
        async for _ in self.fm.users():
            raise AssertionError("there are no users")

    async def send_until(self, end):
        while asyncio.get_running_loop().time() < end:
            await self.send()


async def run(*, rate, burst, processes, seconds, way=0.0, appetite=64, pauses=()):
    """Have each process send what it may, for so long; when each request was sent."""
    loop, spread = asyncio.get_running_loop(), Pauses()
    lender = RateLender(lease_terms(rate, burst), clock=SystemClock())
    made = [
        Process(rate=rate, burst=burst, concurrency=appetite, lender=Slow(lender, way), pauses=spread)
        for _ in range(processes)
    ]
    async with AsyncExitStack() as entered:
        for process in made:
            await entered.enter_async_context(process.fm)
        end = loop.time() + seconds
        tasks = [loop.create_task(process.send_until(end)) for process in made for _ in range(appetite)]
        for after, length in pauses:
            loop.call_later(after, lender.pause, length)
            loop.call_later(after, spread.spread, length)
        await asyncio.sleep(seconds)
        sent = sorted(moment for process in made for moment in process.sent)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return sent


@given(
    rate=st.sampled_from([20, 100, 500, 2000]),
    burst_seconds=st.sampled_from([0.05, 0.1, 0.5, 2.0]),
    processes=st.integers(1, 5),
    way=st.sampled_from([0.0, 0.001, 0.004]),
)
def test_all_together_keep_to_rate_and_burst_and_use_nearly_all_of_it(
    virtually, rate, burst_seconds, processes, way
):
    """Over every window, in virtual time, where lateness is not the machine's.

    Nearly all, unless a lease is so long on its way that its tokens are worth less than that.
    """
    burst = max(4, int(rate * burst_seconds))
    seconds = 2.0 if rate > 100 else 5.0

    async def main():
        return await run(rate=rate, burst=burst, processes=processes, seconds=seconds, way=way)

    sent = virtually(main)
    assert burst_needed(sent, rate) <= burst
    if 2 * way * rate < lease_terms(rate, burst).batch:
        assert len(sent) >= 0.97 * rate * (seconds - 2 * way) - 1


def test_the_share_of_those_who_have_nothing_to_do_is_used_by_the_others(virtually):
    async def main():
        loop, lender = asyncio.get_running_loop(), RateLender(lease_terms(400, 40), clock=SystemClock())
        process = Process(rate=400, burst=40, concurrency=64, lender=lender, pauses=Pauses())
        async with process.fm:
            end = loop.time() + 4
            await asyncio.gather(*(process.send_until(end) for _ in range(64)))
        return sum(end - 3 <= moment < end for moment in process.sent) / 3

    assert virtually(main) == pytest.approx(400, rel=0.03)


def test_tokens_that_were_not_used_soon_are_void(virtually):
    """Saved up by many, they would be a burst on top of everybody else's."""

    async def main():
        lender, loop = RateLender(lease_terms(100, 40), clock=SystemClock()), asyncio.get_running_loop()
        buckets = [
            LeasedBucket(lender, rate=100, burst=40, demand=lambda: 5, clock=SystemClock()) for _ in range(20)
        ]
        for bucket in buckets:
            await bucket.take()  # of a lease of five
        await asyncio.sleep(1)
        assert not any(bucket.take_at_once() for bucket in buckets)
        sent = []
        for bucket in buckets * 4:
            await bucket.take()
            sent.append(loop.time())
        return sent

    assert burst_needed(virtually(main), 100) <= 40


def test_a_pause_holds_everybody_and_nobody_wakes_in_a_burst(virtually):
    async def main():
        return await run(rate=200, burst=40, processes=3, seconds=4, pauses=[(1.0, 1.0)])

    sent = virtually(main)
    began = sent[0]
    assert not [moment for moment in sent if began + 1.001 < moment < began + 2.0]
    woken = [moment for moment in sent if moment >= began + 2.0]
    assert burst_needed(woken, 200) <= 20


@given(rate=st.floats(0.01, 1e5), burst=st.integers(1, 10**5))
def test_what_is_lent_and_how_late_it_may_be_used_is_together_within_the_burst(rate, burst):
    """But for a burst too small to be parted, where a token may be 5 ms late."""
    terms = lease_terms(rate, burst)
    assert 1 <= terms.batch <= terms.capacity <= burst
    assert terms.life_seconds >= 0.005
    assert terms.capacity + terms.life_seconds * rate <= max(burst, 1 + 0.005 * rate + burst / 2) + 1e-6


class Pipe:
    """One end of a channel in memory."""

    def __init__(self):
        self.arrived = asyncio.Queue()
        self.other = None

    def send(self, message):
        asyncio.get_running_loop().call_later(0.001, self.other.arrived.put_nowait, message)

    async def receive(self):
        return await self.arrived.get()


class FakeWorker:
    """A worker as the parent sees it, with the worker's side at the other end of its channel."""

    def __init__(self, shared):
        self.channel, far = Pipe(), Pipe()
        self.channel.other, far.other = far, self.channel
        self.side = Worker(far, limited=False, concurrency=64)
        self.session = _Session(self, WorkQueue([]), shared)
        self.tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self.side._listen())]

    async def _hear(self):
        while True:
            self.session.handle(await self.channel.receive())

    async def die(self):
        for task in self.tasks:
            task.cancel()
        await self.session.close(died=True)

    async def aclose(self):
        pass


class Refreshing:
    """Refreshes of some workers, counted by client."""

    def __init__(self, workers, limit=8):
        self.lender = SlotLender(limit)
        shared = SharedLimits(rate=None, refreshes=self.lender, pauses=Pauses(), concurrency=64)
        self.workers = [FakeWorker(shared) for _ in range(workers)]
        self.inside, self.most_inside, self.secrets, self.overlaps = Counter(), Counter(), set(), 0

    async def refresh(self, worker, client, secret_id, seconds=0.3):
        async with self.workers[worker].side.slot(client, secret_id):
            self.overlaps += secret_id in self.secrets
            self.secrets.add(secret_id)
            self.inside[client] += 1
            self.most_inside[client] = max(self.most_inside[client], self.inside[client])
            try:
                await asyncio.sleep(seconds)
            finally:
                self.inside[client] -= 1
                self.secrets.discard(secret_id)


@pytest.mark.parametrize("spread", [1, 3])
def test_slots_are_lent_to_the_worker_that_needs_them(virtually, spread):
    """320 refreshes of 0.3 s take as long as eight at a time, however they are spread over workers."""

    async def main():
        world, loop = Refreshing(3), asyncio.get_running_loop()
        began = loop.time()
        calls = (world.refresh(number % spread, "client", f"secret-{number}") for number in range(320))
        await asyncio.gather(*calls)
        return loop.time() - began, world.most_inside["client"]

    seconds, most = virtually(main)
    assert most == 8
    assert seconds == pytest.approx(320 / 8 * 0.3, rel=0.03)


def test_clients_do_not_take_each_others_slots_and_secrets_take_turns(virtually):
    async def main():
        world = Refreshing(3, limit=2)
        calls = (
            world.refresh(number % 3, f"client-{number % 2}", f"secret-{number % 6}") for number in range(60)
        )
        await asyncio.gather(*calls)
        return world

    world = virtually(main)
    assert dict(world.most_inside) == {"client-0": 2, "client-1": 2}
    assert world.overlaps == 0


def test_a_dead_workers_slots_come_back_after_upstreams_lock(virtually):
    """What it waited for is not lent to it either; a cancelled request gives its slot back at once."""

    async def main():
        world, loop = Refreshing(2, limit=2), asyncio.get_running_loop()
        doomed = [asyncio.create_task(world.refresh(0, "c", f"secret-{n}", 100)) for n in range(5)]
        await asyncio.sleep(1)
        died = loop.time()
        await world.workers[0].die()
        await world.refresh(1, "c", "another")
        assert loop.time() - died == pytest.approx(10.3, abs=0.1)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        late = [asyncio.create_task(world.refresh(1, "c", f"late-{n}", 100)) for n in range(4)]
        await asyncio.sleep(1)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        again = loop.time()
        await world.refresh(1, "c", "late-0")
        assert loop.time() - again < 0.4

    virtually(main)
