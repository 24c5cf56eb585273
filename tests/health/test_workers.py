"""Workers contribute: what the cache sees breaks and heals credentials by the same rules."""

import asyncio

import pytest

from flowmate_async.access.health_watch import HealthWatch
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.errors import CredentialRejectedError, FlowMateError
from flowmate_async.events import CredentialBroken, CredentialRecovered, Emitter
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.policy import DEFAULT_POLICY
from flowmate_async.health.records import Credential, Sighting
from flowmate_async.stores.memory import MemoryStore
from tests.health.world import NightClock, Tenant

pytestmark = pytest.mark.anyio


async def reject(fm, user, secret):
    with pytest.raises(CredentialRejectedError):
        async with fm.lease(user, secret.id) as lease:
            await lease.reject()


async def reject_for_hours(tenant, store, user, *, events=None):
    """An app rejects a user's key three times over two hours, each time in a new worker."""
    for _ in range(3):
        async with tenant.client(health_store=store, on_event=events) as fm:
            await reject(fm, user, tenant.keys[user])
        tenant.clock.later += 3600


async def test_rejections_in_many_processes_are_one_story():
    tenant, store = Tenant(users=4, clients=1, keys=4), MemoryStore()
    async with tenant.sandbox:
        assert (await tenant.sync(store)).health == {}
        await reject_for_hours(tenant, store, "user-0002")
        report = await tenant.sync(store)
        assert report.told == {"credential.broken": 1}
        [record] = [one async for one in store.health()]
        assert (record.secret_id, record.health.reason.value) == (tenant.keys["user-0002"].id, "rejected")
        tenant.keys["user-0002"].value["key"] = "another-key-that-works"
        tenant.next_night()
        assert (await tenant.sync(store)).told == {"credential.recovered": 1}


async def test_a_worker_alone_emits_events():
    tenant, events = Tenant(users=2, clients=1, keys=2), []
    async with tenant.sandbox, tenant.client(on_event=events.append) as fm:
        secret = tenant.keys["user-0001"]
        for _ in range(3):
            await reject(fm, "user-0001", secret)
            tenant.clock.later += 3600
        broken = [event for event in events if isinstance(event, CredentialBroken)]
        assert [(event.username, event.secret_id, event.reason) for event in broken] == [
            ("user-0001", secret.id, "rejected")
        ]
        secret.value["key"] = "another-key-that-works"
        async with fm.lease("user-0001", secret.id) as lease:
            await lease.reject()
    recovered = [event for event in events if isinstance(event, CredentialRecovered)]
    assert [event.secret_id for event in recovered] == [secret.id]


async def test_without_health_nothing_is_watched():
    tenant, events = Tenant(users=2, clients=1, keys=2), []
    async with tenant.sandbox, tenant.client(on_event=events.append, health=None) as fm:
        for _ in range(3):
            await reject(fm, "user-0001", tenant.keys["user-0001"])
            tenant.clock.later += 3600
    assert not [event for event in events if isinstance(event, CredentialBroken)]


async def told_after_renewals_failed(*, revoked):
    """Return how many credentials are reported as broken, of some whose grants were revoked."""
    policy = type(DEFAULT_POLICY)(outage_seconds=3.0)
    tenant, events = Tenant(users=8, clients=1), []
    tenant.revoke(*list(tenant.tokens)[:revoked])
    async with tenant.sandbox, tenant.client(on_event=events.append, health=policy) as fm:
        fetches = (fm.credential(name, secret.id) for name, secret in tenant.tokens.items())
        await asyncio.gather(*fetches, return_exceptions=True)
        assert not [event for event in events if isinstance(event, CredentialBroken)]
        await asyncio.sleep(4.0)
    return len([event for event in events if isinstance(event, CredentialBroken)])


async def test_a_failed_renewal_is_told_after_others_had_the_time_to_fail():
    """One revoked grant breaks; a provider that refuses many at once is an outage."""
    one, many = told_after_renewals_failed(revoked=1), told_after_renewals_failed(revoked=8)
    assert await asyncio.gather(one, many) == [1, 0]


async def test_everybody_who_waited_reports_one_failure():
    clock, seen = NightClock(), []
    watch = HealthWatch(
        policy=DEFAULT_POLICY,
        known=KnownSecrets(clock=clock),
        clock=clock,
        emitter=Emitter(),
        capacity=3,
        on_sighting=seen.append,
    )
    for _ in range(100):
        watch.failed(("ann", "a" * 24), CredentialRejectedError("no"), None)
    assert len(seen) == 1
    for number in range(50):
        watch.failed((f"user-{number}", "a" * 24), CredentialRejectedError("no"), None)
    assert len(watch._records) == 3, "memory is bounded"
    watch.close()


async def test_what_another_process_observed_counts_and_is_not_passed_on():
    clock, passed_on, events = NightClock(), [], []
    watch = HealthWatch(
        policy=DEFAULT_POLICY,
        known=KnownSecrets(clock=clock),
        clock=clock,
        emitter=Emitter(events.append),
        capacity=9,
        on_sighting=passed_on.append,
    )
    key = Credential(username="ann", secret_id="a" * 24, type="API_KEY")
    for _ in range(3):
        assert events == []
        for _ in range(5):  # five processes that saw the same
            watch.heard(Sighting(key, (Observation(Observed.REJECTED, clock.wall()),)))
        clock.later += 3600
    watch.heard(Sighting(key, (Observation(Observed.CHANGED, clock.wall()),)))
    assert [type(one) for one in events] == [CredentialBroken, CredentialRecovered]
    assert passed_on == []
    watch.close()


class BrokenStore(MemoryStore):
    async def note_health(self, sightings, *, policy, at):
        raise FlowMateError("the disk is full")


async def test_a_store_that_fails_costs_no_credential(caplog):
    tenant = Tenant(users=2, clients=1, keys=2)
    async with tenant.sandbox, tenant.client(health_store=BrokenStore()) as fm:
        await reject(fm, "user-0001", tenant.keys["user-0001"])
    assert "the health of 1 credentials was not stored: the disk is full" in caplog.text
