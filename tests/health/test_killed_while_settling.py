"""A process that is killed while it settles health has settled some records; the next one finishes it.

What is settled already still counts: an outage does not become a user's problem because most of its
credentials were settled before the kill.
"""

import pytest

from flowmate_async.health import HealthPolicy
from flowmate_async.stores import StoreKey, open_store
from flowmate_async.stores.sql import health as sql_health
from flowmate_async.sync.health import settle_run
from tests.health.world import Tenant

pytestmark = pytest.mark.anyio

KEY = StoreKey(b"k" * 32)


class Killed(BaseException):
    """The process has ended, at once."""


class KilledAtRecord:
    """A store whose process is killed when it settles its n-th record."""

    def __init__(self, store, number):
        self._store, self._left = store, number

    def __getattr__(self, name):
        return getattr(self._store, name)

    def health(self, username=None):
        return self._store.health(username)

    async def settle_health(self, judge):
        def mortal(record):
            self._left -= 1
            if self._left < 0:
                raise Killed
            return judge(record)

        return await self._store.settle_health(mortal)


async def states(store):
    return [one.health.state.value async for one in store.health()]


@pytest.mark.parametrize("left", [1, 4, 5])
async def test_an_outage_stays_one_when_its_settling_is_interrupted(tmp_path, monkeypatch, left):
    monkeypatch.setattr(sql_health, "PAGE", 1)
    tenant = Tenant(users=30, clients=1)
    tenant.revoke(*tenant.tokens)
    async with tenant.sandbox, open_store(f"sqlite:///{tmp_path / 'credentials.db'}", key=KEY) as store:
        with pytest.raises(Killed):
            await tenant.sync(KilledAtRecord(store, 0))
        failing = len(await states(store))
        assert failing > 5
        run = await store.last_run()
        with pytest.raises(Killed):
            await settle(KilledAtRecord(store, failing - left), run, tenant)
        assert (await states(store)).count("provider_outage") == failing - left
        await settle(store, run, tenant)
        assert set(await states(store)) == {"provider_outage"}
        assert await store.notices(10) == []


async def settle(store, run, tenant):
    return await settle_run(store, run, policy=HealthPolicy(), now=tenant.clock.wall())
