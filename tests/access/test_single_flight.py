"""Single flight: every row of the table in ``access/single_flight.py``, and its laws under any schedule."""

import asyncio
import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async import ConfigurationError, FlowMateError, ProtocolError
from flowmate_async.access.single_flight import SingleFlight

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class Upstream:
    """Flies for as long as told; ``queued`` seconds before the wire, ``wire`` seconds on it."""

    def __init__(self, *, queued=1.0, wire=1.0, after=0.0, error=None):
        self.queued, self.wire, self.after, self.error = queued, wire, after, error
        self.launched = self.answered = self.cancelled = 0

    async def __call__(self, flight):
        self.launched += 1
        number = self.launched
        try:
            await asyncio.sleep(self.queued)
            with flight:
                await asyncio.sleep(self.wire)
            if self.after:
                await asyncio.sleep(self.after)
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.answered += 1
        return number


async def start(flights, upstream, count=1, **options):
    tasks = [asyncio.create_task(flights.fly("k", upstream, **options)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def is_empty(flights):
    found = flights.statistics()
    return (found.under_way, found.waiting) == (0, 0) and not flights._ending


class TestTable:
    async def test_all_who_ask_at_once_share_one_flight(self):
        flights, upstream = SingleFlight(), Upstream()
        assert await asyncio.gather(*await start(flights, upstream, 100)) == [1] * 100
        assert (flights.statistics().flown, flights.statistics().joined) == (1, 99)
        await asyncio.sleep(0)
        assert is_empty(flights)

    async def test_another_key_is_another_flight(self):
        flights, upstream = SingleFlight(), Upstream()
        assert set(await asyncio.gather(flights.fly("a", upstream), flights.fly("b", upstream))) == {1, 2}

    @pytest.mark.parametrize("moment", [0.5, 1.5])
    async def test_a_cancelled_waiter_harms_no_other(self, moment):
        flights, upstream = SingleFlight(), Upstream()
        first, second, third = await start(flights, upstream, 3)
        await asyncio.sleep(moment)
        first.cancel()
        second.cancel()
        assert await third == 1
        assert (upstream.launched, upstream.cancelled) == (1, 0)
        assert first.cancelled()
        assert second.cancelled()

    async def test_a_queued_flight_that_nobody_waits_for_is_dropped(self):
        flights, upstream = SingleFlight(), Upstream()
        tasks = await start(flights, upstream, 3)
        await asyncio.sleep(0.5)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0.1)
        assert (upstream.cancelled, is_empty(flights)) == (1, True)
        assert await flights.fly("k", upstream) == 2

    async def test_on_the_wire_it_is_let_finish_and_its_answer_kept_for_whoever_joins(self):
        flights, upstream = SingleFlight(), Upstream(wire=10)
        (task,) = await start(flights, upstream)
        await asyncio.sleep(1.5)
        task.cancel()
        await asyncio.sleep(5)
        assert await flights.fly("k", upstream) == 1
        assert (upstream.launched, upstream.cancelled) == (1, 0)

    async def test_on_the_wire_with_nobody_left_it_ends_by_itself(self):
        flights, upstream = SingleFlight(), Upstream(wire=10)
        (task,) = await start(flights, upstream)
        await asyncio.sleep(1.5)
        task.cancel()
        await asyncio.sleep(20)
        assert (upstream.answered, upstream.cancelled, is_empty(flights)) == (1, 0, True)

    async def test_unwanted_and_off_the_wire_without_an_answer_it_is_not_sent_again(self):
        flights, upstream = SingleFlight(), Upstream(wire=2, after=10)
        (task,) = await start(flights, upstream)
        await asyncio.sleep(1.5)
        task.cancel()
        await asyncio.sleep(3)
        assert (upstream.answered, upstream.cancelled, is_empty(flights)) == (0, 1, True)

    async def test_off_the_wire_it_goes_on_for_who_still_waits(self):
        flights, upstream = SingleFlight(), Upstream(wire=2, after=10)
        first, second = await start(flights, upstream, 2)
        await asyncio.sleep(1.5)
        first.cancel()
        assert await second == 1

    async def test_a_failure_is_each_waiters_own_and_the_next_caller_flies_anew(self):
        flights, upstream = SingleFlight(), Upstream(error=ProtocolError("no", username="u"))
        errors = await asyncio.gather(*await start(flights, upstream, 5), return_exceptions=True)
        assert {str(error) for error in errors} == {"no (user 'u')"}
        assert len({id(error) for error in errors}) == 5
        upstream.error = None
        assert await flights.fly("k", upstream) == 2

    async def test_a_crash_reaches_every_waiter(self):
        flights, upstream = SingleFlight(), Upstream(error=RuntimeError("a bug"))
        errors = await asyncio.gather(*await start(flights, upstream, 5), return_exceptions=True)
        assert [type(error) for error in errors] == [RuntimeError] * 5
        await asyncio.sleep(0)
        assert is_empty(flights)

    async def test_who_comes_in_the_very_moment_of_the_last_cancellation_flies_anew(self):
        flights, upstream = SingleFlight(), Upstream()
        (task,) = await start(flights, upstream)
        task.cancel()
        newcomer = asyncio.create_task(flights.fly("k", upstream))
        assert await newcomer in (1, 2)
        assert upstream.answered == 1

    @pytest.mark.parametrize("error", [None, FlowMateError("failed"), RuntimeError("a bug")])
    async def test_a_forced_caller_waits_for_the_unforced_flight_to_end_and_flies(self, error):
        loop = asyncio.get_running_loop()
        flights, unforced, forced = SingleFlight(), Upstream(error=error), Upstream()
        (first,) = await start(flights, unforced)
        asked = await start(flights, forced, 3, forced=True)
        assert await asyncio.gather(*asked) == [1, 1, 1]
        assert loop.time() == pytest.approx(4)
        assert (unforced.launched, forced.launched) == (1, 1)
        assert (first.exception() is None) == (error is None)

    async def test_an_unforced_caller_joins_a_forced_flight(self):
        flights, upstream = SingleFlight(), Upstream()
        forced = await start(flights, upstream, forced=True)
        assert await asyncio.gather(*forced, *await start(flights, upstream, 2)) == [1, 1, 1]

    async def test_closing_drops_what_is_queued_and_lets_the_wire_finish(self):
        flights, queued, wired = SingleFlight(), Upstream(queued=100), Upstream(queued=0, wire=3)
        tasks = [
            asyncio.create_task(flights.fly(key, upstream)) for key, upstream in (("q", queued), ("w", wired))
        ]
        await asyncio.sleep(1)
        await flights.aclose(drain_seconds=5)
        assert isinstance((await asyncio.gather(tasks[0], return_exceptions=True))[0], ConfigurationError)
        assert await tasks[1] == 1
        assert is_empty(flights)

    async def test_closing_takes_a_bounded_time(self):
        loop = asyncio.get_running_loop()
        flights, upstream = SingleFlight(), Upstream(queued=0, wire=1000)
        (task,) = await start(flights, upstream)
        await asyncio.sleep(1)
        await flights.aclose(drain_seconds=5)
        assert loop.time() == pytest.approx(6)
        with pytest.raises(ConfigurationError, match="closed"):
            await task
        assert is_empty(flights)

    async def test_a_closed_table_launches_nothing(self):
        flights, upstream = SingleFlight(), Upstream()
        await flights.aclose(drain_seconds=1)
        with pytest.raises(ConfigurationError, match="closed"):
            await flights.fly("k", upstream)
        assert upstream.launched == 0

    async def test_an_answer_is_not_kept_alive_by_the_table(self):
        class Value:
            pass

        async def launch(flight):
            return Value()

        flights = SingleFlight()
        value = await flights.fly("k", launch)
        gone = weakref.ref(value)
        del value
        await asyncio.sleep(0)
        gc.collect()
        assert gone() is None


STEP = 0.25
moments = st.integers(0, 24).map(lambda steps: steps * STEP)
caller = st.fixed_dictionaries(
    {"at": moments, "key": st.sampled_from("ab"), "forced": st.booleans(), "patience": st.none() | moments}
)
flight_plan = st.fixed_dictionaries(
    {"queued": moments, "wire": moments, "after": st.sampled_from([0, STEP, 2]), "fails": st.booleans()}
)


@given(
    st.lists(caller, min_size=1, max_size=14),
    st.lists(flight_plan, min_size=30, max_size=30),
    st.none() | moments,
)
@settings(max_examples=150)
def test_the_laws_hold_under_any_schedule(  # noqa: C901, PLR0915 - one world, told at one place
    virtually, callers, plans, closes_at
):
    """Never two flights of a key at once, and no waiter lost; forced never joins unforced.

    Nothing joins a flight that has ended, nothing on the wire is cancelled before the close, and the table is
    empty afterwards.
    """

    async def main():  # noqa: C901, PLR0915 - the same
        loop = asyncio.get_running_loop()
        flights = SingleFlight()
        flying, number, wire_cancelled, begun, ended = {"a": 0, "b": 0}, 0, [], {}, {}

        def launcher(key, forced):
            async def launch(flight):
                nonlocal number
                number += 1
                mine, plan = number, plans[number % len(plans)]
                flying[key] += 1
                begun[mine] = (loop.time(), flight.forced)
                on_wire = False
                try:
                    assert flying[key] == 1, "two flights of one key"
                    await asyncio.sleep(plan["queued"])
                    with flight:
                        on_wire = True
                        await asyncio.sleep(plan["wire"])
                        on_wire = False
                    await asyncio.sleep(plan["after"])
                    if plan["fails"]:
                        raise FlowMateError(str(mine))
                    return mine  # noqa: TRY300 - the answer of the flight
                except asyncio.CancelledError:
                    if on_wire and closes_at is None:
                        wire_cancelled.append(mine)
                    raise
                finally:
                    flying[key] -= 1
                    ended[mine] = loop.time()

            return launch

        async def call(key, at, forced, patience):
            await asyncio.sleep(at)
            asked = loop.time()
            try:
                answer = await flights.fly(key, launcher(key, forced), forced=forced)
            except ConfigurationError:
                assert closes_at is not None
                return
            except FlowMateError as error:
                answer = int(str(error))
            assert ended[answer] >= asked, "joined a flight that had ended"
            assert not forced or begun[answer][1], "forced joined unforced"

        async def impatient(task, after):
            await asyncio.sleep(after)
            task.cancel()

        tasks = [asyncio.create_task(call(**who)) for who in callers]
        others = [
            asyncio.create_task(impatient(task, who["at"] + who["patience"]))
            for task, who in zip(tasks, callers, strict=True)
            if who["patience"] is not None
        ]
        if closes_at is not None:
            await asyncio.sleep(closes_at)
            await flights.aclose(drain_seconds=3)
        async with asyncio.timeout(1000):
            outcomes = await asyncio.gather(*tasks, *others, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        assert not wire_cancelled
        await asyncio.sleep(100)
        assert is_empty(flights)
        assert flying == {"a": 0, "b": 0}

    virtually(main)
