"""Credentials are verified against their apps: the evidence that only an app can give."""

from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from flowmate_async import StoreKey, SyncOptions, open_store
from flowmate_async.errors import ConfigurationError
from flowmate_async.health import HealthPolicy, Repetition
from flowmate_async.integrations.verification import AppCheck
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.sync.verification import Verification, Verified
from tests.health.world import Tenant

pytestmark = pytest.mark.anyio

AT_ONCE = HealthPolicy(rejections=Repetition(times=1, over_seconds=0))


class App:
    """An app that accepts some API keys, at ``/me``."""

    def __init__(self, accepts=()):
        self.accepts, self.seen, self.url = set(accepts), Counter(), ""
        self.status = 401

    async def _answer(self, request):
        key = request.headers.get("x-key")
        self.seen[key] += 1
        if request.path == "/elsewhere":
            raise web.HTTPFound("https://other.example/me")
        return web.Response(status=200 if key in self.accepts else self.status)

    @asynccontextmanager
    async def running(self):
        runner = web.ServerRunner(web.Server(self._answer))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield self
        finally:
            await runner.cleanup()

    def check(self, verify=None, **options):
        """A check of the tenant's API keys."""
        options = {"origins": [self.url], "applies_to": lambda secret: secret.type == "API_KEY"} | options
        return AppCheck(verify or self.verify, rate=1000, **options)

    async def verify(self, secret, app):
        status = await app.get(f"{self.url}/me")
        return None if status >= 500 else status == 200


@asynccontextmanager
async def synced(*, keys=4, works=()):
    """A tenant whose credentials are stored, and an app that accepts the keys of some users."""
    tenant, store = Tenant(users=6, clients=1, keys=keys), MemoryStore()
    app = App(tenant.keys[name].value["key"] for name in works)
    async with tenant.sandbox, app.running():
        await tenant.sync(store)
        yield tenant, store, app


async def verify(tenant, store, check, **options):
    async with tenant.client() as fm, check:
        return await fm.verify(store, [check], **options)


async def states(store):
    return {one.username: one.health.state.value async for one in store.health()}


async def test_keys_are_verified_and_nothing_else():
    async with synced(works=["user-0000", "user-0002"]) as (tenant, store, app):
        found = await verify(tenant, store, app.check(), health=AT_ONCE)
        assert found == Verified(accepted=2, rejected=2)
        assert set(app.seen) == {secret.value["key"] for secret in tenant.keys.values()}, "no token was sent"
        report = await tenant.sync(store, options=SyncOptions(health=AT_ONCE))
    assert report.told == {"credential.broken": 2}
    healthy, broken = dict.fromkeys(["user-0000", "user-0002"], "healthy"), ["user-0001", "user-0003"]
    assert await states(store) == healthy | dict.fromkeys(broken, "broken")


async def test_a_rejection_counts_as_often_as_the_policy_asks():
    async with synced(keys=1) as (tenant, store, app):
        told = []
        for _ in range(3):
            await verify(tenant, store, app.check())
            told.append((await tenant.sync(store)).told)
            tenant.clock.later += 3600
        assert told == [{}, {}, {"credential.broken": 1}]
        app.accepts.add(tenant.keys["user-0000"].value["key"])
        await verify(tenant, store, app.check())
        assert (await tenant.sync(store)).told == {"credential.recovered": 1}


async def test_a_value_that_has_changed_upstream_is_verified_instead():
    async with synced(keys=1) as (tenant, store, app):
        tenant.keys["user-0000"].value["key"] = "the-new-key"
        app.accepts.add("the-new-key")
        assert await verify(tenant, store, app.check(), health=AT_ONCE) == Verified(accepted=1)
        assert app.seen["the-new-key"] == 1
    assert await states(store) == {"user-0000": "healthy"}


async def test_expired_tokens_are_fetched_and_good_ones_are_not():
    async with synced() as (tenant, store, app):
        seen = []

        async def verify_token(secret, app):
            seen.append(secret.value.access_token)
            return True

        check = app.check(verify_token, applies_to=lambda secret: secret.type == "OA2_AUTHORIZATION_CODE")
        async with tenant.client() as fm, check:
            assert (await fm.verify(store, [check], ["user-0001"])).accepted == 1
            assert sum(fm.stats().requests.values()) == 0, "the stored one is good"
        tenant.next_night()
        await verify(tenant, store, check, users=["user-0001"])
    assert len(set(seen)) == 2


@pytest.mark.parametrize("trouble", ["status", "raises", "no bool", "down"])
async def test_an_app_that_fails_says_nothing(trouble, caplog):
    async with synced(keys=1) as (tenant, store, app):
        app.status = 503

        async def fails(secret, app):
            if trouble == "raises":
                raise ValueError(secret.value.key)
            return "yes"

        check = app.check(fails if trouble in ("raises", "no bool") else None)
        if trouble == "down":
            check = AppCheck(app.verify, origins=["http://127.0.0.1:9"], applies_to=lambda _: True)
            app.url = "http://127.0.0.1:9"
        found = await verify(tenant, store, check, users=["user-0000"], health=AT_ONCE)
        assert (found.accepted, found.rejected) == (0, 0)
        assert found.unknown >= 1
        key = tenant.keys["user-0000"].value["key"]
    assert await states(store) == {}
    assert key not in caplog.text


@pytest.mark.parametrize(
    "url", ["https://other.example/me", "http://127.0.0.1:9/me", "/me", "ftp://x", "http://["]
)
async def test_a_credential_goes_to_the_origins_of_its_check_only(url):
    async with synced(keys=1) as (tenant, store, app):

        async def elsewhere(secret, app):
            return await app.get(url) == 200

        with pytest.raises(ConfigurationError):
            await verify(tenant, store, app.check(elsewhere))
        assert not app.seen


async def test_redirects_are_not_followed():
    async with synced(keys=1, works=["user-0000"]) as (tenant, store, app):
        statuses = []

        async def redirected(secret, to):
            statuses.append(await to.get(f"{app.url}/elsewhere"))

        await verify(tenant, store, app.check(redirected))
    assert statuses == [302]


@pytest.mark.parametrize(
    "options",
    [{"origins": []}, {"origins": ["http://crm.example"]}, {"origins": ["https://crm.example"], "rate": 0}],
)
def test_a_check_that_cannot_work_is_refused(options):
    with pytest.raises(ConfigurationError):
        AppCheck(App().verify, **{"rate": 1.0, "applies_to": lambda _: True} | options)


async def test_a_check_has_to_be_entered():
    async with synced(keys=1) as (tenant, store, app), tenant.client() as fm:
        with pytest.raises(ConfigurationError, match="not entered"):
            await fm.verify(store, [app.check()])


class Clock:
    def __init__(self):
        self.now, self.asked = 100.0, []

    def monotonic(self):
        return self.now

    wall = monotonic

    async def sleep(self, seconds):
        self.now += seconds


class Slow:
    seconds_apart = 0.5

    def __init__(self, clock):
        self.clock, self.asked = clock, []

    def applies_to(self, secret):
        return secret.type == "API_KEY"

    async def accepts(self, secret):
        self.asked.append(self.clock.now)
        return True


async def test_an_app_is_asked_no_faster_than_its_rate():
    async with synced(keys=5) as (_, store, _app):
        clock = Clock()
        slow = Slow(clock)
        await Verification(store, fetch=None, policy=HealthPolicy(), clock=clock).run([slow], None)
    assert slow.asked == [100.0, 100.5, 101.0, 101.5, 102.0]


async def test_many_are_recorded_in_a_store_that_is_read_meanwhile(tmp_path):
    tenant, app = Tenant(users=120, clients=1, keys=120), App()
    url = f"sqlite:///{tmp_path / 'credentials.db'}"
    async with tenant.sandbox, app.running(), open_store(url, key=StoreKey(b"k" * 32)) as store:
        await tenant.sync(store)
        found = await verify(tenant, store, app.check(), health=AT_ONCE)
        assert found == Verified(rejected=120)
        assert set((await states(store)).values()) == {"broken"}
