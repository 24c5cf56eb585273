"""One OAuth client's provider never meets a storm: few refreshes at once, and a rest when they only fail."""

import asyncio

import pytest

from flowmate_async import BulkheadPolicy, RefreshFailedError
from flowmate_async.events import ProviderRefused
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

pytestmark = pytest.mark.anyio


async def swept(fm, users):
    return [outcome async for outcome in fm.sweep(f"user-{number}" for number in range(users))]


@pytest.mark.parametrize("carrier", [MemoryTransport, ImmediateMemoryTransport])
async def test_however_many_are_due_few_are_refreshed_at_once(provider, client, carrier):
    upstream = provider()
    async with client(upstream, carrier=carrier, rate=None, concurrency=200) as fm:
        outcomes = await swept(fm, 400)
    assert len(outcomes) == upstream.asked == 400
    assert not [outcome for outcome in outcomes if hasattr(outcome, "error")]
    assert upstream.most_inside == 8


async def test_the_cap_is_an_option_and_statistics_tell_who_waits(provider, client):
    upstream = provider(seconds=10)
    policy = BulkheadPolicy(refreshes=3)
    async with client(upstream, rate=None, concurrency=20, bulkhead=policy) as fm:
        task = asyncio.create_task(swept(fm, 20))
        await asyncio.sleep(1)
        standing = fm.stats().traffic.bulkheads
        assert (standing.clients, standing.refreshing, standing.waiting) == (1, 3, 17)
        await task
        standing = fm.stats().traffic.bulkheads
        assert (standing.refreshing, standing.waiting, standing.open, standing.refused) == (0, 0, 0, 0)
    assert upstream.most_inside == 3


async def test_a_worker_that_renews_is_under_the_same_cap(provider, client):
    """What a cached credential says of its OAuth client is known without a listing."""
    upstream = provider()
    async with client(upstream, rate=None, concurrency=100) as fm:
        pairs = [(f"user-{number}", f"secret-of-user-{number}") for number in range(50)]
        await asyncio.gather(*(fm.credential(*pair, min_valid=0) for pair in pairs))
        upstream.most_inside = 0
        leases = [fm.lease(*pair, min_valid=0) for pair in pairs]
        for lease in leases:
            await lease.__aenter__()
        await asyncio.gather(*(lease.reject() for lease in leases), return_exceptions=True)
    assert upstream.asked == 100
    assert upstream.most_inside == 8


async def test_a_provider_that_only_fails_is_given_a_rest(provider, client):
    upstream, events = provider(), []
    upstream.failing = True
    async with client(upstream, rate=None, concurrency=64, on_event=events.append) as fm:
        outcomes = await swept(fm, 1000)
        assert len(outcomes) == 1000
        assert upstream.asked <= 20 + 8
        refused = fm.stats().traffic.bulkheads.refused
        assert refused == 1000 - upstream.asked == sum(isinstance(event, ProviderRefused) for event in events)
        assert fm.stats().traffic.bulkheads.open == 1
    errors = {str(outcome.error) for outcome in outcomes if outcome.error.message.startswith("the provider")}
    assert all(isinstance(outcome.error, RefreshFailedError) for outcome in outcomes)
    assert all("client-1" in error and "nothing was sent" in error for error in errors)
    assert len(errors) == refused, "each names its user and secret"


async def test_after_its_rest_one_refresh_tells_whether_it_is_well_again(provider, client):
    upstream = provider()
    upstream.failing = True
    async with client(upstream, rate=None, concurrency=64) as fm:
        await swept(fm, 200)
        asked = upstream.asked
        await asyncio.sleep(30)
        await swept(fm, 50)
        assert upstream.asked == asked + 1
        upstream.failing = False
        await asyncio.sleep(60)
        outcomes = await swept(fm, 50)
        assert not any(hasattr(outcome, "error") for outcome in outcomes), (
            "they wait for how the first one fares"
        )


async def test_what_is_not_due_is_no_refresh_and_under_no_cap(provider, client):
    """A GET with much time left never reaches the provider."""

    class Fresh(provider):
        async def __call__(self, method, path, headers, body):
            answer = await super().__call__(method, path, headers, body)
            body = answer.body.replace(b"2020-01-01", b"2033-01-01")
            return json_response(body, answer.status)

    upstream = Fresh()
    async with client(upstream, rate=None, concurrency=200) as fm:
        assert len(await swept(fm, 400)) == upstream.asked == 400
        assert fm.stats().traffic.bulkheads.clients == 0
    assert upstream.most_inside > 64


async def test_a_few_users_whose_grant_is_gone_do_not_stop_the_others(provider, client):
    """Refused refreshes are everyday life, as long as others go well."""

    class Some(provider):
        async def _refresh(self, secret_id):
            answer = await super()._refresh(secret_id)
            gone = int(secret_id.rpartition("-")[2]) % 3 != 0
            return json_response(b'{"message":""}', 500) if gone else answer

    upstream = Some()
    async with client(upstream, rate=None, concurrency=64) as fm:
        outcomes = await swept(fm, 600)
        assert fm.stats().traffic.bulkheads.refused == 0
    assert sum(hasattr(outcome, "error") for outcome in outcomes) == 400


async def test_other_secrets_pass_by_a_provider_that_hangs(provider, client):
    class Mixed(provider):
        async def __call__(self, method, path, headers, body):
            if path == "/secrets/simple":
                return json_response(
                    b'{"data":{"_id":"simple","type":"SIMPLE","value":{"username":"u","passphrase":"p"}}}'
                )
            return await super().__call__(method, path, headers, body)

    upstream = Mixed(seconds=25)
    async with client(upstream, rate=None, concurrency=64) as fm:
        background = asyncio.create_task(swept(fm, 64))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        assert (await fm.get_secret("somebody", "simple")).type == "SIMPLE"
        assert asyncio.get_running_loop().time() - began < 0.1
        background.cancel()
        await asyncio.wait([background])
