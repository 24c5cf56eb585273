"""A wall clock that jumps by hours, at the public face: what is asked, when, and what is resumed.

The cache's own tests are in ``tests/access/test_cache.py``; every seventh chaos run has such a clock.
"""

import asyncio
from email.utils import formatdate
from typing import Any

import msgspec
import pytest

from flowmate_async import FlowMate, SyncOptions, TransportError, UserSynced, open_store
from flowmate_async.sandbox.timestamps import iso
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio

TRUE_WALL = 1_800_000_000.0
HOUR = 3600.0
SECRET = "66761aedcf268b4d68470e27"


@pytest.fixture
def anyio_backend(virtual_time: Any) -> Any:
    return virtual_time


class Clock:
    """The loop's time, and a wall clock that can be set wrong."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return true_wall() + self.ahead_seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 1 / 1024))


def true_wall() -> float:
    return TRUE_WALL + asyncio.get_running_loop().time()


class Upstream:
    """One user with one OAuth secret that has five minutes left; ``gets`` are the moments of its GETs."""

    def __init__(self) -> None:
        self.gets: list[float] = []
        self.tokens: list[float] = []
        self.users = 0
        self.first: list[Any] = []
        """What the first GETs of the secret meet instead of its answer."""

        self.throttles: list[dict[str, str]] = []
        """Headers of the 429s that the first impersonations meet."""

    async def __call__(self, method: str, path: str, headers: Any, body: Any) -> Any:
        await asyncio.sleep(0.01)
        if method == "POST":
            self.tokens.append(asyncio.get_running_loop().time())
            if self.throttles:
                return json_response(b"{}", 429, **self.throttles.pop(0))
            return json_response(b'{"token":"t"}')
        value = {"accessToken": "a", "expires": iso(true_wall() + 300)}
        item = {"_id": SECRET, "type": "OA2_AUTHORIZATION_CODE", "value": value}
        if path.startswith("/secrets/?"):
            listed = {"data": [item], "meta": {"total": 1}}
            return self._answer(listed)
        self.gets.append(asyncio.get_running_loop().time())
        if self.first:
            raise self.first.pop(0)
        return self._answer({"data": item})

    def _answer(self, answer: Any) -> Any:
        return json_response(msgspec.json.encode(answer), date=formatdate(true_wall(), usegmt=True))


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def fm(upstream: Upstream, clock: Clock) -> Any:
    async with FlowMate(
        admin_token="a",
        base_url="http://localhost",
        transport=MemoryTransport(upstream),
        clock=clock,
        rate=None,
    ) as client:
        yield client


@pytest.mark.parametrize("ahead", [-10 * HOUR, -3 * HOUR, 0.0, 3 * HOUR])
@pytest.mark.parametrize("failure", ["timeout", "interrupted", "stale"])
async def test_a_sweep_waits_out_the_lock_however_wrong_the_clock_is(fm, upstream, clock, ahead, failure):
    """Which secrets upstream may be refreshing is not for this machine's clock alone to say."""
    clock.ahead_seconds = ahead
    upstream.first = [TransportError(failure, "as scripted")]
    (outcome,) = [outcome async for outcome in fm.sweep(["u"])]
    assert isinstance(outcome, UserSynced)
    first, second = upstream.gets
    assert second - first > 10


@pytest.mark.parametrize(("ahead", "least", "most"), [(0.0, 8, 12), (-HOUR, 60, 67), (HOUR, 0, 2)])
async def test_a_retry_after_date_never_holds_longer_than_its_cap(fm, upstream, clock, ahead, least, most):
    """A clock that is behind waits the cap and its jitter (a tenth); one ahead asks again by itself."""
    clock.ahead_seconds = ahead
    upstream.throttles = [{"retry_after": formatdate(true_wall() + 10, usegmt=True)}]
    await fm.impersonate("u")
    first, second = upstream.tokens
    assert least <= second - first <= most


@pytest.mark.parametrize("jump", [-5 * HOUR, -HOUR, HOUR, 11 * HOUR])
async def test_a_run_is_resumed_across_a_jump_within_its_age(fm, upstream, clock, jump):
    async with open_store("memory:") as store:
        stop = asyncio.Event()
        stop.set()
        stopped = await fm.sync(store, ["u", "v"], stop=stop)
        assert not stopped.complete
        clock.ahead_seconds += jump
        report = await fm.sync(store, ["u", "v"])
        assert (report.resumed, report.run_id, report.complete) == (True, stopped.run_id, True)
        assert (report.synced, report.failed) == (2, 0)


async def test_a_jump_beyond_its_age_begins_a_new_run_and_loses_nothing(fm, upstream, clock):
    async with open_store("memory:") as store:
        stop = asyncio.Event()
        stop.set()
        stopped = await fm.sync(store, ["u", "v"], stop=stop)
        clock.ahead_seconds += 13 * HOUR
        report = await fm.sync(store, ["u", "v"])
        assert (report.resumed, report.complete, report.synced) == (False, True, 2)
        assert report.run_id != stopped.run_id
        assert len([item async for item in store.items()]) == 2


@pytest.mark.parametrize("jump", [-5 * HOUR, 5 * HOUR])
async def test_a_jump_in_the_midst_of_a_run_changes_nothing_of_it(fm, upstream, clock, jump):
    """Durations are the monotonic clock's: the report's seconds are true, and every user is synced."""

    def jump_once(event: Any) -> None:
        if type(event).__name__ == "UserStored":
            clock.ahead_seconds += jump

    names = [f"u{number}" for number in range(150)]
    async with open_store("memory:") as store:
        report = await fm.sync(store, names, options=SyncOptions(), on_event=jump_once)
        assert (report.complete, report.synced, report.failed) == (True, 150, 0)
        assert 0 < report.seconds < 10
        assert len([item async for item in store.items()]) == 150
