"""Twenty workers, one session without an expiry, a login of a second: plain GETs, and what we make of it.

docs/contract/OBSERVED.md § Concurrent GETs of one secret. Real sockets, and the lock's real times.
"""

import asyncio

import aiohttp
import pytest

from flowmate_async import FlowMate
from flowmate_async.sandbox import Sandbox, SandboxOptions

pytestmark = pytest.mark.anyio

WORKERS = 20


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def twin():
    async with Sandbox(SandboxOptions(empty_world=True, provider_seconds=1.0)) as running:
        running.world.add_user("ali")
        yield running


@pytest.fixture
def session(twin):
    """A secret whose every GET logs in."""
    value = {"authClientId": "c1", "accessToken": "first", "inputFields": {"pin": "1"}, "expires": None}
    return twin.world.add_secret("ali", type="SESSION_AUTH", value=value)


async def test_plain_gets_log_in_again_and_again_and_some_get_500s(twin, session):
    """What the library is for: without single flight this is not slow, it is broken."""
    admin = {"Authorization": f"Bearer {twin.admin_token}"}
    async with aiohttp.ClientSession(twin.url) as http:
        async with http.post("/impersonate", json={"username": "ali"}, headers=admin) as answer:
            user = {"Authorization": f"Bearer {(await answer.json())['token']}"}

        async def get():
            async with http.get(f"/secrets/{session.id}", headers=user) as answer:
                await answer.read()
                return answer.status

        statuses = await asyncio.gather(*(get() for _ in range(WORKERS)))
    assert statuses.count(500) > 0
    assert twin.stats().refreshes[session.id] > 1


async def test_twenty_workers_get_twenty_equal_answers_of_one_login(twin, session):
    async with FlowMate(admin_token=twin.admin_token, base_url=twin.url) as fm:
        got = await asyncio.gather(*(fm.credential("ali", session.id) for _ in range(WORKERS)))
    assert len({secret.value.access_token for secret in got}) == 1
    assert got[0].value.access_token == session.value["accessToken"]
    assert twin.stats().refreshes[session.id] == 1
    assert twin.stats().requests["GET /secrets/{id}"] == {200: 1}
