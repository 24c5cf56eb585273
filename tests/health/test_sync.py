"""A sync keeps the health of credentials: what it observes, when it decides, and what it costs."""

import asyncio

import pytest

from flowmate_async import SyncOptions
from flowmate_async.events import CredentialBroken, CredentialRecovered, UserNotStored
from flowmate_async.sandbox.timestamps import iso
from flowmate_async.stores.memory import MemoryStore
from tests.health.world import Tenant

pytestmark = pytest.mark.anyio


async def states(store):
    return {record.username: record.health.state.value async for record in store.health()}


async def told(store):
    return [(notice.credential.username, notice.type) for notice in await store.notices(10_000)]


async def test_a_tenant_in_which_all_is_well_has_no_records():
    tenant, store = Tenant(users=12, clients=2, keys=4), MemoryStore()
    async with tenant.sandbox, tenant.client() as fm:
        report = await fm.sync(store)
    assert (report.health, report.told) == ({}, {})
    assert await states(store) == {}


async def test_a_revoked_grant_breaks_and_heals():
    tenant, store, events = Tenant(users=12, clients=1), MemoryStore(), []
    async with tenant.sandbox:
        tenant.revoke("user-0003")
        report = await tenant.sync(store, on_event=events.append)
        assert report.health == {"broken": 1}
        assert report.told == {"credential.broken": 1}
        [record] = [record async for record in store.health()]
        assert (record.username, record.health.reason.value) == ("user-0003", "refused")
        assert record.credential.auth_client_id == "client-0"
        tenant.next_night()
        assert (await tenant.sync(store)).told == {}, "told twice"
        tenant.reconnect("user-0003")
        tenant.next_night()
        report = await tenant.sync(store, on_event=events.append)
    assert (report.health, report.told) == ({}, {"credential.recovered": 1})
    seen = [event for event in events if isinstance(event, CredentialBroken | CredentialRecovered)]
    assert [(type(event).__name__, event.username) for event in seen] == [
        ("CredentialBroken", "user-0003"),
        ("CredentialRecovered", "user-0003"),
    ]


async def test_a_provider_that_refuses_everybody_is_an_outage():
    """Even with answers that would be conclusive for one user."""
    tenant, store = Tenant(users=60, clients=3), MemoryStore()
    down = tenant.of_client("client-1")
    tenant.revoke(*down, "user-0000")
    async with tenant.sandbox:
        report = await tenant.sync(store)
        assert report.told == {"credential.broken": 1}
        assert report.health["broken"] == 1
        assert 5 <= report.health["provider_outage"] <= len(down), "the others were not even sent"
        tenant.reconnect(*down)
        tenant.next_night()
        assert (await tenant.sync(store)).told == {}
    assert await states(store) == {"user-0000": "broken"}
    assert await told(store) == [("user-0000", "credential.broken")]


async def test_an_outage_goes_on_while_a_quarter_of_the_renewals_fail():
    """Half of them begin one; in the next night 6 of 20 still fail, and nobody is told."""
    tenant, store = Tenant(users=20, clients=1), MemoryStore()
    names = list(tenant.tokens)
    tenant.revoke(*names)
    async with tenant.sandbox:
        assert (await tenant.sync(store)).told == {}
        [still, *_] = failing = list(await states(store))[:6]
        tenant.reconnect(*(name for name in names if name not in failing))
        tenant.next_night()
        assert (await tenant.sync(store)).told == {}
        assert await states(store) == dict.fromkeys(failing, "provider_outage")
        tenant.reconnect(*(name for name in failing if name != still))
        tenant.next_night()
        assert (await tenant.sync(store)).told == {"credential.broken": 1}


async def test_masked_users_are_an_administrators_problem():
    tenant, store = Tenant(users=8, clients=1, keys=8), MemoryStore()
    async with tenant.sandbox, tenant.client() as fm:
        tenant.mask("user-0002")
        report = await fm.sync(store)
        assert report.told == {"credential.unreadable": 1}
        tenant.mask("user-0002", masked=False)
        report = await fm.sync(store)
        assert report.told == {"credential.recovered": 1}
    assert await states(store) == {}


async def test_a_token_that_cannot_be_renewed_expires():
    tenant, store = Tenant(users=8, clients=1), MemoryStore()
    async with tenant.sandbox, tenant.client() as fm:
        value = tenant.tokens["user-0001"].value
        del value["refreshToken"]
        value["expires"] = iso(tenant.clock.wall() - 3600)
        assert (await fm.sync(store)).told == {"credential.broken": 1}
    [record] = [record async for record in store.health()]
    assert (record.username, record.health.reason.value) == ("user-0001", "expired")


async def test_without_health_nothing_is_kept():
    tenant, store = Tenant(users=8, clients=1), MemoryStore()
    async with tenant.sandbox, tenant.client() as fm:
        tenant.revoke("user-0001")
        report = await fm.sync(store, options=SyncOptions(health=None))
    assert (report.health, report.told) == ({}, {})
    assert await states(store) == {}


async def test_health_costs_no_request():
    requests = []
    for options in (SyncOptions(), SyncOptions(health=None)):
        tenant = Tenant(users=20, clients=2, keys=5)
        async with tenant.sandbox, tenant.client() as fm:
            tenant.mask("user-0002")
            await fm.sync(MemoryStore(), options=options)
            requests.append(sum(fm.stats().requests.values()))
    assert requests[0] == requests[1]


async def test_a_stopped_run_decides_when_it_is_resumed():
    """A part of the users may look like an outage, or hide one."""
    tenant, store, stop = Tenant(users=40, clients=1), MemoryStore(), asyncio.Event()
    tenant.revoke(*tenant.tokens)

    def stop_soon(event):
        if isinstance(event, UserNotStored):
            stop.set()

    async with tenant.sandbox:
        report = await tenant.sync(store, stop=stop, on_event=stop_soon)
        assert not report.complete
        assert report.told == {}
        assert set((await states(store)).values()) == {"healthy"}, "nothing is decided yet"
        report = await tenant.sync(store)
    assert report.told == {}
    assert set((await states(store)).values()) == {"provider_outage"}
