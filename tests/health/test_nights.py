"""Three nights of a large tenant: exactly the right users are told, each once, and none because of an outage.

Every night the process is killed at many of its steps: a store that dies before or after one of its
operations, after which a new process goes on with what is on the disk. test_kill.py does it with processes.
"""

import json
from collections import Counter
from random import Random

import pytest

from flowmate_async.health.observations import Observation, Observed
from flowmate_async.health.policy import DEFAULT_POLICY
from flowmate_async.health.records import Credential, Sighting, Watch
from flowmate_async.health.webhook import headers, verify
from flowmate_async.stores import StoreKey, open_store
from flowmate_async.stores.base import Checkpoint, UserWrite
from tests.health.receiver import KEY
from tests.health.world import Tenant

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]


class Killed(BaseException):
    """The process has ended, at once."""


class Mortal:
    """A store whose process is killed at its n-th operation, before it or right after."""

    def __init__(self, store, *, dies_at, after):
        self._store, self._left, self._after = store, dies_at, after

    def __getattr__(self, name):
        found = getattr(self._store, name)
        if name not in ("write", "settle_health", "forget_notices", "begin_run", "finish_run", "notices"):
            return found

        async def operate(*args, **kwargs):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            result = await found(*args, **kwargs)
            if self._left == 0:
                raise Killed
            return result

        return operate

    def health(self, username=None):
        return self._store.health(username)


class Inbox:
    """A receiver that verifies the signature, and ignores what it has had already."""

    def __init__(self, clock):
        self.clock, self.seen, self.repeated = clock, {}, 0

    async def send(self, message):
        sent = headers(KEY, message, now=self.clock.wall())
        assert verify(KEY, sent, message.body, now=self.clock.wall())
        self.repeated += message.id in self.seen
        self.seen[message.id] = json.loads(message.body)

    def told(self, kind):
        return Counter(one["data"]["username"] for one in self.seen.values() if one["type"] == kind)


async def night(tenant, url, inbox, *, random, kills):
    """Sync and deliver, as often as the process is killed and once more."""
    for attempt in range(kills + 1):
        async with open_store(url, key=StoreKey(b"k" * 32)) as store, tenant.client() as fm:
            mortal = Mortal(store, dies_at=random.randint(1, 30), after=random.random() < 0.5)
            try:
                used = mortal if attempt < kills else store
                await fm.sync(used)
                await fm.notify(used, inbox)
            except Killed:
                continue


async def rejected(url, tenant, names):
    """Workers saw apps reject these users' keys, three times over some hours."""
    async with open_store(url, key=StoreKey(b"k" * 32)) as store:
        await store.bind(tenant.sandbox.url)
        run = await store.begin_run(at=tenant.clock.wall(), selection="workers")
        for hour in range(3):
            at = tenant.clock.wall() + hour * 3600
            for name in names:
                which = Credential(username=name, secret_id=tenant.keys[name].id, type="API_KEY")
                seen = Sighting(which, (Observation(Observed.REJECTED, at),))
                await store.write(
                    run,
                    [
                        UserWrite(
                            checkpoint=Checkpoint(
                                username=name, status="synced", at=at, listing_proven=False
                            ),
                            watch=Watch(DEFAULT_POLICY, (seen,)),
                        )
                    ],
                )


@pytest.mark.parametrize(
    ("users", "kills", "seed"), [(200, 5, 2), pytest.param(2000, 3, 1, marks=pytest.mark.long)]
)
async def test_three_nights(tmp_path, users, kills, seed):
    random = Random(seed)
    tenant = Tenant(users=users, clients=10, keys=50)
    url = f"sqlite:///{tmp_path / 'credentials.db'}"
    inbox = Inbox(tenant.clock)
    down = tenant.of_client("client-7")
    up = [name for name in tenant.tokens if name not in down]
    revoked = random.sample(up, 40 if users == 2000 else 10)
    masked = random.sample([name for name in up if name not in revoked], 10)
    keys = random.sample([name for name in tenant.keys if name in up and name not in (*revoked, *masked)], 5)
    async with tenant.sandbox:
        tenant.revoke(*revoked, *down)  # the provider's answers would be conclusive for one user
        tenant.mask(*masked)
        await night(tenant, url, inbox, random=random, kills=kills)
        assert inbox.told("credential.broken") == Counter(revoked)
        assert inbox.told("credential.unreadable") == Counter(masked)

        tenant.reconnect(*down)
        back = revoked[: len(revoked) // 4]
        tenant.reconnect(*back)
        tenant.next_night()
        await rejected(url, tenant, keys)
        await night(tenant, url, inbox, random=random, kills=kills)
        assert inbox.told("credential.recovered") == Counter(back)
        assert inbox.told("credential.broken") == Counter([*revoked, *keys])

        tenant.mask(*masked, masked=False)
        tenant.next_night()
        await night(tenant, url, inbox, random=random, kills=kills)
    assert inbox.told("credential.broken") == Counter([*revoked, *keys]), "each told once"
    assert inbox.told("credential.unreadable") == Counter(masked)
    assert inbox.told("credential.recovered") == Counter([*back, *masked])
    assert not set(inbox.told("credential.broken")) & set(down), "told because of an outage"
    async with open_store(url, key=StoreKey(b"k" * 32)) as store:
        left = Counter([(one.username, one.health.state.value) async for one in store.health()])
        assert await store.notices(10) == []
    assert left == Counter((name, "broken") for name in [*revoked[len(revoked) // 4 :], *keys])
