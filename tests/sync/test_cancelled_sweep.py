"""A sweep that is cancelled while its fetches wait for refresh slots ends without an error of its own."""

import asyncio
import json

import pytest

from flowmate_async import FlowMate
from flowmate_async.engine.breaker import BreakerPolicy
from flowmate_async.engine.bulkheads import BulkheadPolicy
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio
SLOTS = 16
FAILING = BreakerPolicy(failures=1, subjects=1, share=0.0, open_seconds=1000.0, max_open_seconds=1000.0)


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class Upstream:
    """``worker`` and ``swept`` own secrets of one OAuth client; GETs of those are answered by hand."""

    def __init__(self):
        self.asked = {}

    async def __call__(self, method, path, headers, body):
        if method == "POST":
            return json_response(json.dumps({"token": json.loads(body)["username"]}).encode())
        username = dict(headers.pairs)["Authorization"].removeprefix("Bearer ")
        if not path.startswith("/secrets/?"):
            return await self.get(path.removeprefix("/secrets/"))
        if username == "throttled":
            return json_response(b"{}", 429, retry_after="300")
        if username == "retried":
            return json_response(b'{"message":"down"}', 503, retry_after="9")
        items = [secret(f"{username}-{number}") for number in range(SLOTS + 1)]
        return json_response(json.dumps({"data": items, "meta": {"total": SLOTS + 1}}).encode())

    async def get(self, secret_id):
        if secret_id.endswith("-0"):
            return found(secret_id)
        self.asked[secret_id] = asyncio.get_running_loop().create_future()
        return await self.asked[secret_id]


def secret(secret_id):
    """The first of each user shows that the user is readable; the others are due."""
    if secret_id.endswith("-0"):
        return {"_id": secret_id, "type": "API_KEY", "value": {"key": "k"}}
    value = {"authClientId": "client", "accessToken": "a", "expires": "2020-01-01T00:00:00Z"}
    return {"_id": secret_id, "type": "OA2_AUTHORIZATION_CODE", "value": value}


def found(secret_id):
    return json_response(json.dumps({"data": secret(secret_id)}).encode())


async def sweep(fm, username):
    async for outcome in fm.sweep([username]):
        raise AssertionError(outcome)


async def test_a_fetch_refused_while_its_sweep_is_cancelled_disturbs_nothing():
    """Dropping the fetch that has a slot frees it for the others, whose provider is left alone by now."""
    upstream = Upstream()
    async with FlowMate(
        admin_token="admin",
        base_url="http://localhost",
        transport=MemoryTransport(upstream),
        rate=None,
        concurrency=4 * SLOTS,
        bulkhead=BulkheadPolicy(refreshes=SLOTS, breaker=FAILING),
    ) as fm:
        await fm.list_secrets("worker")
        others = [
            asyncio.create_task(fm.get_secret("worker", f"worker-{number}")) for number in range(1, SLOTS + 1)
        ]
        await asyncio.sleep(1)
        swept = asyncio.create_task(sweep(fm, "swept"))  # its refreshes wait for a slot
        await asyncio.sleep(1)
        others.append(asyncio.create_task(sweep(fm, "retried")))
        others.append(asyncio.create_task(fm.list_secrets("throttled")))
        await asyncio.sleep(0.1)
        upstream.asked.pop("worker-1").set_result(found("worker-1"))  # its slot goes to the sweep, in a pause
        await asyncio.sleep(20)
        for asked in upstream.asked.values():
            asked.set_result(json_response(b'{"message":""}', 500))
        while not fm.stats().traffic.bulkheads.open:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        assert fm.stats().traffic.bulkheads.waiting == SLOTS - 1
        swept.cancel()
        with pytest.raises(asyncio.CancelledError):
            await swept
        assert fm.stats().traffic.bulkheads.waiting == 0
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
