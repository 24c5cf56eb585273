"""A quarantined secret is left alone until its time has passed; other secrets are not affected."""

import asyncio

import pytest

from flowmate_async.clock import SystemClock
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.quarantine import Quarantine
from flowmate_async.errors import RefreshFailedError
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

pytestmark = pytest.mark.anyio

BEHIND = Priority.BACKGROUND


class Asked:
    """An upstream that answers at once and knows which secret was asked for when."""

    def __init__(self):
        self.asked = []

    def __call__(self, path):
        self.asked.append((path.rpartition("/")[2], asyncio.get_running_loop().time()))
        return json_response(b"{}")

    def moments(self, secret_id):
        return [at for asked, at in self.asked if asked == secret_id]


@pytest.fixture(params=[MemoryTransport, ImmediateMemoryTransport])
async def engine_and_upstream(request, lab):
    upstream = Asked()
    async with lab(upstream, carrier=request.param) as made:
        yield made, upstream


def in_background(made, *secret_ids):
    calls = [made.refresh(one, priority=BEHIND, username=f"u{n}") for n, one in enumerate(secret_ids)]
    return [asyncio.create_task(call.answer(made.engine)) for call in calls]


async def test_background_calls_wait_for_its_end_and_other_secrets_do_not(engine_and_upstream):
    made, upstream = engine_and_upstream
    made.gates.quarantine.impose("s", 10)
    await asyncio.gather(*in_background(made, "s", "s", "s", "t"))
    assert upstream.moments("t") == [0]
    assert upstream.moments("s") == [pytest.approx(10)] * 3


async def test_interactive_calls_fail_and_are_told_how_long_to_wait(engine_and_upstream):
    made, upstream = engine_and_upstream
    made.gates.quarantine.impose("s", 10)
    await asyncio.sleep(4)
    with pytest.raises(RefreshFailedError, match=r"nothing was sent.*Try again in 6 s"):
        await made.refresh("s").answer(made.engine)
    await made.refresh("t").answer(made.engine)
    assert [secret_id for secret_id, _ in upstream.asked] == ["t"]
    await asyncio.sleep(6)
    await made.refresh("s").answer(made.engine)


async def test_a_quarantine_imposed_meanwhile_is_waited_for_too(engine_and_upstream):
    made, upstream = engine_and_upstream
    made.gates.quarantine.impose("s", 10)
    waiting = in_background(made, "s")
    await asyncio.sleep(9)
    made.gates.quarantine.impose("s", 10)
    await asyncio.gather(*waiting)
    assert upstream.moments("s") == [pytest.approx(19)]


async def test_a_waiting_call_that_is_hurried_fails_at_once(engine_and_upstream):
    made, upstream = engine_and_upstream
    made.gates.quarantine.impose("s", 10)
    call = made.refresh("s", priority=BEHIND)
    made.engine.submit(call)
    await asyncio.sleep(1)
    made.engine.hurry(call)
    with pytest.raises(RefreshFailedError, match="nothing was sent"):
        await call.future
    await asyncio.sleep(20)
    assert upstream.asked == []
    assert len(made.traffic.turns) == 0


async def test_a_refusal_waits_for_no_turn_of_the_rate(lab):
    upstream = Asked()
    async with lab(upstream, rate=1, burst=1) as made:
        others = [asyncio.create_task(made.send()) for _ in range(50)]
        await asyncio.sleep(0)
        made.gates.quarantine.impose("s", 10)
        with pytest.raises(RefreshFailedError, match="nothing was sent"):
            await made.refresh("s").answer(made.engine)
        assert asyncio.get_running_loop().time() == 0
        await asyncio.gather(*others)


async def test_a_call_without_a_secret_is_never_held(engine_and_upstream):
    made, _ = engine_and_upstream
    made.gates.quarantine.impose("s", 10)
    await made.send()
    assert asyncio.get_running_loop().time() == 0


async def test_a_shorter_quarantine_does_not_shorten_it():
    quarantine = Quarantine(clock=SystemClock())
    quarantine.impose("s", 10)
    quarantine.impose("s", 1)
    assert quarantine.until("s") == asyncio.get_running_loop().time() + 10
    assert quarantine.until("t") == quarantine.until(None) == float("-inf")


async def test_entries_that_have_passed_are_forgotten():
    """Memory depends on the secrets of the last lock's time, not on all that ever failed."""
    quarantine = Quarantine(clock=SystemClock())
    for number in range(1000):
        quarantine.impose(f"s{number}", 10)
        await asyncio.sleep(1)
    assert len(quarantine) <= 11
