"""A Redis that hangs or goes away: one second once, then each process works alone, and notices its return."""

import asyncio
import logging
import time
from contextlib import aclosing

import aiohttp
import pytest

from flowmate_async import ConfigurationError, FlowMate
from flowmate_async.clock import SystemClock
from flowmate_async.distributed.circuit import Circuit, RedisAwayError
from flowmate_async.distributed.connection import RedisUrl, connect
from flowmate_async.distributed.coordination import RedisCoordination, SharingPolicy
from flowmate_async.distributed.locks import RefreshLocks
from flowmate_async.distributed.redis_clock import RedisClock
from flowmate_async.events import CoordinationLost, CoordinationRestored
from flowmate_async.integrations import prometheus
from flowmate_async.sandbox import Sandbox, SandboxOptions

from .conftest import KEY
from .redis_server import PASSWORD, USER

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

RATE, BURST = 200, 20


@pytest.fixture
async def sandbox():
    """One that notes when requests come."""
    async with Sandbox(SandboxOptions(users=40, seed=7, record_arrivals=True)) as running:
        yield running


@pytest.fixture
def hanging(mortal_redis):
    """A Redis that may be paused; it is resumed at the end, so that it can be stopped."""
    yield mortal_redis
    mortal_redis.go_on()


def secrets_of(sandbox, kind="API_KEY"):
    """Return user and id of all secrets of a type."""
    return [(item.username, item.secret_id) for item in sandbox.world.truth() if item.type == kind]


async def until(holds):
    """Wait for something that happens by itself."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def asked(port, path):
    """Return status and body of an answer of the metrics server."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{path}") as answer:
        return answer.status, await answer.text()


def is_connected(client):
    return client.stats().coordination.connected


async def test_a_call_that_is_ended_while_redis_hangs_shows_no_password(sandbox, join, hanging, exposed):
    """Neither a timeout nor a cancellation brings the driver's frames along."""
    client, (pair, *_) = await join(hanging), secrets_of(sandbox)
    hanging.hang()
    with pytest.raises(TimeoutError) as late:
        async with asyncio.timeout(0.2):
            await client.credential(*pair)
    task = asyncio.create_task(client._parts.fetcher._shared._cache.read(*pair))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task
    assert PASSWORD not in exposed(late.value) + exposed(cancelled.value)
    assert "redis/asyncio" not in exposed(cancelled.value)


class Crowd:
    """Tasks that get secrets one after the other, as long as the block lasts."""

    def __init__(self, client, pairs, *, tasks=10):
        self.client, self.pairs, self.tasks = client, pairs, tasks

    async def _work(self, first):
        number = first
        while True:
            await self.client.get_secret(*self.pairs[number % len(self.pairs)])
            number += self.tasks

    async def __aenter__(self):
        self.running = [asyncio.create_task(self._work(number)) for number in range(self.tasks)]
        return self

    async def __aexit__(self, *_):
        for task in self.running:
            task.cancel()
        for ended in await asyncio.gather(*self.running, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


class TestHanging:
    async def test_only_the_first_command_waits(self, sandbox, join, hanging):
        """A hundred calls take as long as a few timeouts, one after the other and together."""
        client, pairs = await join(hanging), secrets_of(sandbox)
        hanging.hang()
        async with asyncio.timeout(10):
            await asyncio.gather(*(client.get_secret(*pairs[n % len(pairs)]) for n in range(50)))
            for n in range(50):
                await client.get_secret(*pairs[n % len(pairs)])
        assert not is_connected(client)
        assert client.stats().coordination.outages == 1

    async def test_a_command_that_is_under_way_fails_with_the_first(self, sandbox, hanging):
        """It does not wait for its own second."""
        redis = connect(RedisUrl(hanging.url))
        circuit = Circuit(clock=SystemClock(), on_lost=str, on_back=float)
        async with aclosing(redis):
            hanging.hang()
            first = asyncio.create_task(circuit.call(redis.ping))
            await asyncio.sleep(0.7)
            second = asyncio.create_task(circuit.call(redis.ping))
            await asyncio.wait({first})
            done, _ = await asyncio.wait({second}, timeout=0.3)
            assert done, "its own second ends 0.7 s after that of the first"
            assert isinstance(first.exception(), RedisAwayError)
            assert isinstance(second.exception(), RedisAwayError)

    async def test_the_share_of_the_rate_is_used_meanwhile(self, sandbox, join, hanging, late):
        """And the full rate again within seconds; the limit holds all the way."""
        client, pairs = await join(hanging, rate=RATE, burst=BURST, processes=2), secrets_of(sandbox)
        async with Crowd(client, pairs):
            before = len(sandbox.arrivals)
            await asyncio.sleep(1)
            before = len(sandbox.arrivals) - before
            hanging.hang()
            await until(lambda: not is_connected(client))
            without = len(sandbox.arrivals)
            await asyncio.sleep(2)
            without = len(sandbox.arrivals) - without
            hanging.go_on()
            await until(lambda: is_connected(client))
            await asyncio.sleep(2)
            again = len(sandbox.arrivals)
            await asyncio.sleep(1)
            again = len(sandbox.arrivals) - again
        share = RATE / 2 * 2
        assert 0.6 * (share - RATE / 2 * late.total) <= without <= 1.1 * share + BURST + RATE / 2 * late.total
        assert again >= 0.5 * before - RATE * late.total
        assert late.obeys(sandbox.arrivals, rate=RATE, burst=BURST)

    async def test_its_return_is_noticed_within_two_seconds(self, sandbox, join, hanging):
        client = await join(hanging)
        hanging.hang()
        await until(lambda: not is_connected(client))
        await asyncio.sleep(1.1)  # so that a probe hangs as well
        hanging.go_on()
        began = time.monotonic()
        await until(lambda: is_connected(client))
        assert time.monotonic() - began < 2

    async def test_no_turn_is_left_behind(self, sandbox, join, hanging):
        """Neither one that was held when it hung, nor one whose taking it carries out afterwards."""
        client, pairs = await join(hanging), secrets_of(sandbox)
        sandbox.configure(latency_seconds=0.05)
        async with Crowd(client, pairs, tasks=20):
            await until(lambda: sandbox.stats().total_requests() > 30)
            hanging.hang()
            await until(lambda: not is_connected(client))
        hanging.go_on()
        await until(lambda: is_connected(client))
        async with asyncio.timeout(5):  # a turn lives for 15 s
            while await asyncio.to_thread(hanging.keys, "*:turn:*"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def test_a_turn_is_not_taken_for_a_process_that_has_given_up(self, hanging):
        """Also if that process cannot give it up any more."""
        redis = connect(RedisUrl(hanging.url))
        circuit = Circuit(clock=SystemClock(), on_lost=str, on_back=float)
        async with aclosing(redis):
            clock = RedisClock()
            locks = RefreshLocks(redis, circuit, clock)
            assert await locks.acquire(("flowmate:first",), "me")
            hanging.hang()
            with pytest.raises(RedisAwayError):
                await locks.acquire(("flowmate:second",), "me")
            await asyncio.sleep(1.5)
            hanging.go_on()
        assert await asyncio.to_thread(hanging.keys, "*") == ["flowmate:first"]

    async def test_a_turn_is_taken_although_redis_clock_was_set(self, redis):
        """The first attempt is late by a wrong clock; Redis has the right time."""
        connection = connect(RedisUrl(redis.url))
        circuit = Circuit(clock=SystemClock(), on_lost=str, on_back=float)
        async with aclosing(connection):
            clock = RedisClock()
            clock.set(int(time.time() * 1000) - 3_600_000)
            locks = RefreshLocks(connection, circuit, clock)
            assert await locks.acquire(("flowmate:turn",), "me")
            assert not await locks.acquire(("flowmate:turn",), "another")
            assert abs(clock.now() - time.time() * 1000) < 60_000


class TestReports:
    async def test_an_outage_shows_in_events_stats_and_log(self, sandbox, join, mortal_redis, caplog):
        events = []
        client = await join(mortal_redis, on_event=events.append)
        assert is_connected(client)
        with caplog.at_level(logging.WARNING, logger="flowmate_async"):
            mortal_redis.kill()
            await until(lambda: not is_connected(client))
            mortal_redis.start()
            await until(lambda: is_connected(client))
        shown = [event for event in events if isinstance(event, CoordinationLost | CoordinationRestored)]
        assert [type(event) for event in shown] == [CoordinationLost, CoordinationRestored]
        assert shown[0].reason
        assert shown[1].seconds > 0
        assert client.stats().coordination.outages == 1
        assert client.stats().coordination.problem == ""
        assert [record.message.partition(":")[0].partition(" after")[0] for record in caplog.records] == [
            "Redis cannot be used",
            "Redis is back",
        ]

    async def test_an_outage_shows_in_metrics_and_readyz(self, sandbox, join, hanging):
        """A process that works alone is ready, and degraded; one that needs Redis is not ready."""
        alone, needing = await join(hanging), await join(hanging, on_outage="error")
        async with prometheus.serve(alone, port=0) as first, prometheus.serve(needing, port=0) as second:
            assert await asked(first, "readyz") == await asked(second, "readyz") == (200, "ready\n")
            assert "flowmate_coordination_connected 1.0" in (await asked(first, "metrics"))[1]
            await until(lambda: alone.stats().coordination.processes == 2)
            assert "flowmate_coordination_processes 2.0" in (await asked(first, "metrics"))[1]
            hanging.hang()
            await until(lambda: not is_connected(alone) and not is_connected(needing))
            reason = "Redis cannot be used: it does not answer\n"
            assert await asked(first, "readyz") == (200, f"degraded: {reason}")
            assert await asked(second, "readyz") == (503, f"not ready: {reason}")
            metrics = (await asked(first, "metrics"))[1]
            assert "flowmate_coordination_connected 0.0" in metrics
            assert "flowmate_coordination_outages_total 1.0" in metrics

    async def test_an_idle_client_notices_as_well(self, sandbox, join, hanging):
        client = await join(hanging)
        hanging.hang()
        await until(lambda: not is_connected(client))
        assert "does not answer" in client.stats().coordination.problem

    async def test_one_spoiled_record_is_no_outage(self, sandbox, join, redis):
        """Write access to Redis can stop the sharing of one secret, and nothing else."""
        client = await join(redis)
        (spoiled, *_, other) = secrets_of(sandbox)
        name = client._parts.coordination._keyspace.of("turn", *spoiled)
        redis.ask("RPUSH", name, "not a string")
        assert await client.credential(*spoiled)
        assert await client.credential(*other)
        assert is_connected(client)
        assert client.stats().coordination.outages == 0


async def enter(sandbox, url, **policy):
    """Enter a client that shares over this Redis, and leave it."""
    coordination = RedisCoordination(url, key=KEY, policy=SharingPolicy(**policy))
    client = FlowMate(admin_token=sandbox.admin_token, base_url=sandbox.url, coordination=coordination)
    async with client:
        return client.stats().coordination


class TestRefusals:
    """Redis answers, and says that this process may not work: an error at once, and no outage."""

    @pytest.mark.parametrize("on_outage", ["share", "error"])
    async def test_a_wrong_password(self, sandbox, redis, on_outage, exposed):
        url = redis.url.replace(PASSWORD, "another-password-than-that")
        with pytest.raises(ConfigurationError, match="rejects the user name or the password") as caught:
            await enter(sandbox, url, on_outage=on_outage)
        assert "another-password" not in str(caught.value) + exposed(caught.value)

    async def test_no_password(self, sandbox, redis):
        with pytest.raises(ConfigurationError, match="rejects the user name or the password"):
            await enter(sandbox, redis.url.replace(f"{USER}:{PASSWORD}@", ""))

    @pytest.mark.parametrize("lacks", ["-eval -evalsha", "-hset", "resetchannels", "resetkeys", "-subscribe"])
    async def test_a_missing_permission(self, sandbox, redis, lacks):
        redis.ask("ACL", "SETUSER", "limited", "on", ">limited", "~*", "&*", "+@all", *lacks.split())
        url = redis.url.replace(f"{USER}:{PASSWORD}", "limited:limited")
        with pytest.raises(ConfigurationError, match="Redis cannot be used"):
            await enter(sandbox, url)

    async def test_a_database_that_does_not_exist(self, sandbox, redis):
        with pytest.raises(ConfigurationError, match="DB index"):
            await enter(sandbox, redis.url.removesuffix("/0") + "/999")

    async def test_something_else_than_a_redis(self, sandbox):
        with pytest.raises(ConfigurationError, match="not a Redis"):
            await enter(sandbox, sandbox.url.replace("http", "redis"))

    async def test_tls_where_there_is_none(self, sandbox):
        with pytest.raises(ConfigurationError, match="TLS"):
            await enter(sandbox, sandbox.url.replace("http", "rediss"))

    async def test_a_redis_that_is_not_there_yet_is_an_outage(self, sandbox, mortal_redis):
        mortal_redis.kill()
        stands = await enter(sandbox, mortal_redis.url)
        assert not stands.connected
        assert stands.working

    async def test_a_login_that_is_rejected_once_redis_is_there(self, sandbox, join, mortal_redis):
        """It was never accepted, so it is wrong."""
        mortal_redis.kill()
        client, (pair, *_) = await join(mortal_redis), secrets_of(sandbox)
        await client.get_secret(*pair)
        (mortal_redis.folder / "users.acl").write_text("user default on nopass ~* &* +ping\n")
        mortal_redis.start_only()
        await until(lambda: "rejects" in client.stats().coordination.problem)
        with pytest.raises(ConfigurationError, match="rejects the user name or the password"):
            await client.get_secret(*pair)

    async def test_a_password_that_was_changed_is_an_outage(self, sandbox, join, redis):
        """It worked before, so it may again."""
        redis.ask("ACL", "SETUSER", "rotated", "on", ">before", "~*", "&*", "+@all")
        before = redis.url.replace(f"{USER}:{PASSWORD}", "rotated:before")
        client, (pair, *_) = await join(redis, url=before), secrets_of(sandbox)
        redis.ask("ACL", "SETUSER", "rotated", "resetpass", ">after")
        redis.ask("CLIENT", "KILL", "USER", "rotated")
        await until(lambda: not is_connected(client))
        assert await client.get_secret(*pair)
        assert "password" in client.stats().coordination.problem
        redis.ask("ACL", "SETUSER", "rotated", ">before")
        await until(lambda: is_connected(client))
