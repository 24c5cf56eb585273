"""Turns by secret and slots by client: fair, interactive first, and undisturbed by cancellations."""

import asyncio
import random
from functools import partial

import pytest

from flowmate_async.engine.contender import Ticket
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.refresh_slots import RefreshSlots
from flowmate_async.engine.secret_turns import SecretTurns
from flowmate_async.errors import RefreshFailedError
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

pytestmark = pytest.mark.anyio

FRONT, BEHIND = Priority.INTERACTIVE, Priority.BACKGROUND
WAYS = [MemoryTransport, ImmediateMemoryTransport]


def go_on(*contenders):
    for contender in contenders:
        if contender is not None:
            contender.go_on()


def hurry(holder):
    """As the engine does, for a ticket."""
    holder.priority = FRONT
    holder.hurry()


async def use(turns, secret_id, ticket, seconds=1.0, *, on_turn=lambda: None):
    """Hold a turn for some seconds."""
    await turns.wait(secret_id, ticket, hurry)
    try:
        on_turn()
        await asyncio.sleep(seconds)
    finally:
        go_on(turns.leave(secret_id, ticket))


def start(*args, **options):
    return asyncio.create_task(use(*args, **options))


async def test_each_secret_has_its_own_turn_whatever_its_spelling():
    turns, first, second = SecretTurns(), Ticket(FRONT), Ticket(FRONT)
    turns.take("abc", first)
    assert not turns.is_free("ABC", second)
    assert turns.is_free("ABC", first)
    turns.take("def", second)
    assert len(turns) == 2
    assert turns.leave("Abc", first) is None
    assert turns.leave("DEF", second) is None
    assert len(turns) == 0


async def test_a_turn_is_given_up_once_and_only_by_its_holder():
    turns, first, second, third = SecretTurns(), Ticket(FRONT), Ticket(FRONT), Ticket(FRONT)
    turns.take("s", first)
    turns.park("s", second)
    turns.park("s", third)
    assert turns.leave("s", third) is None
    assert turns.leave("s", first) is second
    assert turns.leave("s", first) is None
    assert not turns.is_free("s", third)
    assert turns.leave("s", second) is third
    assert turns.leave("s", third) is None
    assert len(turns) == 0


async def test_interactive_tickets_go_first_and_background_ones_do_not_starve():
    turns, order, first = SecretTurns(), [], Ticket(FRONT)
    turns.take("s", first)
    tasks = [
        start(turns, "s", Ticket(priority), on_turn=partial(order.append, f"{priority.name} {number}"))
        for priority, count in ((BEHIND, 2), (FRONT, 6))
        for number in range(count)
    ]
    await asyncio.sleep(0)
    assert turns.waiting == 8
    go_on(turns.leave("s", first))
    await asyncio.gather(*tasks)
    assert order[:4] == [f"INTERACTIVE {number}" for number in range(4)]
    assert order[4] == "BACKGROUND 0"
    assert len(turns) == 0


async def test_a_background_holder_is_hurried_once_by_interactive_waiters():
    turns, hurried = SecretTurns(), []
    holder = Ticket(BEHIND, lambda: hurried.append("holder"))
    turns.take("s", holder)
    queued = start(turns, "s", Ticket(BEHIND, lambda: hurried.append("queued")))
    await asyncio.sleep(0)
    assert hurried == []
    waiters = [start(turns, "s", Ticket(FRONT)) for _ in range(2)]
    await asyncio.sleep(0)
    assert hurried == ["holder"]
    go_on(turns.leave("s", holder))
    await asyncio.gather(*waiters, queued)
    assert hurried == ["holder"]
    assert len(turns) == 0


async def test_a_background_ticket_that_gets_its_share_is_hurried():
    """Interactive ones wait behind it."""
    turns, hurried, first = SecretTurns(), [], Ticket(FRONT)
    turns.take("s", first)
    background = start(turns, "s", Ticket(BEHIND, lambda: hurried.append("share")))
    interactive = [start(turns, "s", Ticket(FRONT)) for _ in range(6)]
    await asyncio.sleep(0)
    go_on(turns.leave("s", first))
    await asyncio.gather(*interactive, background)
    assert hurried == ["share"]
    assert len(turns) == 0


@pytest.mark.parametrize("seed", range(30))
async def test_cancelled_tickets_neither_block_nor_leak(seed):
    """Whenever they are cancelled, in the very moment of the hand-over too."""
    rng, turns, slots, inside = random.Random(seed), SecretTurns(), RefreshSlots(2), set()

    async def refresh(secret_id, client, priority):
        ticket = Ticket(priority)
        await turns.wait(secret_id, ticket, hurry)
        try:
            assert secret_id not in inside
            inside.add(secret_id)
            try:
                await slots.wait(client, Ticket(priority))
                try:
                    await asyncio.sleep(rng.choice([0, 0, 0.5]))
                finally:
                    go_on(*(contender for _, contender in slots.leave(client)))
            finally:
                inside.discard(secret_id)
        finally:
            go_on(turns.leave(secret_id, ticket))

    tasks = []
    for _ in range(60):
        work = refresh(rng.choice("xyz"), rng.choice(["a", "b", None]), rng.choice([FRONT, BEHIND]))
        tasks.append(asyncio.create_task(work))
        if rng.random() < 0.4:
            await asyncio.sleep(0)
        if rng.random() < 0.4:
            rng.choice(tasks).cancel()
    async with asyncio.timeout(1000):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert not [task for task in tasks if not task.cancelled() and task.exception()]
    assert (len(turns), turns.waiting, slots.inside, slots.waiting) == (0, 0, 0, 0)
    assert slots.has_room("a")
    assert slots.has_room(None)


async def refresh_slot(slots, client, priority, *, on_slot):
    await slots.wait(client, Ticket(priority))
    on_slot()
    await asyncio.sleep(1)
    go_on(*(contender for _, contender in slots.leave(client)))


async def test_slots_go_to_interactive_tickets_first_and_clients_do_not_mix():
    slots, order = RefreshSlots(1), []
    await asyncio.gather(
        *(
            refresh_slot(slots, client, priority, on_slot=partial(order.append, name))
            for client, priority, name in (
                ("a", BEHIND, "first"),
                ("a", BEHIND, "background"),
                ("a", FRONT, "interactive"),
                ("b", FRONT, "other client"),
            )
        )
    )
    assert order == ["first", "other client", "interactive", "background"]


async def test_known_and_unknown_clients_share_a_single_slot():
    """Neither waits for ever while the other keeps coming."""
    slots, entered = RefreshSlots(1), []

    async def stream(client):
        for _ in range(20):
            await refresh_slot(slots, client, FRONT, on_slot=partial(entered.append, client))

    await asyncio.gather(*(stream(client) for client in ("a", "a", None, None)))
    assert entered.count("a") == entered.count(None) == 40
    assert all({"a", None} == set(entered[first : first + 4]) for first in range(72))


class Refreshing:
    """An upstream that takes a second for each refresh, and counts those of one secret at the same time."""

    def __init__(self):
        self.asked, self.inside, self.overlaps, self.most_inside = [], set(), 0, 0

    async def __call__(self, path):
        secret_id = path.rpartition("/")[2].lower()
        self.overlaps += secret_id in self.inside
        self.asked.append(secret_id)
        self.inside.add(secret_id)
        self.most_inside = max(self.most_inside, len(self.inside))
        await asyncio.sleep(1)
        self.inside.discard(secret_id)
        return json_response(b"{}")


@pytest.mark.parametrize("way", WAYS)
class TestCalls:
    """The same laws for calls, through the engine."""

    async def test_calls_of_one_secret_take_turns_whatever_its_spelling(self, lab, way):
        upstream = Refreshing()
        async with lab(upstream, carrier=way) as made:
            calls = [made.refresh(name, username=f"u{n}") for n, name in enumerate(["abc", "ABC", "def"] * 3)]
            await asyncio.gather(*(call.answer(made.engine) for call in calls))
            assert len(made.traffic.turns) == 0
        assert (len(upstream.asked), upstream.overlaps, upstream.most_inside) == (9, 0, 2)
        assert asyncio.get_running_loop().time() == pytest.approx(6)

    async def test_a_background_holder_is_hurried_by_an_interactive_call(self, lab, way):
        """Otherwise the interactive call would wait for the rate behind 30 background calls."""
        async with lab(Refreshing(), carrier=way, rate=1, burst=1) as made:
            await made.send("/first")
            others = [asyncio.create_task(made.send(f"/b{n}", priority=BEHIND)) for n in range(30)]
            await asyncio.sleep(0)
            holder = made.refresh("s", priority=BEHIND)
            made.gates.refreshes.take_turn(holder)
            made.engine.submit(holder)
            made.engine.submit(waiting := made.refresh("s", username="v"))
            await waiting.future
            assert holder.priority is FRONT
            assert asyncio.get_running_loop().time() < 10
            await asyncio.gather(*others)

    async def test_a_background_call_that_gets_its_share_is_hurried(self, lab, way):
        async with lab(Refreshing(), carrier=way) as made:
            first, background = made.refresh("s"), made.refresh("s", priority=BEHIND)
            interactive = [made.refresh("s", username=f"u{number}") for number in range(6)]
            for call in (first, background, *interactive):
                made.engine.submit(call)
            await asyncio.sleep(5.5)
            assert not background.future.done()
            assert background.priority is FRONT, "it holds the turn, and interactive calls wait for it"
            await asyncio.gather(*(call.future for call in (background, *interactive)))

    async def test_slots_go_to_interactive_calls_first(self, lab, way):
        upstream = Refreshing()
        async with lab(upstream, carrier=way) as made:
            limit = 8
            calls = [made.refresh(f"first-{number}", client="c") for number in range(limit)]
            calls += [made.refresh("background", client="c", priority=BEHIND)]
            calls += [made.refresh("interactive", client="c"), made.refresh("other", client="d")]
            await asyncio.gather(*(call.answer(made.engine) for call in calls))
        assert upstream.asked[limit:] == ["other", "interactive", "background"]

    async def test_thousands_of_refusals_in_a_row_reach_their_callers(self, lab, way):
        """Each refusal lets the next call in; that may not be a recursion."""
        async with lab(Refreshing(), carrier=way) as made:
            calls = [made.refresh("s", username=f"u{number}") for number in range(3000)]
            for call in calls:
                made.engine.submit(call)
            await asyncio.sleep(0.5)  # the first one is on its way
            made.gates.quarantine.impose("s", 100)
            await asyncio.sleep(2)
            first, *others = calls
            assert first.future.done()
            assert {type(call.future.exception()) for call in others} == {RefreshFailedError}
            assert len(made.traffic.turns) == 0

    @pytest.mark.parametrize("seed", range(20))
    async def test_dropped_and_hurried_calls_neither_block_nor_leak(self, lab, way, seed):
        """Whatever they wait for: a turn, a slot, the rate, a place on the wire."""
        rng, upstream = random.Random(seed), Refreshing()
        options = {"rate": rng.choice([None, 8]), "burst": 4, "concurrency": rng.choice([2, 64])}
        async with lab(upstream, carrier=way, **options) as made:
            calls, dropped = [], set()
            for number in range(120):
                call = made.refresh(
                    rng.choice("stuvwxyz"),
                    username=f"u{number}",
                    client=rng.choice(["a", "b", None]),
                    priority=rng.choice([FRONT, BEHIND]),
                )
                calls.append(call)
                made.engine.submit(call)
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.choice([0, 0.25]))
                if rng.random() < 0.3:
                    made.engine.hurry(rng.choice(calls))
                if rng.random() < 0.3:
                    dropped.add(gone := rng.choice(calls))
                    made.engine.drop(gone)
            async with asyncio.timeout(1000):
                await asyncio.gather(*(call.future for call in calls if call not in dropped))
            await asyncio.sleep(10)
            assert upstream.overlaps == 0
            slots, turns = made.gates.refreshes.bulkheads.slots, made.traffic.turns
            assert (len(turns), turns.waiting, slots.inside, slots.waiting) == (0, 0, 0, 0)
            assert (made.pacer.taken, made.engine.waiting, len(made.engine._calls)) == (0, 0, 0)


@pytest.mark.parametrize("secret_id", ["s", None])
async def test_thousands_of_immediate_answers_in_a_row_reach_their_callers(lab, secret_id):
    """The transport answers within the call, each answer lets the next call go, and nothing recurses."""

    class Eager(ImmediateMemoryTransport):
        def send_at_once(self, *request, then):
            then(json_response(b"{}"))
            return True

    async with lab(None, carrier=Eager, concurrency=1) as made:
        made.pacer.pause(1)
        calls = [made.refresh(secret_id) if secret_id else made.call() for _ in range(3000)]
        for call in calls:
            made.engine.submit(call)
        await asyncio.sleep(2)
        assert all(call.future.done() and not call.future.exception() for call in calls)
        assert (made.pacer.taken, len(made.traffic.turns)) == (0, 0)
