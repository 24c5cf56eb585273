"""Processes that share over Redis ask upstream once, hand each other the answer, and hide it from Redis."""

import asyncio
import sys
import textwrap
import time
from datetime import UTC, datetime

import pytest

from flowmate_async import (
    ConfigurationError,
    CredentialRejectedError,
    FlowMate,
    FlowMateError,
    RefreshFailedError,
    RetryPolicy,
    StoreKey,
    UpstreamUnavailableError,
)
from flowmate_async.distributed import locks
from flowmate_async.distributed.coordination import RedisCoordination, SharingPolicy
from flowmate_async.events import Refreshed
from flowmate_async.sandbox import Faults, ProviderFault, faults
from flowmate_async.sandbox.secret import Owner

from .conftest import KEY

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

GET = "GET /secrets/{id}"


def find(sandbox, kind="OA2_AUTHORIZATION_CODE"):
    """A user and a secret of that type that lasts; of OAuth, one that upstream can refresh."""
    for truth in sandbox.world.truth():
        secret = sandbox.world.secret(truth.secret_id)
        if truth.type == kind and (kind != "OA2_AUTHORIZATION_CODE" or secret.value.get("refreshToken")):
            if kind == "OA2_AUTHORIZATION_CODE":
                expire(sandbox, truth.secret_id, seconds=3600)
            return truth.username, truth.secret_id
    raise LookupError(kind)


def expire(sandbox, secret_id, *, seconds=-60.0):
    """Let an OAuth secret end so many seconds from now."""
    secret = sandbox.world.secret(secret_id)
    moment = datetime.fromtimestamp(time.time() + seconds, UTC)
    text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    secret.value = {**secret.value, "expires": text}


def change_key(sandbox, secret_id):
    """Let the user have entered another API key."""
    secret = sandbox.world.secret(secret_id)
    secret.value = {**secret.value, "key": secret.value["key"] + "-changed"}


async def connected(*clients):
    """Wait until these have noticed that Redis is back."""
    async with asyncio.timeout(10):
        while not all(client.stats().coordination.connected for client in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def gets(sandbox, secret_id):
    return sandbox.stats().secret_gets.get(secret_id, 0)


async def test_three_processes_times_fifty_tasks_cost_one_get(sandbox, redis):
    """Of one expired secret, all at the same moment."""
    program = textwrap.dedent("""
        import asyncio, os, sys
        from flowmate_async import FlowMate, StoreKey
        from flowmate_async.distributed.coordination import RedisCoordination

        async def main():
            coordination = RedisCoordination(os.environ["REDIS"], key=StoreKey.parse("5a" * 32))
            async with FlowMate(
                admin_token=os.environ["TOKEN"],
                base_url=os.environ["URL"],
                rate=None,
                coordination=coordination,
            ) as fm:
                print("ready", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
                asked = [fm.credential(sys.argv[1], sys.argv[2], min_valid=60) for _ in range(50)]
                print(*{secret.value.access_token for secret in await asyncio.gather(*asked)}, flush=True)

        asyncio.run(main())
    """)
    user, secret_id = find(sandbox)
    expire(sandbox, secret_id)
    sandbox.configure(latency_seconds=0.05, provider_seconds=0.2)
    environment = {"REDIS": redis.url, "TOKEN": sandbox.admin_token, "URL": sandbox.url}
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, user, secret_id),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert await process.stdout.readline() == b"ready\n"
    tokens = {
        out for out, _ in await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    }
    assert len(tokens) == 1
    assert tokens.pop().strip()
    assert gets(sandbox, secret_id) == sandbox.stats().refreshes[secret_id] == 1
    assert sandbox.stats().lock_waits == {}


async def test_what_one_fetched_the_others_have_without_asking(sandbox, join, redis):
    user, secret_id = find(sandbox)
    first, second = await join(redis), await join(redis)
    fetched = await first.credential(user, secret_id, min_valid=60)
    assert await second.credential(user, secret_id, min_valid=60) == fetched
    assert gets(sandbox, secret_id) == 1


async def test_a_plain_get_takes_an_answer_only_that_came_while_it_waited(sandbox, join, redis):
    """Two at once cost one; a later one costs one more, since it must be upstream's newest."""
    user, secret_id = find(sandbox)
    first, second = await join(redis), await join(redis)
    sandbox.configure(latency_seconds=0.1)
    both = await asyncio.gather(first.get_secret(user, secret_id), second.get_secret(user, secret_id))
    assert both[0] == both[1]
    assert gets(sandbox, secret_id) == 1
    await second.get_secret(user, secret_id)
    assert gets(sandbox, secret_id) == 2


async def test_a_sweep_and_a_worker_never_refresh_the_same_secret_at_once(sandbox, join, redis):
    """Upstream would answer one of them with its lock."""
    user, secret_id = find(sandbox)
    expire(sandbox, secret_id)
    sandbox.configure(latency_seconds=0.05, provider_seconds=0.3)
    worker, batch = await join(redis), await join(redis)
    asked = asyncio.ensure_future(worker.credential(user, secret_id))
    outcomes = [outcome async for outcome in batch.sweep([user])]
    await asked
    assert sandbox.stats().lock_waits == {}
    assert sandbox.stats().refreshes.get(secret_id) == 1
    assert len(outcomes) == 1


async def test_a_value_that_ends_too_soon_is_not_taken_from_another(sandbox, join, redis):
    user, secret_id = find(sandbox)
    expire(sandbox, secret_id, seconds=16 * 60)
    first, second = await join(redis), await join(redis)
    await first.credential(user, secret_id, min_valid=60)
    expire(sandbox, secret_id, seconds=10 * 60)  # now upstream would refresh it
    newer = await second.credential(user, secret_id, min_valid=30 * 60)
    assert newer.expires_at.timestamp() > time.time() + 30 * 60
    assert gets(sandbox, secret_id) == 2


class TestRejection:
    async def test_what_one_app_rejected_nobody_is_handed_any_more(self, sandbox, join, redis):
        user, secret_id = find(sandbox)
        first, second = await join(redis), await join(redis)
        rejected = await second.credential(user, secret_id, min_valid=1)
        async with first.lease(user, secret_id, min_valid=1) as lease:
            expire(sandbox, secret_id)  # so that upstream has a newer one
            newer = await lease.reject()
        assert newer.value.access_token != rejected.value.access_token
        while (await second.credential(user, secret_id, min_valid=1)) == rejected:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await second.credential(user, secret_id, min_valid=1) == newer
        assert gets(sandbox, secret_id) == 2

    async def test_nor_is_a_newcomer_while_the_newer_one_is_on_its_way(self, sandbox, join, redis):
        user, secret_id = find(sandbox)
        first, newcomer = await join(redis), await join(redis)
        async with first.lease(user, secret_id, min_valid=1) as lease:
            rejected = lease.secret
            expire(sandbox, secret_id)
            sandbox.configure(latency_seconds=0.3)
            newer = asyncio.ensure_future(lease.reject())
            await asyncio.sleep(0.15)
            assert await newcomer.credential(user, secret_id, min_valid=1) == await newer != rejected

    async def test_however_many_processes_reject_it_upstream_is_asked_once(self, sandbox, join, redis):
        user, secret_id = find(sandbox)
        clients = [await join(redis) for _ in range(4)]
        leases = [client.lease(user, secret_id, min_valid=1) for client in clients]
        for lease in leases:
            await lease.__aenter__()
        expire(sandbox, secret_id)
        newer = await asyncio.gather(*(lease.reject() for lease in leases))
        assert len({secret.value.access_token for secret in newer}) == 1
        assert gets(sandbox, secret_id) == 2

    async def test_that_upstream_has_no_other_is_known_to_all(self, sandbox, join, redis):
        user, secret_id = find(sandbox, "API_KEY")
        clients = [await join(redis) for _ in range(3)]
        for number, client in enumerate(clients):
            async with client.lease(user, secret_id) as lease:
                with pytest.raises(CredentialRejectedError):
                    await lease.reject()
            assert gets(sandbox, secret_id) == 2, number

    async def test_and_is_asked_once_when_many_want_to_know_at_the_same_time(self, sandbox, join, redis):
        user, secret_id = find(sandbox, "API_KEY")
        clients = [await join(redis) for _ in range(4)]
        leases = [client.lease(user, secret_id) for client in clients]
        for lease in leases:
            await lease.__aenter__()
        sandbox.configure(latency_seconds=0.2)
        ended = await asyncio.gather(*(lease.reject() for lease in leases), return_exceptions=True)
        assert {type(error) for error in ended} == {CredentialRejectedError}
        assert gets(sandbox, secret_id) == 2

    async def test_but_not_any_more_once_a_process_was_answered_with_another(self, sandbox, join, redis):
        user, secret_id = find(sandbox, "API_KEY")
        slow, quick, third = [await join(redis) for _ in range(3)]
        async with slow.lease(user, secret_id) as lease, quick.lease(user, secret_id) as other:
            with pytest.raises(CredentialRejectedError):
                await other.reject()
            change_key(sandbox, secret_id)
            newer = await third.get_secret(user, secret_id)
            assert (await lease.reject()).value == newer.value
        assert gets(sandbox, secret_id) == 3

    async def test_whoever_is_answered_with_it_meanwhile_hears_of_it_as_well(self, sandbox, join, redis):
        user, secret_id = find(sandbox, "API_KEY")
        first, second = await join(redis), await join(redis, on_event=lambda event: arrived(event))  # noqa: PLW0108
        async with first.lease(user, secret_id) as lease:
            redis.ask("FLUSHALL")  # so that the second has to ask

            def arrived(event):
                if isinstance(event, Refreshed):
                    change_key(sandbox, secret_id)

            sandbox.configure(latency_seconds=0.2)
            asked = asyncio.ensure_future(second.credential(user, secret_id))
            name = second._parts.coordination._keyspace.of("turn", user, secret_id)
            while "$-1" in redis.ask("GET", name):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            newer = await lease.reject()
            rejected = await asked
            assert rejected.value != newer.value
            async with asyncio.timeout(10):
                while (await second.credential(user, secret_id)).value == rejected.value:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert (await second.credential(user, secret_id)).value == newer.value
        assert gets(sandbox, secret_id) == 3


async def test_a_failed_refresh_is_everybodys_who_waited_for_it(sandbox, join, redis):
    """And is not tried again by each of them in turn."""
    user, secret_id = find(sandbox)
    expire(sandbox, secret_id)
    sandbox.configure(provider_fault=ProviderFault.ERROR_BODY, latency_seconds=0.2)
    clients = [await join(redis) for _ in range(4)]
    asked = [client.credential(user, secret_id) for client in clients]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in ended} == {RefreshFailedError}
    assert {(error.username, error.secret_id) for error in ended} == {(user, secret_id)}
    assert sum(sandbox.stats().refreshes.values()) == 1


async def test_a_failed_early_refresh_leaves_everybody_what_is_still_valid(sandbox, join, redis):
    user, secret_id = find(sandbox)
    expire(sandbox, secret_id, seconds=950)
    first, newcomer = await join(redis), await join(redis)
    valid = await first.credential(user, secret_id, min_valid=1)
    expire(sandbox, secret_id, seconds=600)
    sandbox.configure(provider_fault=ProviderFault.ERROR_BODY)
    with pytest.raises(RefreshFailedError):
        await first.get_secret(user, secret_id)
    assert await newcomer.credential(user, secret_id, min_valid=1) == valid
    assert gets(sandbox, secret_id) == 2


async def test_a_holder_that_died_is_waited_for_no_longer_than_its_lock(sandbox, join, redis, monkeypatch):
    """The lock outlives upstream's own, so it need not be given up."""
    assert locks.LIFE_SECONDS > 10.0
    monkeypatch.setattr(locks, "LIFE_SECONDS", 1.0)
    user, secret_id = find(sandbox)
    alive = await join(redis)
    name = alive._parts.coordination._keyspace.of("turn", user, secret_id)
    redis.ask("SET", name, "a process that was killed", "PX", "1000")
    began = time.monotonic()
    await alive.credential(user, secret_id, min_valid=1)
    assert time.monotonic() - began > 0.8
    assert gets(sandbox, secret_id) == 1


async def test_a_turn_lasts_for_as_long_as_upstream_takes(sandbox, join, redis, monkeypatch):
    """Longer than its life: the holder renews it before it ends."""
    monkeypatch.setattr(locks, "LIFE_SECONDS", 1.0)
    user, secret_id = find(sandbox)
    expire(sandbox, secret_id)
    sandbox.configure(provider_seconds=2.5)
    first, second = await join(redis), await join(redis)
    both = await asyncio.gather(first.get_secret(user, secret_id), second.get_secret(user, secret_id))
    assert both[0] == both[1]
    assert sandbox.stats().lock_waits == {}
    assert sandbox.stats().refreshes == {secret_id: 1}


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        (faults.Error(status=503, routes=(GET,), at_most=1), False),
        (faults.Throttle(retry_after_seconds=0, routes=(GET,), at_most=1), False),
        (faults.Error(status=502, routes=(GET,), at_most=1), True),
        (faults.ResetAfter(routes=(GET,), at_most=1), True),
    ],
)
async def test_a_turn_is_kept_only_while_upstream_may_be_at_work(sandbox, join, redis, fault, kept):
    """A 429 and a 503 say that upstream has not begun, so the next process may ask at once."""
    user, secret_id = find(sandbox)
    client = await join(redis, retry=RetryPolicy(attempts=1))
    await client.impersonate(user)
    sandbox.configure(faults=Faults(rules=(fault,)))
    with pytest.raises(FlowMateError):
        await client.get_secret(user, secret_id)
    assert bool(redis.keys("*:turn:*")) is kept


async def test_whoever_leaves_while_upstream_is_at_work_does_not_let_others_in(
    sandbox, join, redis, monkeypatch
):
    """The next one would meet upstream's lock, and have to retry."""
    monkeypatch.setattr(locks, "LIFE_SECONDS", 3.0)
    monkeypatch.setattr("flowmate_async.client._DRAIN_SECONDS", 0.1)
    user, secret_id = find(sandbox)
    expire(sandbox, secret_id)
    sandbox.configure(provider_seconds=1.0)
    staying = await join(redis)
    coordination = RedisCoordination(redis.url, key=KEY)
    async with FlowMate(
        admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, coordination=coordination
    ) as leaving:
        asked = asyncio.ensure_future(leaving.credential(user, secret_id))
        while not sandbox.stats().refreshes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with pytest.raises(ConfigurationError):
        await asked
    await staying.credential(user, secret_id)
    assert sandbox.stats().lock_waits == {}
    assert sandbox.stats().refreshes == {secret_id: 1}


async def test_a_waiter_that_gives_up_leaves_no_lock_behind(sandbox, join, redis):
    user, secret_id = find(sandbox)
    first, second = await join(redis, rate=0.5, burst=1), await join(redis)
    await first.impersonate(user)  # takes the only token, so the GET waits while it has the turn
    asked = asyncio.ensure_future(first.credential(user, secret_id))
    name = second._parts.coordination._keyspace.of("turn", user, secret_id)
    while "$-1" in redis.ask("GET", name):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    asked.cancel()
    async with asyncio.timeout(5):
        await second.credential(user, secret_id, min_valid=1)


async def test_redis_never_sees_a_name_a_token_or_a_credential(sandbox, join, redis):
    """Neither among what it holds, nor in what it wrote down of every command."""
    clients = [await join(redis, rate=5000, burst=500) for _ in range(2)]
    truth = list(sandbox.world.truth())[:30]
    for client in clients:
        for item in truth:
            try:
                async with client.lease(item.username, item.secret_id, min_valid=1) as lease:
                    if item.type in {"SIMPLE", "API_KEY"}:
                        await lease.reject()
            except Exception:  # noqa: BLE001 - some of them have expired; what was said of them counts as well
                continue
    seen = redis.everything()
    assert seen.count(b"flowmate:{") > 50
    after = {item.secret_id: item for item in sandbox.world.truth()}
    for item in truth:
        values = [*after[item.secret_id].value.values(), *item.value.values()]
        plain = [item.username, item.secret_id]
        plain += [text for text in values if isinstance(text, str) and len(text) > 7]
        assert [text for text in plain if text.encode() in seen] == []
    assert sandbox.admin_token.encode() not in seen


async def test_another_key_reads_nothing_and_disturbs_nobody(sandbox, join, redis):
    user, secret_id = find(sandbox)
    client = await join(redis)
    await client.credential(user, secret_id, min_valid=1)
    coordination = RedisCoordination(redis.url, key=StoreKey.generate())
    async with FlowMate(
        admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, coordination=coordination
    ) as stranger:
        await stranger.credential(user, secret_id, min_valid=1)
    assert gets(sandbox, secret_id) == 2


class TestOutage:
    async def test_each_goes_on_alone_and_together_again_later(self, sandbox, join, mortal_redis):
        user, secret_id = find(sandbox, "API_KEY")
        client, other = await join(mortal_redis), await join(mortal_redis)
        mortal_redis.kill()
        alone = await client.get_secret(user, secret_id)
        assert gets(sandbox, secret_id) == 1
        mortal_redis.start()
        await connected(client, other)
        assert await client.credential(user, secret_id) == alone
        assert await other.credential(user, secret_id) == alone
        assert gets(sandbox, secret_id) == 2

    async def test_a_refresh_that_failed_meanwhile_is_not_tried_again(self, sandbox, join, mortal_redis):
        user, secret_id = find(sandbox)
        expire(sandbox, secret_id)
        sandbox.configure(provider_fault=ProviderFault.ERROR_BODY, provider_seconds=0.5)
        client = await join(mortal_redis)
        asked = asyncio.ensure_future(client.credential(user, secret_id))
        while not sandbox.stats().refreshes:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        mortal_redis.kill()
        with pytest.raises(RefreshFailedError):
            await asked
        assert gets(sandbox, secret_id) == 1

    async def test_or_nobody_asks_when_that_was_chosen(self, sandbox, join, mortal_redis):
        user, secret_id = find(sandbox)
        client = await join(mortal_redis, on_outage="error")
        mortal_redis.kill()
        with pytest.raises(UpstreamUnavailableError, match="Redis cannot be used"):
            await client.credential(user, secret_id)
        assert gets(sandbox, secret_id) == 0

    async def test_or_does_not_even_begin(self, sandbox, mortal_redis):
        mortal_redis.kill()
        policy = SharingPolicy(on_outage="error")
        coordination = RedisCoordination(mortal_redis.url, key=KEY, policy=policy)
        with pytest.raises(UpstreamUnavailableError, match="Redis cannot be used"):
            async with FlowMate(
                admin_token=sandbox.admin_token, base_url=sandbox.url, coordination=coordination
            ):
                pass


@pytest.mark.parametrize("url", ["http://somewhere", "", "redis://user:pass word@[::1", "memory:"])
def test_a_url_that_cannot_be_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigurationError) as caught:
        RedisCoordination(url, key=KEY)
    assert "pass word" not in str(caught.value)


class TestSeveralOwners:
    """Upstream's lock belongs to the secret, so owners in different processes take turns as well."""

    def shared(self, sandbox, kind, count=6):
        """A secret of several users, and their names."""
        users = [user for user in sandbox.world.users() if user.active_tenant_user][:count]
        owners = tuple(Owner(user.id) for user in users)
        secret = sandbox.world.add_secret(
            users[0].username, type=kind, value=sandbox.world.new_value(kind), owners=owners
        )
        return [user.username for user in users], secret

    async def test_an_expired_secret_is_refreshed_once(self, sandbox, join, redis):
        """The first answer shows the other processes that the next GETs are plain reads."""
        users, secret = self.shared(sandbox, "OA2_AUTHORIZATION_CODE")
        expire(sandbox, secret.id)
        sandbox.configure(provider_seconds=0.3)
        clients = [await join(redis) for _ in range(3)]
        got = await asyncio.gather(*(fm.credential(user, secret.id) for fm in clients for user in users))
        stats = sandbox.stats()
        assert (stats.refreshes[secret.id], stats.lock_waits) == (1, {})
        assert stats.requests[GET] == {200: len(users)}, "one GET for each owner"
        assert len({one.value.access_token for one in got}) == 1

    async def test_a_session_without_an_expiry_logs_in_once_per_owner(self, sandbox, join, redis):
        users, secret = self.shared(sandbox, "SESSION_AUTH")
        secret.value = {**secret.value, "expires": None}
        sandbox.configure(provider_seconds=0.1)
        clients = [await join(redis) for _ in range(3)]
        await asyncio.gather(*(fm.credential(user, secret.id) for fm in clients for user in users))
        stats = sandbox.stats()
        assert (stats.refreshes[secret.id], stats.lock_waits) == (len(users), {})
        assert stats.requests[GET] == {200: len(users)}

    async def test_plain_reads_of_other_owners_do_not_wait(self, sandbox, join, redis):
        """A process that knows nothing learns from Redis that a GET is a plain read."""
        users, secret = self.shared(sandbox, "OA2_AUTHORIZATION_CODE")
        expire(sandbox, secret.id, seconds=7200)
        first, other = await join(redis), await join(redis)
        await first.credential(users[0], secret.id)
        await asyncio.gather(*(other.impersonate(user) for user in users))
        sandbox.configure(latency_seconds=0.5)
        async with asyncio.timeout(0.5 * (len(users) - 2)):
            await asyncio.gather(*(other.credential(user, secret.id) for user in users[1:]))

    async def test_facts_in_redis_show_nothing(self, sandbox, join, redis):
        users, secret = self.shared(sandbox, "SESSION_AUTH")
        fm = await join(redis)
        await fm.credential(users[0], secret.id)
        names = [name for name in redis.ask("KEYS", "*").split() if ":facts:" in name]
        assert len(names) == 1
        assert secret.id not in names[0]
        assert secret.value["authClientId"] not in redis.ask("GET", names[0])
