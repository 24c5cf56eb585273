"""Single flight: every row of the table in ``access/single_flight.py``, and its laws under any schedule.

The rows hold for secrets and for impersonations, over both kinds of transport.
"""

import asyncio
import gc
import json
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async import ConfigurationError, FlowMate, FlowMateError, RetryPolicy
from flowmate_async.engine.priority import in_background
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response
from flowmate_async.transport.base import Response

pytestmark = pytest.mark.anyio

WAYS = [MemoryTransport, ImmediateMemoryTransport]
BAD = json_response(b'{"message":""}', 500)
DOWN = json_response(b"", 503)


class Upstream:
    """Answers each request with its own number after ``wire`` seconds, or with what is given.

    ``asked`` and ``answered`` count the requests that matter: GETs of a secret, or impersonations of ``u``.
    Listing the users takes ``busy`` seconds, to keep a slot taken.
    """

    def __init__(self, what):
        self.what, self.wire, self.busy = what, 1.0, 1.0
        self.answers = []
        self.asked, self.answered, self.cancelled = 0, 0, 0

    async def __call__(self, method, path, headers, body):
        if path.startswith("/users/"):
            await asyncio.sleep(self.busy)
            return json_response(b"[]")
        if path.startswith("/secrets/?"):
            return json_response(b'{"data":[],"meta":{"total":0}}')
        impersonates = method == "POST"
        if impersonates != (self.what == "token"):
            return json_response(b'{"token":"t"}')
        self.asked += 1
        number = self.asked
        try:
            await asyncio.sleep(self.wire)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.answered += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer
        if impersonates:
            return json_response(b'{"token":"%d"}' % number)
        secret = {"_id": path[9:], "type": "API_KEY", "value": {"key": str(number)}}
        return json_response(json.dumps({"data": secret}).encode())


class World:
    """A client, and the one thing that its callers ask for: a secret of ``u`` or a token of ``u``."""

    def __init__(self, what, way, **options):
        self.what = what
        self.upstream = Upstream(what)
        settings = {"rate": None, "concurrency": 64} | options
        self.fm = FlowMate(admin_token="a", transport=way(self.upstream), **settings)

    async def __aenter__(self):
        await self.fm.__aenter__()
        if self.what == "secret":
            await self.fm.impersonate("u")
        return self

    async def __aexit__(self, *error):
        await self.fm.__aexit__(*error)

    async def ask(self):
        """The number of the request that brought the answer."""
        if self.what == "token":
            return int((await self.fm.impersonate("u")).token)
        return int((await self.fm.get_secret("u", "s")).value.key)

    async def start(self, count=1, *, background=False):
        if background:
            with in_background():
                tasks = [asyncio.create_task(self.ask()) for _ in range(count)]
        else:
            tasks = [asyncio.create_task(self.ask()) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks

    async def queued(self, count=1, **options):
        """Callers whose request waits for a slot for ``upstream.busy`` seconds."""
        self.blocker = asyncio.create_task(self.list_users())
        await asyncio.sleep(0)
        return await self.start(count, **options)

    async def list_users(self):
        return [user async for user in self.fm.users()]

    @property
    def flights(self):
        return self.fm.stats().flights["impersonation" if self.what == "token" else "secret"]

    @property
    def is_empty(self):
        standing, flights = self.fm.stats().traffic, self.flights
        counts = (flights.under_way, flights.waiting, standing.in_flight, standing.limiter.waiting)
        return counts == (0, 0, 0, 0)


async def give_up(*tasks):
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.fixture(params=["secret", "token"])
def what(request):
    return request.param


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
async def world(what, way):
    async with World(what, way) as made:
        yield made


@pytest.fixture
async def narrow(what, way):
    """A world with a single slot."""
    async with World(what, way, concurrency=1) as made:
        yield made


class TestTable:
    async def test_all_callers_at_once_share_one_flight(self, world):
        assert await asyncio.gather(*await world.start(100)) == [1] * 100
        joined = {"token": "impersonation"}.get(world.what, world.what)
        assert (world.upstream.asked, world.fm.stats().joined[joined]) == (1, 99)
        assert world.is_empty

    async def test_other_users_and_secrets_have_flights_of_their_own(self, way):
        async with World("secret", way) as world:
            pairs = [("u", "s"), ("u", "t"), ("v", "s")]
            await asyncio.gather(*(world.fm.get_secret(*pair) for pair in pairs))
            assert world.upstream.asked == 3

    @pytest.mark.parametrize("moment", [0.5, 1.5])
    async def test_a_cancelled_waiter_harms_no_other(self, narrow, moment):
        """While the flight is queued, and while it is on the wire."""
        first, second, third = await narrow.queued(3)
        await asyncio.sleep(moment)
        await give_up(first, second)
        assert await third == 1
        assert (narrow.upstream.asked, narrow.upstream.cancelled) == (1, 0)

    async def test_a_queued_flight_without_waiters_is_dropped(self, narrow):
        await give_up(*await narrow.queued(3))
        await narrow.blocker
        await asyncio.sleep(5)
        assert narrow.upstream.asked == 0
        assert narrow.is_empty
        assert await narrow.ask() == 1

    async def test_a_new_caller_of_a_dropped_flight_starts_another(self, narrow):
        """While what was dropped is still in the queue."""
        await give_up(*await narrow.queued())
        assert await narrow.ask() == 1
        assert narrow.upstream.asked == 1
        assert narrow.is_empty

    async def test_on_the_wire_it_finishes_for_the_next_caller(self, world):
        world.upstream.wire = 10
        (task,) = await world.start()
        await asyncio.sleep(1.5)
        await give_up(task)
        await asyncio.sleep(5)
        assert await world.ask() == 1
        assert (world.upstream.asked, world.upstream.cancelled) == (1, 0)

    async def test_on_the_wire_without_waiters_it_finishes(self, world):
        world.upstream.wire = 10
        await asyncio.sleep(0)
        (task,) = await world.start()
        await asyncio.sleep(1.5)
        await give_up(task)
        await asyncio.sleep(20)
        assert (world.upstream.answered, world.upstream.cancelled) == (1, 0)
        assert world.is_empty

    async def test_without_waiters_it_is_not_sent_again(self, world):
        world.upstream.answers = [DOWN]
        (task,) = await world.start()
        await asyncio.sleep(0.5)
        await give_up(task)
        await asyncio.sleep(60)
        assert world.upstream.asked == 1
        assert world.is_empty

    async def test_dropped_while_it_waits_for_a_retry_it_is_not_sent_again(self, what, way):
        async with World(what, way, retry=RetryPolicy(retry_after_cap_seconds=60)) as world:
            world.upstream.answers = [json_response(b"", 503, retry_after="30")]
            (task,) = await world.start()
            await asyncio.sleep(10)
            await give_up(task)
            assert world.is_empty
            await asyncio.sleep(60)
            assert world.upstream.asked == 1

    async def test_off_the_wire_it_goes_on_for_its_other_waiters(self, world):
        world.upstream.answers = [DOWN]
        first, second = await world.start(2)
        await asyncio.sleep(0.5)
        await give_up(first)
        assert await second == 2

    async def test_each_waiter_gets_its_own_error_and_the_next_flies_anew(self, world):
        world.upstream.answers = [json_response(b'{"message":""}', 404)]
        errors = await asyncio.gather(*await world.start(5), return_exceptions=True)
        assert all(isinstance(error, FlowMateError) for error in errors)
        assert len({str(error) for error in errors}) == 1
        assert "'u'" in str(errors[0])
        assert len({id(error) for error in errors}) == 5
        assert world.is_empty
        assert await world.ask() == 2

    async def test_a_crash_reaches_every_waiter(self, world):
        world.upstream.answers = [RuntimeError("a bug")]
        errors = await asyncio.gather(*await world.start(5), return_exceptions=True)
        assert [type(error) for error in errors] == [RuntimeError] * 5
        assert world.is_empty
        assert await world.ask() == 2

    async def test_a_caller_in_the_moment_of_the_last_cancellation_is_answered(self, narrow):
        (task,) = await narrow.queued()
        task.cancel()
        assert await asyncio.create_task(narrow.ask()) == 1
        assert narrow.upstream.answered == 1

    async def test_an_interactive_caller_hurries_a_queued_background_flight(self, what, way):
        async with World(what, way, rate=1, burst=1) as world:
            await world.list_users()
            (background,) = await world.start(background=True)
            others = [asyncio.create_task(world.list_users()) for _ in range(20)]
            await asyncio.sleep(0.5)
            (interactive,) = await world.start()
            with in_background():
                later = [asyncio.create_task(world.list_users()) for _ in range(9)]
            assert await interactive == await background == 1
            await asyncio.gather(*others, *later)
            assert world.upstream.asked == 1

    async def test_closing_fails_queued_flights_and_lets_the_wire_finish(self, what, way):
        async with World(what, way, concurrency=1) as world:
            world.upstream.wire = 3
            on_wire = asyncio.create_task(world.list_users())
            world.upstream.busy = 3
            await asyncio.sleep(1)
            (queued,) = await world.start()
        assert await on_wire == []
        with pytest.raises(ConfigurationError, match="closed"):
            await queued
        assert world.upstream.asked == 0
        assert world.is_empty

    async def test_closing_gives_an_answer_on_the_wire_to_its_waiters(self, what, way):
        async with World(what, way) as world:
            world.upstream.wire = 3
            tasks = await world.start(3)
            await asyncio.sleep(1)
        assert await asyncio.gather(*tasks) == [1, 1, 1]

    async def test_closing_takes_a_bounded_time(self, what, way):
        async with World(what, way) as world:
            world.upstream.wire = 1000
            (task,) = await world.start()
            await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() < 60
        with pytest.raises(ConfigurationError, match="closed"):
            await task
        assert world.is_empty

    async def test_a_closed_client_sends_nothing(self, what, way):
        async with World(what, way) as world:
            pass
        with pytest.raises(ConfigurationError):
            await world.ask()
        assert world.upstream.asked == 0

    async def test_an_answer_is_not_kept_alive(self, way):
        class Fields(dict):
            """Headers that a weak reference can watch."""

        async with World("secret", way) as world:
            fields = Fields({"content-type": "application/json"})
            body = b'{"data":{"_id":"s","type":"API_KEY","value":{"key":"1"}}}'
            world.upstream.answers = [Response(200, fields, body)]
            await world.ask()
            gone = weakref.ref(fields)
            del fields
            await asyncio.sleep(0)
            gc.collect()
            assert gone() is None


@pytest.mark.parametrize("way", WAYS)
class TestForced:
    def ask(self, world):
        return world.fm._parts.fetcher.get("u", "s", forced=True)

    @pytest.mark.parametrize("answer", [None, BAD, RuntimeError("a bug")])
    async def test_a_forced_caller_waits_for_the_unforced_flight_and_flies(self, way, answer):
        async with World("secret", way) as world:
            world.upstream.answers = [answer]
            (first,) = await world.start()
            await asyncio.sleep(0.5)
            forced = await asyncio.gather(*(self.ask(world) for _ in range(3)))
            assert [answer.secret.value.key for answer in forced] == ["2"] * 3
            assert world.upstream.asked == 2
            assert asyncio.get_running_loop().time() == pytest.approx(2)
            assert (first.exception() is None) == (answer is None)

    async def test_an_unforced_caller_joins_a_forced_flight(self, way):
        async with World("secret", way) as world:
            forced = asyncio.create_task(self.ask(world))
            await asyncio.sleep(0)
            assert await asyncio.gather(*await world.start(2)) == [1, 1]
            assert (await forced).secret.value.key == "1"
            assert world.upstream.asked == 1

    async def test_a_forced_caller_who_gives_up_while_waiting_sends_nothing(self, way):
        async with World("secret", way) as world:
            (first,) = await world.start()
            await asyncio.sleep(0.5)
            forced = asyncio.create_task(self.ask(world))
            await asyncio.sleep(0)
            await give_up(forced)
            assert await first == 1
            await asyncio.sleep(5)
            assert world.upstream.asked == 1
            assert world.is_empty


STEP = 0.25
moments = st.integers(0, 24).map(lambda steps: steps * STEP)
caller = st.fixed_dictionaries(
    {
        "at": moments,
        "key": st.sampled_from("ab"),
        "forced": st.booleans(),
        "patience": st.none() | moments,
        "background": st.booleans(),
    }
)
flight_plan = st.fixed_dictionaries(
    {"wire": moments, "ends": st.sampled_from(["well", "well", "bad", "down"])}
)


@given(
    st.lists(caller, min_size=1, max_size=14),
    st.lists(flight_plan, min_size=30, max_size=30),
    st.none() | moments,
    st.sampled_from([1, 2, 64]),
    st.sampled_from(WAYS),
)
@settings(max_examples=2 * settings().max_examples)
def test_the_laws_hold_under_any_schedule(  # noqa: C901, PLR0915 - one world, told at one place
    virtually, callers, plans, closes_at, concurrency, way
):
    """Never two requests of a key at once, and no waiter lost; forced never joins unforced.

    Nothing joins a flight that has ended, nothing on the wire is cancelled before the close, and the table is
    empty afterwards.
    """

    async def main():  # noqa: C901, PLR0915 - the same
        loop = asyncio.get_running_loop()
        flying, number, cancelled, begun, ended = {"a": 0, "b": 0}, 0, [], {}, {}

        async def upstream(method, path, headers, body):
            nonlocal number
            if method == "POST":
                return json_response(b'{"token":"t"}')
            if path.startswith("/secrets/?"):
                return json_response(b'{"data":[],"meta":{"total":0}}')
            key = path[9:]
            number += 1
            mine, plan = number, plans[number % len(plans)]
            flying[key] += 1
            begun[mine] = fm._parts.fetcher._flights[("u", key)].forced
            assert flying[key] == 1, "two requests of one key"
            try:
                await asyncio.sleep(plan["wire"])
            except asyncio.CancelledError:
                cancelled.append(mine)
                raise
            finally:
                flying[key] -= 1
                ended[mine] = loop.time()
            if plan["ends"] == "down":  # sent again, by the same flight
                return DOWN
            if plan["ends"] == "bad":
                return json_response(json.dumps({"message": f"number {mine}"}).encode(), 404)
            secret = {"_id": key, "type": "API_KEY", "value": {"key": str(mine)}}
            return json_response(json.dumps({"data": secret}).encode())

        async def call(key, at, forced, patience, background):
            await asyncio.sleep(at)
            asked = loop.time()
            try:
                if background:
                    with in_background():
                        waiting = fm._parts.fetcher.get("u", key, forced=forced)
                else:
                    waiting = fm._parts.fetcher.get("u", key, forced=forced)
                answer = int((await waiting).secret.value.key)
            except ConfigurationError:
                assert closes_at is not None
                return
            except FlowMateError:
                return
            assert ended[answer] >= asked, "joined a flight that had ended"
            assert not forced or begun[answer], "forced joined unforced"

        retry = RetryPolicy(attempts=2, lock_seconds=1.0, budget_reserve=1000)
        fm = FlowMate(
            admin_token="a", transport=way(upstream), rate=None, concurrency=concurrency, retry=retry
        )
        await fm.__aenter__()
        tasks = [asyncio.create_task(call(**who)) for who in callers]
        for task, who in zip(tasks, callers, strict=True):
            if who["patience"] is not None:
                loop.call_later(who["at"] + who["patience"], task.cancel)
        if closes_at is not None:
            await asyncio.sleep(closes_at)
            await fm.__aexit__(None, None, None)
        async with asyncio.timeout(1000):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        assert not cancelled or closes_at is not None, "closing waits 5 s for what is on the wire, no longer"
        await asyncio.sleep(100)
        flights, traffic = fm.stats().flights["secret"], fm.stats().traffic
        assert (flights.under_way, flights.waiting) == (0, 0)
        assert (traffic.in_flight, traffic.limiter.waiting) == (0, 0)
        assert flying == {"a": 0, "b": 0}
        if closes_at is None:
            await fm.__aexit__(None, None, None)

    virtually(main)
