"""Tasks started within a priority inherit it."""

import asyncio

import pytest

from flowmate_async.engine.priority import Priority, current_priority, in_background, set_background

pytestmark = pytest.mark.anyio

FRONT, BEHIND = Priority.INTERACTIVE, Priority.BACKGROUND


async def test_tasks_inherit_the_priority_they_are_started_with():
    async def seen():
        return current_priority()

    assert await asyncio.create_task(seen()) is FRONT
    with in_background():
        task = asyncio.create_task(seen())
    assert await task is BEHIND
    assert current_priority() is FRONT


async def test_a_task_in_the_background_leaves_other_tasks_where_they_are():
    async def behind():
        set_background()
        return await asyncio.create_task(asyncio.sleep(0, current_priority()))

    assert await asyncio.create_task(behind()) is BEHIND
    assert current_priority() is FRONT
