"""Records in Redis, changed by somebody who has write access but no key."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest
import redis.asyncio as redis_driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowmate_async import RefreshFailedError, StoreKey
from flowmate_async.clock import SystemClock
from flowmate_async.contract.freshness import FreshnessPolicy
from flowmate_async.distributed.circuit import Circuit, RedisAwayError
from flowmate_async.distributed.connection import RedisUrl, connect
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.redis_clock import RedisClock
from flowmate_async.distributed.shared_cache import SharedCache
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.testing.samples import api_key

from .conftest import KEY
from .test_shared_credentials import change_key, find, gets

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

NAMES = Keyspace(KEY, namespace="", base_url="https://flowmate.example")
USER, OTHER = "ann", "bob"
FAILURE = RefreshFailedError("the provider said no", username=USER, secret_id="secret-1")


@asynccontextmanager
async def attacker(server):
    """Somebody who can read and write everything in Redis."""
    async with aclosing(redis_driver.Redis.from_url(server.url)) as raw:
        yield raw


@asynccontextmanager
async def cache_in(server, **options):
    """The cache of one process."""
    connection = connect(RedisUrl(server.url))
    async with aclosing(connection):
        cache = SharedCache(
            connection,
            Circuit(clock=SystemClock(), on_lost=str, on_back=float),
            redis_clock=RedisClock(),
            keyspace=NAMES,
            freshness=FreshnessPolicy(),
            **options,
        )
        await cache.read(USER, "secret-1")
        cache._redis_clock.set(10**15)  # far ahead: writes are never late
        yield cache


class TestReplay:
    """A record is put back as it was earlier."""

    async def test_it_is_no_answer_to_a_forced_question(self, sandbox, join, redis):
        """Although it was the answer of a forced question itself."""
        user, secret_id = find(sandbox, "API_KEY")
        first, second = await join(redis), await join(redis)
        name = first._parts.coordination._keyspace.of("answer", user, secret_id)
        async with attacker(redis) as raw, first.lease(user, secret_id) as lease:
            change_key(sandbox, secret_id)
            old = await lease.reject()
            kept = await raw.get(name)
            await raw.flushall()
            change_key(sandbox, secret_id)
            async with second.lease(user, secret_id) as other:
                change_key(sandbox, secret_id)
                await raw.set(name.replace(":answer:", ":turn:"), "the attacker", px=600)
                newer = asyncio.ensure_future(other.reject())
                while not newer.done():
                    if not await raw.exists(name):
                        await raw.set(name, kept, px=60_000)
                    await asyncio.sleep(0.01)
            assert (await newer).value != old.value
            assert (await newer).value.key.count("-changed") == 3

    async def test_it_is_no_answer_to_a_plain_question(self, sandbox, join, redis):
        user, secret_id = find(sandbox, "API_KEY")
        first, second = await join(redis), await join(redis)
        name = first._parts.coordination._keyspace.of("answer", user, secret_id)
        async with attacker(redis) as raw:
            old = await first.get_secret(user, secret_id)
            kept = await raw.get(name)
            await raw.flushall()
            change_key(sandbox, secret_id)
            await raw.set(name.replace(":answer:", ":turn:"), "the attacker", px=600)
            asked = asyncio.ensure_future(second.get_secret(user, secret_id))
            await asyncio.sleep(0.2)
            await raw.set(name, kept, px=60_000)
            assert (await asked).value != old.value
        assert gets(sandbox, secret_id) == 2

    async def test_a_rejected_credential_does_not_come_back(self, sandbox, join, redis):
        """Neither to the process whose app rejected it, nor to one that heard of it."""
        user, secret_id = find(sandbox, "API_KEY")
        first, second = await join(redis), await join(redis)
        name = first._parts.coordination._keyspace.of("answer", user, secret_id)
        async with attacker(redis) as raw, first.lease(user, secret_id) as lease:
            kept = await raw.get(name)
            rejected = lease.secret
            await second.credential(user, secret_id)
            change_key(sandbox, secret_id)
            await lease.reject()
            async with asyncio.timeout(10):
                while (await second.credential(user, secret_id)).value == rejected.value:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            for client in (first, second):
                await raw.set(name, kept, px=60_000)
                client._parts.credentials.forget(user, secret_id)
                assert (await client.credential(user, secret_id)).value != rejected.value

    async def test_one_that_heard_of_a_rejection_does_not_take_the_old_record(self, sandbox, join, redis):
        """Although it never saw the newer one."""
        user, secret_id = find(sandbox, "API_KEY")
        first, second = await join(redis), await join(redis)
        name = first._parts.coordination._keyspace.of("answer", user, secret_id)
        async with attacker(redis) as raw, first.lease(user, secret_id) as lease:
            rejected, kept = lease.secret, await raw.get(name)
            await second.credential(user, secret_id)
            over = asyncio.Event()  # the driver may mistake a cancellation for its own timeout

            async def put_back():
                while not over.is_set():
                    await raw.set(name, kept, px=60_000)

            change_key(sandbox, secret_id)
            await lease.reject()
            attack = asyncio.create_task(put_back())
            try:
                async with asyncio.timeout(20):
                    while (await second.credential(user, secret_id)).value == rejected.value:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            finally:
                over.set()
                await attack

    async def test_an_old_failure_is_no_answer(self, sandbox, join, redis):
        user, secret_id = find(sandbox, "API_KEY")
        client = await join(redis)
        shared = client._parts.fetcher._shared
        name = shared._keyspace.of("failure", user, secret_id)
        async with attacker(redis) as raw:
            await shared._cache.put_failure(user, secret_id, FAILURE, flight="earlier")
            kept = await raw.get(name)
            await raw.flushall()
            await raw.set(name.replace(":failure:", ":turn:"), "the attacker", px=600)
            asked = asyncio.ensure_future(client.get_secret(user, secret_id))
            await asyncio.sleep(0.2)
            await raw.set(name, kept, px=60_000)
            assert await asked


class TestForgery:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    async def test_no_byte_of_a_record_can_be_changed(self, redis, data):
        """Not the fingerprint in front, nor anything that is sealed: it counts as missing."""
        async with cache_in(redis) as cache, attacker(redis) as raw:
            await cache.put(USER, "secret-1", api_key(), forced=False, flight="a")
            await cache.put_failure(USER, "secret-1", FAILURE, flight="b")
            for kind in ("answer", "failure"):
                name = NAMES.of(kind, USER, "secret-1")
                value = bytearray(await raw.get(name))
                value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
                await raw.set(name, bytes(value))
            answers = await cache.read(USER, "secret-1")
            assert answers.credential is answers.failure is None

    @pytest.mark.parametrize("kind", ["answer", "failure"])
    @pytest.mark.parametrize("place", [(OTHER, "secret-1"), (USER, "secret-2")])
    async def test_a_record_belongs_to_its_user_and_secret(self, redis, kind, place):
        async with cache_in(redis) as cache, attacker(redis) as raw:
            await cache.put(USER, "secret-1", api_key(), forced=False, flight="a")
            await cache.put_failure(USER, "secret-1", FAILURE, flight="b")
            await raw.rename(NAMES.of(kind, USER, "secret-1"), NAMES.of(kind, *place))
            answers = await cache.read(*place)
            assert answers.credential is answers.failure is None

    async def test_a_record_says_what_it_is(self, redis):
        async with cache_in(redis) as cache, attacker(redis) as raw:
            await cache.put(USER, "secret-1", api_key(), forced=True, flight="a")
            value = await raw.get(NAMES.of("answer", USER, "secret-1"))
            await raw.set(NAMES.of("failure", USER, "secret-1"), value[32:])
            answers = await cache.read(USER, "secret-1")
            assert answers.failure is None
            assert answers.credential.what.secret == api_key()
            assert answers.credential.forced


class TestMoments:
    async def test_a_record_tells_its_age(self, redis):
        """By the clock of the process that wrote it, or by that of Redis if that says it is older."""
        async with cache_in(redis, wall=lambda: 1_000_000.0) as cache:
            await cache.put(USER, "secret-1", api_key(), forced=False, flight="a")
        async with cache_in(redis, wall=lambda: 1_000_600.0) as later:
            assert (await later.read(USER, "secret-1")).credential.what.age_seconds == pytest.approx(
                600, abs=5
            )
        async with cache_in(redis, wall=lambda: 0.0) as behind:
            await asyncio.sleep(0.2)
            assert (await behind.read(USER, "secret-1")).credential.what.age_seconds >= 0.2

    async def test_a_later_answer_clears_the_failure(self, redis):
        async with cache_in(redis) as cache:
            await cache.put_failure(USER, "secret-1", FAILURE, flight="a")
            assert (await cache.read(USER, "secret-1")).failure.what.message == FAILURE.message
            await cache.put(USER, "secret-1", api_key(), forced=False, flight="b")
            answers = await cache.read(USER, "secret-1")
            assert answers.failure is None
            assert answers.credential.flight == "b"

    async def test_a_redis_that_hung_does_not_write_an_old_answer(self, mortal_redis):
        """It carries out what it was sent; by then another process may have written a newer one."""
        async with cache_in(mortal_redis) as cache:
            await cache._now()
            mortal_redis.hang()
            try:
                with pytest.raises(RedisAwayError):
                    await cache.confirm(USER, "secret-1", api_key(), seconds=60)
                await asyncio.sleep(1.5)
            finally:
                mortal_redis.go_on()
        assert await asyncio.to_thread(mortal_redis.keys, "*") == []


class TestNames:
    OTHERS = (
        Keyspace(StoreKey.parse("a5" * 32), namespace="", base_url="https://flowmate.example"),
        Keyspace(KEY, namespace="another", base_url="https://flowmate.example"),
        Keyspace(KEY, namespace="", base_url="https://other.example"),
    )

    @pytest.mark.parametrize("others", OTHERS)
    def test_nothing_is_shared_across_key_namespace_and_upstream(self, others):
        sealed = NAMES.seal(Plaintext(b"message"), kind="one")
        assert others.open(sealed, kind="one") is None
        assert others.of("answer", USER) != NAMES.of("answer", USER)
        assert others.of("rate") != NAMES.of("rate")
        secret = api_key()
        assert others.fingerprint(USER, "1", secret) != NAMES.fingerprint(USER, "1", secret)

    def test_a_message_opens_as_its_own_kind_only(self):
        sealed = NAMES.seal(Plaintext(b"message"), kind="one")
        assert NAMES.open(sealed, kind="one").data == b"message"
        assert NAMES.open(sealed, kind="two") is None

    @given(st.binary(max_size=60))
    def test_anything_else_does_not_open(self, rubbish):
        assert NAMES.open(rubbish, kind="one") is None

    def test_processes_with_another_key_meet_in_one_list(self):
        """Those of another namespace or upstream do not."""
        key, namespace, upstream = self.OTHERS
        assert key.processes == NAMES.processes
        assert len({NAMES.processes, namespace.processes, upstream.processes}) == 3
