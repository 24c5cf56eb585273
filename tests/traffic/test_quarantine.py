"""A quarantined secret is left alone until its time has passed; the others are not concerned."""

import asyncio

import pytest

from flowmate_async.clock import SystemClock
from flowmate_async.traffic.quarantine import Quarantine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


async def test_everybody_waits_for_its_end_and_nobody_for_another_secret():
    loop = asyncio.get_running_loop()
    quarantine = Quarantine(clock=SystemClock())
    quarantine.impose("s", 10)
    await quarantine.passed("t")
    assert loop.time() == 0
    await asyncio.gather(*(quarantine.passed("s") for _ in range(5)))
    assert loop.time() == pytest.approx(10)


async def test_one_imposed_meanwhile_is_waited_for_too():
    loop = asyncio.get_running_loop()
    quarantine = Quarantine(clock=SystemClock())
    quarantine.impose("s", 10)
    waiting = asyncio.create_task(quarantine.passed("s"))
    await asyncio.sleep(9)
    quarantine.impose("s", 10)
    await waiting
    assert loop.time() == pytest.approx(19)


async def test_a_shorter_one_does_not_shorten_it():
    loop = asyncio.get_running_loop()
    quarantine = Quarantine(clock=SystemClock())
    quarantine.impose("s", 10)
    quarantine.impose("s", 1)
    await quarantine.passed("s")
    assert loop.time() == pytest.approx(10)


async def test_what_has_passed_is_forgotten():
    """Memory depends on the secrets of the last lock's time, not on all that ever failed."""
    quarantine = Quarantine(clock=SystemClock())
    for number in range(1000):
        quarantine.impose(f"s{number}", 10)
        await asyncio.sleep(1)
    assert len(quarantine) <= 11
