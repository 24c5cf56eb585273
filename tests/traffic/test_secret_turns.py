"""Turns by secret and slots by client: fair, interactive first, and undisturbed by cancellations."""

import asyncio
import random

import pytest

from flowmate_async.traffic.priority import in_background
from flowmate_async.traffic.refresh_slots import RefreshSlots
from flowmate_async.traffic.secret_turns import SecretTurns

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


def start(call, *, background=False):
    if background:
        with in_background():
            return asyncio.create_task(call)
    return asyncio.create_task(call)


async def test_each_secret_has_its_own_turn_whatever_its_spelling():
    turns = SecretTurns()
    with await turns.take("abc"):
        assert turns.take_at_once("ABC") is None
        with await turns.take("def"):
            assert len(turns) == 2
    assert len(turns) == 0


async def test_a_turn_is_released_once():
    turns = SecretTurns()
    first = await turns.take("s")
    waiting = start(turns.take("s"))
    await asyncio.sleep(0)
    first.release()
    first.release()
    second = await waiting
    assert turns.take_at_once("s") is None
    second.release()
    assert len(turns) == 0


async def test_a_hurried_request_lets_go_before_it_sends():
    """It continues in another task; the first one would be cancelled on the wire."""
    turns, sent = SecretTurns(), []

    async def ask():
        task = asyncio.current_task()
        with await turns.take("s", hurry=task.cancel):
            sent.append("background")
            await asyncio.sleep(1)

    async def ask_now():
        with await turns.take("s"):
            sent.append("interactive")

    first = await turns.take("s")
    background = [start(ask(), background=True) for _ in range(2)]
    await asyncio.sleep(0)
    interactive = [start(ask_now()) for _ in range(6)]
    await asyncio.sleep(0)
    first.release()
    await asyncio.wait([*background, *interactive])
    assert [task.cancelled() for task in background].count(True) >= 1
    assert sent.count("background") == [task.cancelled() for task in background].count(False)
    assert sent.count("interactive") == 6
    assert len(turns) == 0


async def test_interactive_requests_go_first_and_the_background_is_not_starved():
    turns, order = SecretTurns(), []

    async def use(name):
        with await turns.take("s"):
            order.append(name)
            await asyncio.sleep(1)

    first = await turns.take("s")
    tasks = [start(use(f"background {number}"), background=True) for number in range(2)]
    tasks += [start(use(f"interactive {number}")) for number in range(6)]
    await asyncio.sleep(0)
    assert turns.waiting == 8
    first.release()
    await asyncio.gather(*tasks)
    assert order[:4] == [f"interactive {number}" for number in range(4)]
    assert order[4] == "background 0"
    assert len(turns) == 0


async def test_a_background_holder_is_hurried_once_by_an_interactive_waiter():
    turns, hurried = SecretTurns(), []
    with in_background():
        holder = await turns.take("s", lambda: hurried.append("holder"))
        queued = start(turns.take("s", lambda: hurried.append("queued")), background=True)
    await asyncio.sleep(0)
    assert hurried == []
    waiters = [start(turns.take("s")) for _ in range(2)]
    await asyncio.sleep(0)
    assert hurried == ["holder"]
    holder.release()
    for waiter in waiters:
        (await waiter).release()
    (await queued).release()
    assert hurried == ["holder"]
    assert len(turns) == 0


async def test_a_background_request_that_gets_its_share_is_hurried_for_those_behind_it():
    turns, hurried = SecretTurns(), []
    first = await turns.take("s")
    background = start(turns.take("s", lambda: hurried.append("share")), background=True)
    interactive = [start(turns.take("s")) for _ in range(6)]
    await asyncio.sleep(0)
    first.release()
    for waiter in interactive[:4]:
        (await waiter).release()
    turn = await background
    assert hurried == ["share"]
    turn.release()
    for waiter in interactive[4:]:
        (await waiter).release()
    assert len(turns) == 0


@pytest.mark.parametrize("seed", range(30))
async def test_cancelled_waiters_neither_block_nor_leak(seed):
    """Whenever they are cancelled, in the very moment of the hand-over too."""
    rng, turns, slots, inside = random.Random(seed), SecretTurns(), RefreshSlots(2), set()

    async def use(secret_id, client):
        with await turns.take(secret_id):
            assert secret_id not in inside
            inside.add(secret_id)
            try:
                await slots.enter(client)
                try:
                    await asyncio.sleep(rng.choice([0, 0, 0.5]))
                finally:
                    slots.leave(client)
            finally:
                inside.discard(secret_id)

    tasks = []
    for _ in range(60):
        call = use(rng.choice("xyz"), rng.choice(["a", "b", None]))
        tasks.append(start(call, background=rng.random() < 0.5))
        if rng.random() < 0.4:
            await asyncio.sleep(0)
        if rng.random() < 0.4:
            rng.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not [task for task in tasks if not task.cancelled() and task.exception()]
    assert (len(turns), turns.waiting, slots.inside, slots.waiting) == (0, 0, 0, 0)
    assert slots.has_room("a")
    assert slots.has_room(None)


async def test_slots_go_to_interactive_requests_first_and_clients_do_not_wait_for_each_other():
    slots, order = RefreshSlots(1), []

    async def use(client, name):
        await slots.enter(client)
        order.append(name)
        await asyncio.sleep(1)
        slots.leave(client)

    tasks = [start(use("a", "first"), background=True), start(use("a", "background"), background=True)]
    tasks += [start(use("a", "interactive")), start(use("b", "other client"))]
    await asyncio.gather(*tasks)
    assert order == ["first", "other client", "interactive", "background"]


async def test_known_and_unknown_clients_share_a_single_slot():
    """Neither waits for ever while the other keeps coming."""
    slots, entered = RefreshSlots(1), []

    async def stream(client):
        for _ in range(20):
            await slots.enter(client)
            entered.append(client)
            await asyncio.sleep(1)
            slots.leave(client)

    await asyncio.gather(*(stream(client) for client in ("a", "a", None, None)))
    assert entered.count("a") == entered.count(None) == 40
    assert {"a", None} == set(entered[:8])
