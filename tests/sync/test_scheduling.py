"""How a sweep spends its requests: users that were begun first, none left idle, little lost by a kill."""

import asyncio
import json
from collections import Counter, defaultdict

import pytest

from flowmate_async import (
    BulkheadPolicy,
    FlowMate,
    FlowPolicy,
    RetryPolicy,
    SyncOptions,
    TransportError,
    UpstreamUnavailableError,
    UserSynced,
)
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio

LATENCY = 0.02
PAST = "2020-01-01T00:00:00Z"


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class Upstream:
    """Users and their secrets: each is the OAuth client of a due refresh, or ``None`` for a plain read."""

    def __init__(self, users, *, refresh_seconds=5.0):
        self.users, self.refresh_seconds = users, refresh_seconds
        self.in_flight, self.most = Counter(), Counter()
        self.most_tasks = 0
        self.begun = set()
        self.asked, self.answered = [], defaultdict(list)

    def client(self, *, concurrency=16, refreshes=8):
        return FlowMate(
            admin_token="a",
            base_url="http://localhost",
            transport=MemoryTransport(self.answer),
            rate=None,
            concurrency=concurrency,
            flow=FlowPolicy(adaptive_concurrency=False),
            bulkhead=BulkheadPolicy(refreshes=refreshes),
            retry=RetryPolicy(attempts=1),
        )

    async def answer(self, method, path, headers, body):
        if method == "POST":
            await self.took("any", LATENCY)
            return json_response(json.dumps({"token": json.loads(body)["username"]}).encode())
        user = dict(headers.pairs)["Authorization"].removeprefix("Bearer ")
        secrets = self.users[user]
        self.begun.add(user)
        if path[9] == "?":
            await self.took("any", LATENCY)
            size, number = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
            listed = [self.listed(user, at, client) for at, client in enumerate(secrets)]
            page = listed[(number - 1) * size : number * size]
            return json_response(json.dumps({"data": page, "meta": {"total": len(listed)}}).encode())
        secret_id = path[9:]
        client = secrets[int(secret_id.rpartition("-")[2])]
        self.asked.append((user, secret_id))
        await self.took(client or "any", LATENCY if client is None else self.refresh_seconds)
        self.answered[user].append(secret_id)
        value = (
            {"passphrase": "p"} if client is None else {"accessToken": "t", "expires": "2099-01-01T00:00:00Z"}
        )
        kind = "SIMPLE" if client is None else "OA2_AUTHORIZATION_CODE"
        return json_response(json.dumps({"data": {"_id": secret_id, "type": kind, "value": value}}).encode())

    def listed(self, user, at, client):
        listed = {"_id": f"{user}-{at}", "type": "SIMPLE"}
        if client is not None:
            listed |= {"type": "OA2_AUTHORIZATION_CODE", "value": {"authClientId": client, "expires": PAST}}
        return listed

    async def took(self, kind, seconds):
        for one in {kind, "all"}:
            self.in_flight[one] += 1
            self.most[one] = max(self.most[one], self.in_flight[one])
        self.most_tasks = max(self.most_tasks, len(asyncio.all_tasks()))
        try:
            await asyncio.sleep(seconds)
        finally:
            for one in {kind, "all"}:
                self.in_flight[one] -= 1


def tenant(users, secrets, client=None):
    return {f"u{number}": [client] * secrets for number in range(users)}


async def swept(upstream, fm):
    """Sweep everybody; return when each user came, from the beginning."""
    loop, ended = asyncio.get_running_loop(), {}
    began = loop.time()
    async for outcome in fm.sweep(upstream.users):
        assert isinstance(outcome, UserSynced), outcome
        assert len(outcome.secrets) == len(upstream.users[outcome.username])
        ended[outcome.username] = loop.time() - began
    return ended


@pytest.mark.parametrize(
    "users",
    [tenant(1, 600), tenant(8, 300), tenant(64, 40), tenant(1000, 4), {"u": [None] * 900} | tenant(500, 3)],
    ids=["1 x 600", "8 x 300", "64 x 40", "1000 x 4", "900 and 500 x 3"],
)
async def test_every_shape_of_a_tenant_uses_the_concurrency(users):
    """At least 90 % of the maximum: listing after listing, a first secret, then all at once."""
    upstream, wide = Upstream(users), 64
    async with upstream.client(concurrency=wide) as fm:
        ended = await swept(upstream, fm)
    largest = max(len(secrets) for secrets in users.values())
    alone = LATENCY * (2 + -(-largest // 100))
    requests = sum(1 + -(-len(secrets) // 100) + len(secrets) for secrets in users.values())
    assert max(ended.values()) <= (alone + requests * LATENCY / wide) / 0.9
    assert upstream.most["all"] == wide
    assert upstream.most_tasks < 2.2 * wide, "neither a task per user nor per secret"


async def test_secrets_come_as_they_were_listed(virtual_time):
    """Whatever the order in which they were fetched: plain reads first, then refreshes."""
    upstream = Upstream({"u": ["c", None, "c", None, None]}, refresh_seconds=1.0)
    async with upstream.client() as fm:
        outcomes = [outcome async for outcome in fm.sweep(["u"])]
    assert [secret.id for secret in outcomes[0].secrets] == [f"u-{at}" for at in range(5)]
    assert [secret_id for _, secret_id in upstream.asked] == ["u-1", "u-3", "u-4", "u-0", "u-2"]


async def test_a_large_account_does_not_starve_small_ones():
    """It comes first and leaves half of the tasks to the others while there are others."""
    upstream = Upstream({"large": [None] * 2000} | tenant(100, 2))
    async with upstream.client(concurrency=16) as fm:
        ended = await swept(upstream, fm)
    large = ended.pop("large")
    assert max(ended.values()) < large / 2
    assert large <= 1.1 * (2000 + 400) * LATENCY / 16


async def test_users_end_in_the_order_in_which_they_were_begun():
    upstream = Upstream(tenant(40, 30))
    async with upstream.client(concurrency=8) as fm:
        ended = await swept(upstream, fm)
    order = list(ended)
    assert all(abs(order.index(name) - at) <= 8 for at, name in enumerate(upstream.users))


CLIENTS = {
    "one slow provider": (1, lambda at: "c"),
    "many slow providers": (1, lambda at: f"c{at % 7}"),
    "half plain reads": (1, lambda at: "c" if at % 2 else None),
    "a slow one in ten": (4, lambda at: "c" if at % 10 == 9 else None),
}


@pytest.mark.parametrize(("waiting", "clients"), CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("killed_after", [6.0, 23.0, 61.0])
async def test_a_kill_loses_about_what_was_in_flight(waiting, clients, killed_after):
    """64 users of 20 secrets, slow refreshes: lost is neither users times secrets nor a minute's work.

    So many users can wait for the eight refreshes that are in flight, each with everything else answered.
    """
    tasks, secrets = 16, 20
    most = 2 * tasks + waiting * secrets
    upstream = Upstream({f"u{n}": [clients(at) for at in range(secrets)] for n in range(64)})
    store = MemoryStore()
    async with store, upstream.client(concurrency=tasks) as fm:
        syncing = asyncio.create_task(fm.sync(store, list(upstream.users)))
        await asyncio.sleep(killed_after)
        syncing.cancel()
        await asyncio.gather(syncing, return_exceptions=True)
        run = await store.last_run()
        safe = {end.username async for end in store.checkpoints(run)}
        answered = {name: len(found) for name, found in upstream.answered.items()}
        lost = sum(count for name, count in answered.items() if name not in safe)
        assert lost <= most
        again = await fm.sync(store, list(upstream.users))
    assert (again.resumed, again.complete, again.synced, again.skipped) == (True, True, 64, len(safe))
    gets = Counter(secret_id for _, secret_id in upstream.asked)
    assert sum(gets.values()) - len(gets) <= most + tasks, "fetched twice"


async def test_the_first_checkpoints_come_early():
    """After a fortieth of the time a fortieth of the users is safe, give or take those under way."""
    upstream = Upstream(tenant(80, 10, "c"), refresh_seconds=1.0)
    async with MemoryStore() as store, upstream.client(concurrency=64) as fm:
        syncing = asyncio.create_task(fm.sync(store, list(upstream.users)))
        await asyncio.sleep(80 * 10 / 8 / 40 + 1.5)  # eight refreshes at once
        assert (await store.totals(await store.last_run())).synced >= 1
        await syncing


class TestSlowProviders:
    async def test_one_does_not_hold_up_the_users_of_others(self):
        """Its refreshes wait for each other outside of the tasks."""
        slow = {f"slow{n}": [None, "slow"] for n in range(8)}
        upstream = Upstream(slow | tenant(200, 3), refresh_seconds=30.0)
        async with upstream.client(concurrency=16, refreshes=2) as fm:
            ended = await swept(upstream, fm)
        assert upstream.most["slow"] == 2
        assert max(at for name, at in ended.items() if name not in slow) < 30.0
        assert max(ended.values()) == pytest.approx(8 / 2 * 30.0, rel=0.01)

    async def test_their_users_do_not_pile_up(self):
        """How many users are begun and not ended is bounded: in memory, and in what a kill would lose."""
        slow = {f"slow{n}": [None, None, "slow"] for n in range(300)}
        upstream, most = Upstream(slow, refresh_seconds=1.0), 0
        async with upstream.client(concurrency=16, refreshes=2) as fm:
            ended = set()
            async for outcome in fm.sweep(upstream.users):
                ended.add(outcome.username)
                most = max(most, len(upstream.begun - ended))
        assert len(ended) == 300
        assert most <= 2 * 16

    async def test_a_user_of_theirs_alone_is_read_to_the_end(self):
        upstream = Upstream({"u": ["a"] * 20 + ["b"] * 20 + [None] * 20}, refresh_seconds=1.0)
        async with upstream.client(concurrency=16, refreshes=3) as fm:
            await swept(upstream, fm)
        assert (upstream.most["a"], upstream.most["b"]) == (3, 3)


async def test_a_failure_that_ends_a_user_leaves_its_other_secrets_alone():
    """Upstream goes down while several are in flight and more are to come; other users come to an end."""
    upstream = Upstream({"bad": [None] * 40} | tenant(5, 40))
    answer = upstream.answer

    async def goes_down(method, path, headers, body):
        if path.startswith("/secrets/bad-") and len(upstream.answered["bad"]) >= 8:
            await asyncio.sleep(LATENCY * (1 + int(path.rpartition("-")[2]) % 3))
            raise TransportError("connect", "refused")
        return await answer(method, path, headers, body)

    upstream.answer = goes_down
    async with upstream.client(concurrency=16) as fm:
        outcomes = {outcome.username: outcome async for outcome in fm.sweep(upstream.users)}
    assert len(outcomes) == 6
    assert [name for name, one in outcomes.items() if not isinstance(one, UserSynced)] == ["bad"]
    assert isinstance(outcomes["bad"].error, UpstreamUnavailableError)


async def test_the_error_of_a_user_is_the_first_one_in_its_listing():
    """Whichever of its secrets fails first."""
    upstream = Upstream({"u": [None] * 9})
    answer = upstream.answer

    async def fails(method, path, headers, body):
        if path in ("/secrets/u-4", "/secrets/u-7"):
            await asyncio.sleep(LATENCY if path.endswith("7") else 10 * LATENCY)
            return json_response(b'{"message":"' + path[-1:].encode() + b'"}', 403)
        return await answer(method, path, headers, body)

    upstream.answer = fails
    async with upstream.client(concurrency=16) as fm:
        (outcome,) = [outcome async for outcome in fm.sweep(["u"])]
    assert outcome.error.secret_id == "u-4"
    assert [secret.id for secret in outcome.secrets] == [f"u-{at}" for at in (0, 1, 2, 3, 5, 6, 8)]


async def test_stopped_it_finishes_the_secrets_of_users_that_were_begun():
    upstream = Upstream(tenant(30, 40))
    stop = asyncio.Event()
    async with MemoryStore() as store, upstream.client(concurrency=4) as fm:
        syncing = asyncio.create_task(fm.sync(store, list(upstream.users), options=SyncOptions(), stop=stop))
        await asyncio.sleep(20 * LATENCY)
        begun = {user for user, _ in upstream.asked}
        stop.set()
        report = await syncing
        stored = {end.username async for end in store.checkpoints(await store.last_run())}
    assert stored == begun
    assert (report.complete, report.synced) == (False, len(begun))
    assert all(len(upstream.answered[name]) == 40 for name in begun)


async def test_a_slow_iterable_does_not_hold_up_users_that_were_begun():
    """Even with one task that could wait for the next name."""

    async def names():
        yield "u0"
        await asyncio.sleep(1000)
        yield "u1"

    upstream, loop = Upstream(tenant(2, 50)), asyncio.get_running_loop()
    async with upstream.client(concurrency=1) as fm:
        ended = [loop.time() async for _ in fm.sweep(names())]
    assert ended[1] - ended[0] == pytest.approx(1000, rel=0.01)


async def test_an_interactive_call_goes_before_the_rest_of_a_large_account():
    upstream, loop = Upstream({"u": [None] * 400, "me": [None]}), asyncio.get_running_loop()

    async def read(fm):
        return [outcome async for outcome in fm.sweep(["u"])]

    async with upstream.client(concurrency=4) as fm:
        sweeping = asyncio.create_task(read(fm))
        await asyncio.sleep(20 * LATENCY)
        began = loop.time()
        await fm.get_secret("me", "me-0")
        assert loop.time() - began <= 4 * LATENCY
        await sweeping
