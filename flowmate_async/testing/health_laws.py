"""The laws of a store that keeps credential health, to derive from in addition to the store suite.

As in ``class TestMyStore(StoreSuite, HealthLaws)``, see ``store_suite.py``.
"""

# ruff: noqa: S101, S106, S107 - these are tests

from collections.abc import Callable
from itertools import product

from msgspec.structs import replace

from flowmate_async.health.evidence import Evidence, Series
from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import (
    TOLD,
    Credential,
    HealthRecord,
    Notice,
    Settled,
    Sighting,
    Watch,
    observed,
    settled,
)
from flowmate_async.health.states import RULES, Health, HealthState
from flowmate_async.stores.base import Store, UserWrite
from flowmate_async.stores.health import CountsHealth, KeepsHealth
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import ORIGIN, OpenStore, failed, listing, synced, write

__all__ = [
    "POLICY",
    "HealthLaws",
    "credential",
    "judge",
    "keeper",
    "outbox",
    "seeing",
    "states",
]

POLICY = HealthPolicy()


def credential(username: str, secret_id: str = "secret-1", *, client: str | None = "client") -> Credential:
    """Return a credential, of an OAuth client if one is given."""
    secret_type = "API_KEY" if client is None else "OA2_AUTHORIZATION_CODE"
    return Credential(username=username, secret_id=secret_id, type=secret_type, auth_client_id=client)


def seeing(user: UserWrite, *what: Observed, secret_id: str = "secret-1", at: float = 11.0) -> UserWrite:
    """Return the same user with this observation of one credential."""
    seen = tuple(Observation(one, at) for one in what)
    sightings = (Sighting(credential(user.checkpoint.username, secret_id), seen),) if what else ()
    return replace(user, watch=Watch(POLICY, sightings))


def judge(*, at: float = 20.0, outage: bool = False) -> Callable[[HealthRecord], Settled]:
    """Settle every record, as if all pending failures were part of an outage, or none."""
    return lambda record: settled(record, outage=outage, now=at, policy=POLICY)


def keeper(store: Store) -> KeepsHealth:
    """Return the store as one that keeps health."""
    assert isinstance(store, KeepsHealth)
    return store


async def states(store: Store, username: str | None = None) -> dict[str, str]:
    """Return the state of every credential with a record, by user and secret id."""
    return {
        " ".join(record.place): record.health.state.value async for record in keeper(store).health(username)
    }


async def outbox(store: Store, limit: int = 10_000) -> list[str]:
    """Return the pending notices, each as user and type."""
    return [f"{one.credential.username} {one.type}" for one in await keeper(store).notices(limit)]


class HealthLaws:
    """Keeping, settling, notifying once, forgetting."""

    async def test_what_is_fine_has_no_record(self, open_store: OpenStore) -> None:
        """A healthy credential has no record, whether or not health is kept."""
        async with open_store() as store:
            await write(store, synced("ann", api_key()), seeing(synced("bob", api_key())))
            await keeper(store).settle_health(judge())
            assert await states(store) == {}
            assert await outbox(store) == []

    async def test_a_record_comes_back_as_it_was(self, open_store: OpenStore) -> None:
        """Records survive closing the store, for all kinds of names and any evidence."""
        names = ["ann", "Zoë/../%_'", "用户", "a b\tc"]
        async with open_store() as store:
            await write(store, *(seeing(failed(name), Observed.REFUSED, Observed.MASKED) for name in names))
            await keeper(store).settle_health(judge())
        async with open_store() as store:
            found = [record async for record in keeper(store).health()]
            assert [record.credential.username for record in found] == sorted(names, key=str.encode)
            for record in found:
                assert record == _expected(record.credential, Observed.REFUSED, Observed.MASKED)

    async def test_all_evidence_comes_back_as_it_was(self, open_store: OpenStore) -> None:
        """Every kind of it, settled or not: the next run counts on."""
        once, often = Series(1, 5.5, 5.5), Series(3, 1.0, 9.25)
        evidence = Evidence(
            read_at=1.5,
            changed_at=2.5,
            accepted_at=3.5,
            ends_at=4.5,
            pending=often,
            pending_refused=once,
            failures=often,
            refused=once,
            outage=often,
            rejections=once,
            empty=often,
            masked=once,
            forbidden=often,
            hinted=True,
        )
        assert all(getattr(evidence, name) for name in evidence.__struct_fields__)
        verdicts = [Health(state, reason, 0.1) for reason, rule in RULES.items() for state in rule.states]
        records = [
            HealthRecord(credential=credential("ann", f"{n:03}"), health=one, evidence=evidence, told=told)
            for n, (one, told) in enumerate(product(verdicts, [None, *TOLD]))
        ]
        async with open_store() as store:
            await store.bind(ORIGIN)
            await keeper(store).put_health(records)
        async with open_store() as store:
            assert [record async for record in keeper(store).health("ann")] == records

    async def test_failed_renewals_decide_nothing_until_they_are_settled(self, open_store: OpenStore) -> None:
        """Masked values and 403 settle at once: they do not depend on other users."""
        async with open_store() as store:
            users = seeing(failed("ann"), Observed.REFUSED), seeing(failed("bob"), Observed.MASKED)
            await write(store, *users)
            assert await states(store) == {"ann secret-1": "healthy", "bob secret-1": "unreadable"}
            assert await outbox(store) == []
            told = await keeper(store).settle_health(judge())
            assert await states(store) == {"ann secret-1": "broken", "bob secret-1": "unreadable"}
            assert [notice.type for notice in told] == ["credential.broken", "credential.unreadable"]

    async def test_each_change_is_told_once(self, open_store: OpenStore) -> None:
        """This holds however often it is settled, and also in the next process."""
        async with open_store() as store:
            await write(store, seeing(failed("ann"), Observed.REFUSED))
            await keeper(store).settle_health(judge())
            assert await keeper(store).settle_health(judge(at=30.0)) == []
        async with open_store() as store:
            assert await keeper(store).settle_health(judge(at=40.0)) == []
            assert await outbox(store) == ["ann credential.broken"]

    async def test_an_outage_tells_nobody(self, open_store: OpenStore) -> None:
        """The credentials have their state, and no notice."""
        async with open_store() as store:
            await write(store, *(seeing(failed(name), Observed.REFUSED) for name in ("ann", "bob")))
            assert await keeper(store).settle_health(judge(outage=True)) == []
            assert set((await states(store)).values()) == {"provider_outage"}

    async def test_a_credential_that_is_read_again_recovers(self, open_store: OpenStore) -> None:
        """A successful read needs no sighting; once the recovery was notified, the record is dropped."""
        async with open_store() as store:
            run = await write(store, seeing(failed("ann"), Observed.REFUSED))
            await keeper(store).settle_health(judge())
            await store.write(run, [seeing(synced("ann", api_key(), at=50.0))])
            assert await states(store) == {"ann secret-1": "unverified"}
            await keeper(store).settle_health(judge(at=51.0))
            assert await outbox(store) == ["ann credential.broken", "ann credential.recovered"]
            assert await states(store) == {}

    async def test_a_rejected_key_recovers_with_another_value_only(self, open_store: OpenStore) -> None:
        """Upstream returns a rejected key as readily as a good one."""
        night = 86_400.0
        async with open_store() as store:
            run = await write(store, synced("ann", api_key(key="old")))
            for at in (night, 2 * night, 3 * night):
                await store.write(run, [seeing(synced("ann"), Observed.REJECTED, at=at)])
            await store.write(run, [seeing(synced("ann", api_key(key="old"), at=4 * night))])
            assert await states(store) == {"ann secret-1": "broken"}
            await store.write(run, [seeing(synced("ann", api_key(key="new"), at=5 * night))])
            assert await states(store) == {}

    async def test_a_user_written_without_health_keeps_the_records(self, open_store: OpenStore) -> None:
        """Like a sync that does not keep health."""
        async with open_store() as store:
            run = await write(store, seeing(failed("ann"), Observed.MASKED))
            await store.write(run, [synced("ann", api_key())])
            assert await states(store) == {"ann secret-1": "unreadable"}

    async def test_a_secret_that_a_proven_listing_lacks_has_no_record(self, open_store: OpenStore) -> None:
        """The user disconnected the app, or the user is gone."""
        async with open_store() as store:
            run = await write(
                store,
                seeing(failed("ann"), Observed.MASKED, secret_id="secret-2"),
                seeing(failed("bob"), Observed.MASKED),
                seeing(failed("cid"), Observed.MASKED),
            )
            await store.write(run, [seeing(listing("ann", api_key())), seeing(failed("cid"))])
            await store.note_missing(run, ["bob", "nobody"])
            assert await states(store) == {"cid secret-1": "unreadable"}

    async def test_what_workers_observe_is_settled_by_the_next_run(self, open_store: OpenStore) -> None:
        """They count together with the run's own observations, also for credentials that are not stored."""
        async with open_store() as store:
            run = await write(store, synced("ann", api_key()))
            for hour in range(3):
                seen = Observation(Observed.REJECTED, 3600.0 * hour + 1)
                worker = Sighting(credential("ann"), (seen,))
                other = Sighting(credential("bob"), (Observation(Observed.READ, 1.0),))
                await keeper(store).note_health([worker, other], policy=POLICY, at=3600.0 * hour + 1)
            assert await states(store) == {"ann secret-1": "broken"}
            assert await outbox(store) == []
            await store.write(run, [seeing(failed("ann"))])
            await keeper(store).settle_health(judge())
            assert await outbox(store) == ["ann credential.broken"]
            gone = Sighting(credential("ann"), (Observation(Observed.GONE, 9000.0),))
            await keeper(store).note_health([gone], policy=POLICY, at=9000.0)
            assert await states(store) == {}

    async def test_records_are_asked_for_by_user(self, open_store: OpenStore) -> None:
        """Of one user only, in order."""
        async with open_store() as store:
            users = [seeing(failed(name), Observed.MASKED, secret_id=f"s-{name}") for name in ("bob", "ann")]
            await write(store, *users)
            assert list(await states(store)) == ["ann s-ann", "bob s-bob"]
            assert await states(store, "bob") == {"bob s-bob": "unreadable"}
            assert await states(store, "nobody") == {}

    async def test_records_are_counted_by_state_and_type(self, open_store: OpenStore) -> None:
        """A store that counts them agrees with the records themselves; one that does not count passes."""
        async with open_store() as store:
            if not isinstance(store, CountsHealth):
                return
            await store.bind(ORIGIN)
            assert await store.count_health() == {}
            key = _expected(credential("ann", client=None), Observed.MASKED)
            await keeper(store).put_health([key, _expected(credential("ann", "s-2"), Observed.REFUSED)])
            await keeper(store).put_health([_expected(credential("bob"), Observed.REFUSED)])
            oauth = ("broken", "OA2_AUTHORIZATION_CODE")
            assert await store.count_health() == {("unreadable", "API_KEY"): 1, oauth: 2}

    async def test_delivered_notices_are_forgotten(self, open_store: OpenStore) -> None:
        """The oldest come first, and the others stay."""
        async with open_store() as store:
            run = await write(store, seeing(failed("ann"), Observed.MASKED))
            await keeper(store).settle_health(judge())
            await store.write(run, [seeing(failed("bob"), Observed.MASKED)])
            await keeper(store).settle_health(judge(at=30.0))
            first = await keeper(store).notices(1)
            assert [one.credential.username for one in first] == ["ann"]
            await keeper(store).forget_notices([first[0], replace(first[0], id="unknown")])
        async with open_store() as store:
            assert await outbox(store) == ["bob credential.unreadable"]

    async def test_copied_records_and_notices_are_the_same(self, open_store: OpenStore) -> None:
        """A record replaces the existing one; a notice that already exists is kept once."""
        record = _expected(credential("ann"), Observed.REFUSED)
        notice = Notice(
            id="msg_1", type="credential.broken", at=3.0, credential=record.credential, health=record.health
        )
        async with open_store() as store:
            await store.bind(ORIGIN)
            for _ in range(2):
                await keeper(store).put_health([record], [notice])
            assert [one async for one in keeper(store).health()] == [record]
            assert await keeper(store).notices(10) == [notice]

    async def test_health_by_the_hundred(self, open_store: OpenStore) -> None:
        """Limits of the driver and pages are not visible."""
        names = [f"user-{number:04}" for number in range(getattr(self, "more_than_a_page", 1200) // 4)]
        async with open_store() as store:
            await write(store, *(seeing(failed(name), Observed.REFUSED) for name in names))
            assert len(await keeper(store).settle_health(judge())) == len(names)
            assert len(await outbox(store)) == len(names)
            assert [name.split()[0] for name in await states(store)] == names
            waiting = await keeper(store).notices(10_000)
            await keeper(store).forget_notices(waiting)
            assert await outbox(store) == []


def _expected(one: Credential, *what: Observed) -> HealthRecord:
    """Return a settled record of a credential with this observation."""
    sighting = Sighting(one, tuple(Observation(what, 11.0) for what in what))
    record = observed(None, sighting, now=11.0, policy=POLICY)
    assert record is not None
    done = settled(record, outage=False, now=20.0, policy=POLICY).record
    assert done is not None
    assert done.health.state is not HealthState.HEALTHY
    return done
