"""Processes that share over Redis share what they observe of credentials' health, without a store."""

import asyncio

import pytest

from flowmate_async import CredentialRejectedError
from flowmate_async.events import CredentialBroken
from flowmate_async.stores.memory import MemoryStore
from tests.health.world import NightClock

from .test_shared_credentials import find

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]


async def reject(fm, user, secret_id):
    with pytest.raises(CredentialRejectedError):
        async with fm.lease(user, secret_id) as lease:
            await lease.reject()


def told(events):
    return [(event.username, event.secret_id) for event in events if isinstance(event, CredentialBroken)]


async def announced():
    """Let the other processes hear of it."""
    await asyncio.sleep(0.3)


async def test_rejections_in_three_processes_are_one_story(sandbox, join, redis):
    """Each saw one of three rejections, and all learn that the credential is broken."""
    user, secret_id = find(sandbox, "API_KEY")
    clock, events = NightClock(), [[], [], []]
    processes = [await join(redis, clock=clock, on_event=seen.append) for seen in events]
    for fm in processes:
        assert [told(seen) for seen in events] == [[], [], []]
        await reject(fm, user, secret_id)
        await announced()
        clock.later += 3600
    assert [told(seen) for seen in events] == [[(user, secret_id)]] * 3
    assert [fm.stats().health for fm in processes] == [{"broken": {"API_KEY": 1}}] * 3


async def test_the_same_rejection_seen_by_many_processes_counts_once(sandbox, join, redis):
    """Three processes within seconds are one of the three rejections that it takes."""
    user, secret_id = find(sandbox, "API_KEY")
    clock, seen = NightClock(), []
    listening = await join(redis, clock=clock, on_event=seen.append)
    others = [await join(redis, clock=clock) for _ in range(3)]
    for fm in others:
        await reject(fm, user, secret_id)
        await announced()
    clock.later += 3600
    await reject(others[0], user, secret_id)
    await announced()
    assert told(seen) == []
    clock.later += 3600
    await reject(listening, user, secret_id)
    assert told(seen) == [(user, secret_id)]


async def test_each_process_writes_what_it_saw_itself_to_its_store(sandbox, join, redis):
    """What others saw is theirs to write, or one observation would count many times."""
    user, secret_id = find(sandbox, "API_KEY")
    options = {"clock": NightClock(), "health_store": MemoryStore()}
    first, _ = await join(redis, **options), await join(redis, **options)
    await reject(first, user, secret_id)
    await asyncio.sleep(1.5)  # the store is written within about a second
    [record] = [record async for record in options["health_store"].health()]
    assert record.evidence.rejections.times == 1
