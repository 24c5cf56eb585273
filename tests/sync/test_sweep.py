"""A sweep: any iterable, outcomes as they come, back-pressure, no task left, bounded memory."""

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing

import pytest

from flowmate_async import FlowMate, InvalidIdError, UserFailed, UserNotFoundError, UserSynced
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


async def upstream(method, path, headers, body):
    """Users without secrets; ``slow…`` take long, ``nobody…`` are unknown."""
    if method == "POST":
        username = json.loads(body)["username"]
        await asyncio.sleep(100 if username.startswith("slow") else 1)
        if username.startswith("nobody"):
            return json_response(b'{"message":"FORBIDDEN"}', 404)
        return json_response(b'{"token":"t"}')
    return json_response(b'{"data":[],"meta":{"total":0}}')


def client(concurrency=4):
    return FlowMate(
        admin_token="a",
        base_url="http://localhost",
        transport=MemoryTransport(upstream),
        rate=None,
        concurrency=concurrency,
    )


async def an_async_generator(names):
    for name in names:
        await asyncio.sleep(0.1)
        yield name


NAMES = [f"u{number}" for number in range(30)]


@pytest.mark.parametrize(
    "kind",
    [list, tuple, iter, set, dict.fromkeys, lambda names: (name for name in names), an_async_generator],
)
async def test_any_iterable_will_do_and_everybody_is_read_once(kind):
    async with client() as fm:
        outcomes = [outcome async for outcome in fm.sweep(kind(NAMES))]
    assert all(isinstance(outcome, UserSynced) for outcome in outcomes)
    assert sorted(outcome.username for outcome in outcomes) == sorted(NAMES)
    assert {outcome.requests for outcome in outcomes} == {2}


async def test_outcomes_come_in_the_order_they_are_done():
    async with client() as fm:
        order = [outcome.username async for outcome in fm.sweep(["slow", *NAMES])]
    assert order[-1] == "slow"


async def test_nobody_to_read_is_no_outcome():
    async with client() as fm:
        assert [outcome async for outcome in fm.sweep([])] == []


async def test_a_failure_is_an_outcome_and_the_rest_goes_on():
    async with client() as fm:
        outcomes = {o.username: o async for o in fm.sweep([*NAMES, "nobody", "", "b\0d", None, 5])}
    failed = {name: type(o.error) for name, o in outcomes.items() if isinstance(o, UserFailed)}
    assert failed == {
        "nobody": UserNotFoundError, "": InvalidIdError, "b\0d": InvalidIdError, None: InvalidIdError,
        5: InvalidIdError,
    }  # fmt: skip
    assert set(outcomes) - set(failed) == set(NAMES)


async def test_none_among_the_names_does_not_end_it_silently():
    """A NULL from a database must not make a sweep skip the users after it."""
    async with client(concurrency=1) as fm:
        assert [o.username async for o in fm.sweep(["a", None, "b"])] == ["a", None, "b"]


class Pulled:
    def __init__(self, names):
        self.names, self.pulled = iter(names), 0

    def __iter__(self):
        return self

    def __next__(self):
        self.pulled += 1
        return next(self.names)


@pytest.mark.parametrize("kind", [iter, an_async_generator])
async def test_a_slow_consumer_stops_the_pulling(kind):
    names, taken, workers = Pulled(f"u{number}" for number in range(1000)), 0, 4
    async with client(workers) as fm, aclosing(fm.sweep(kind(names))) as outcomes:
        async for _ in outcomes:
            taken += 1
            await asyncio.sleep(50)
            assert names.pulled <= taken + 3 * workers + 2
            if taken == 40:
                break


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_crash_of_the_iterable_is_raised(kind):
    def breaks():
        yield from NAMES[:10]
        raise LookupError("the caller's own")

    async def breaks_async():
        for name in breaks():
            yield name

    before = asyncio.all_tasks()
    async with client() as fm:
        with pytest.raises(LookupError, match="the caller's own"):
            [outcome async for outcome in fm.sweep(breaks() if kind == "sync" else breaks_async())]
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("kind", [iter, an_async_generator])
async def test_closing_early_stops_everything(kind):
    before = asyncio.all_tasks()
    async with client() as fm:
        async with aclosing(fm.sweep(kind(NAMES))) as outcomes:
            async for _ in outcomes:
                break
        assert fm.stats().flights["impersonation"].waiting == 0
    assert asyncio.all_tasks() == before


async def test_cancelling_the_consumer_stops_everything():
    async def consume(fm):
        return [outcome async for outcome in fm.sweep(["slow"] * 9)]

    before = asyncio.all_tasks()
    async with client() as fm:
        task = asyncio.create_task(consume(fm))
        await asyncio.sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_tokens_of_swept_users_are_not_kept_but_a_callers_own_is():
    async with client() as fm:
        await fm.impersonate("u0")
        async for _ in fm.sweep(NAMES):
            pass
        await fm.impersonate("u0")
        assert fm.stats().tokens_made == len(NAMES)
        await fm.impersonate("u1")
        assert fm.stats().tokens_made == len(NAMES) + 1


PEAK = """
import asyncio, sys, tracemalloc
from flowmate_async import FlowMate
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

TOKEN = json_response(b'{"token":"t"}')
EMPTY = json_response(b'{"data":[{"_id":"s","type":"SIMPLE"}],"meta":{"total":1}}')
SECRET = json_response(b'{"data":{"_id":"s","type":"SIMPLE","value":{"passphrase":"p"}}}')

def answer(method, path, headers, body):
    return TOKEN if method == "POST" else EMPTY if path[9] == "?" else SECRET

async def main(count):
    transport = MemoryTransport(answer)
    async with FlowMate(admin_token="a", base_url="http://localhost", transport=transport, rate=None) as fm:
        swept = 0
        async for outcome in fm.sweep(f"user-{number}" for number in range(count)):
            swept += 1
    assert swept == count and transport.sent == 3 * count

import resource
asyncio.run(main(int(sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("users", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_memory_does_not_depend_on_the_number_of_users(users):
    """Many users take no more than a thousand do, except for 2 MB and 130 bytes each."""

    def peak(count):
        run = subprocess.run(
            [sys.executable, "-c", PEAK, str(count)], capture_output=True, text=True, check=True
        )
        return int(run.stdout) * 1024

    assert peak(users) - peak(1_000) < 2_000_000 + 130 * users
