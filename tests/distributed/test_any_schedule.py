"""Any schedule of several processes: no false value or statement, and one refresh per secret at a time.

Each schedule has a sandbox, a namespace in Redis and a time of its own, which jumps; many run side by side.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime

import pytest

from flowmate_async import (
    CredentialExpiredError,
    CredentialRejectedError,
    FlowMate,
    FlowMateError,
    RefreshFailedError,
)
from flowmate_async.distributed import locks
from flowmate_async.distributed.coordination import RedisCoordination, SharingPolicy
from flowmate_async.sandbox import ProviderFault, Sandbox, SandboxOptions
from flowmate_async.sandbox.secret import Owner

from .conftest import KEY

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

PROCESSES = 3
KINDS = ("OA2_AUTHORIZATION_CODE", "OA2_AUTHORIZATION_CODE", "SESSION_AUTH", "API_KEY")
UPSTREAM_WINDOW = 900.0
SESSION_TTL = 600.0
NEEDS = (0.0, 60.0, 300.0, 880.0, 5000.0)
LEFT = (-60.0, 100.0, 600.0, 950.0, 3600.0)
JUMPS = (60.0, 200.0, 700.0, 3000.0)

ACTIONS = ("credential",) * 6 + ("lease",) * 4 + ("reject",) * 6 + ("get", "crowd", "crowd", "everybody")
ACTIONS += (
    ("cancel",) * 2 + ("pause",) * 8 + ("rotate", "rotate", "expire", "expire", "jump", "jump", "evict")
)


class Time:
    """Everybody's clock, sandbox and processes alike; it can jump."""

    def __init__(self):
        self.ahead = 0.0

    def wall(self):
        return time.time() + self.ahead

    def monotonic(self):
        return time.monotonic() + self.ahead

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


def shown(secret):
    """The credential as an app sees it."""
    return getattr(secret.value, "access_token", None) or secret.value.key


def number(secret):
    """Later values of a secret have higher ones."""
    return int(shown(secret).rpartition("/")[2])


class Schedule:
    """One run of many steps, and what must hold in each of them."""

    def __init__(self, seed, twin, clients, clock):
        self.rng = random.Random(seed)
        self.twin, self.clients, self.clock = twin, clients, clock
        self.tasks, self.leases = [], []
        self.calls = Counter()
        self.made = defaultdict(itertools.count)
        self.newest = defaultdict(lambda: -1)  # by owner and secret, since each has answers of its own
        self.told = defaultdict(set)
        self.replaced = defaultdict(set)
        self.secrets = [self.add(kind) for kind in self.rng.sample(KINDS, 2)]
        self.secrets += self.add_shared(self.rng.choice(KINDS))

    def mint(self, label, secret_id, _grant):
        return f"{label}/{secret_id}/{next(self.made[secret_id])}"

    def add(self, kind):
        user = self.rng.choice(self.users())
        return user.username, self.made_by(user, kind)

    def add_shared(self, kind):
        """Add a secret of all users; once for each of them."""
        users = self.users()
        secret = self.made_by(users[0], kind, owners=tuple(Owner(user.id) for user in users))
        return [(user.username, secret) for user in users]

    def users(self):
        return [user for user in self.twin.world.users() if user.active_tenant_user]

    def made_by(self, user, kind, owners=None):
        secret = self.twin.world.add_secret(user.username, type=kind, value={}, owners=owners)
        if kind == "API_KEY":
            secret.value = {"key": self.mint("key", secret.id, 0), "headerName": "X-Key"}
        elif kind == "SESSION_AUTH":
            secret.value = {"accessToken": self.mint("access", secret.id, 0)}
        else:
            secret.value = {"accessToken": self.mint("access", secret.id, 0), "refreshToken": "a"}
            self.expire(secret, self.rng.choice(LEFT))
        return secret

    def expire(self, secret, seconds):
        moment = datetime.fromtimestamp(self.clock.wall() + seconds, UTC)
        secret.value = {**secret.value, "expires": moment.isoformat(timespec="milliseconds")[:-6] + "Z"}

    def check(self, pair, secret):
        """Check that the value belongs to this secret, came from upstream and has not expired."""
        secret_id = pair[1]
        _, of, count = shown(secret).split("/")
        assert of == secret_id
        assert int(count) < next(self.made[secret_id])
        assert secret.expires_at is None or secret.expires_at.timestamp() > self.clock.wall()
        self.newest[pair] = max(self.newest[pair], number(secret))

    @contextlib.contextmanager
    def truth(self, pair, need):
        """Upstream renews what has less than its window left, and a login is good for some time."""
        session = self.twin.world.glance(pair[1]).type == "SESSION_AUTH"
        try:
            yield
        except CredentialExpiredError:
            assert need > (SESSION_TTL if session else UPSTREAM_WINDOW)
        except (RefreshFailedError, CredentialRejectedError):
            pass

    async def credential(self, fm, pair, need):
        with self.truth(pair, need):
            self.check(pair, await fm.credential(*pair, min_valid=need))

    async def get(self, fm, pair):
        with self.truth(pair, 0.0):
            self.check(pair, await fm.get_secret(*pair))

    async def lease(self, fm, pair, need):
        lease = fm.lease(*pair, min_valid=need)
        with self.truth(pair, need):
            await lease.__aenter__()
            self.check(pair, lease.secret)
            self.leases.append((fm, pair, lease, need))

    async def reject(self, fm, pair, lease, need):
        before, newest = lease.secret, self.newest[pair]
        knew = number(before) in self.told[fm, pair]
        self.told[fm, pair].add(number(before))  # until it ends it may be told so, by another one's asking
        told = False
        try:
            with self.truth(pair, need):
                try:
                    newer = await lease.reject()
                except CredentialRejectedError:
                    told = True
                    # Nobody had a newer one before; or this process was told the same within the cool-down.
                    assert knew or newest <= number(before)
                    return
                assert shown(newer) != shown(before)
                assert number(newer) >= number(before)
                self.check(pair, newer)
                self.replaced[pair].add(number(before))
        finally:
            if not told and not knew:
                self.told[fm, pair].discard(number(before))

    def start(self, pair, call):
        self.calls[pair[1]] += 1
        self.tasks.append(asyncio.create_task(call))

    async def step(self):  # noqa: C901, PLR0912 - one branch an action
        rng = self.rng
        action, fm, (username, secret) = (
            rng.choice(ACTIONS),
            rng.choice(self.clients),
            rng.choice(self.secrets),
        )
        pair, need = (username, secret.id), rng.choice(NEEDS)
        if action == "credential":
            self.start(pair, self.credential(fm, pair, need))
        elif action == "crowd":
            for _ in range(5):
                self.start(pair, self.credential(rng.choice(self.clients), pair, rng.choice(NEEDS)))
        elif action == "everybody":
            for held in self.leases:
                if held[1] == pair:
                    self.start(pair, self.reject(*held))
        elif action == "get":
            self.start(pair, self.get(fm, pair))
        elif action == "lease":
            self.start(pair, self.lease(fm, pair, need))
        elif action == "reject" and self.leases:
            held = rng.choice(self.leases)
            self.start(held[1], self.reject(*held))
        elif action == "cancel" and self.tasks:
            rng.choice(self.tasks[-5:]).cancel()
        elif action == "pause":
            await asyncio.sleep(rng.choice((0.0, 0.001, 0.003, 0.01)))
        elif action == "rotate" and "key" in secret.value:
            secret.value = {**secret.value, "key": self.mint("key", secret.id, 0)}
        elif action == "rotate":
            secret.value = {**secret.value, "accessToken": self.mint("access", secret.id, 0)}
        elif action == "expire" and secret.type == "OA2_AUTHORIZATION_CODE" and len(secret.owners) == 1:
            # With several owners, others may have been shown a later end, and would not take turns.
            self.expire(secret, rng.choice(LEFT))
        elif action == "jump":
            await self.quiet()  # an answer on its way would be old when it arrives
            self.clock.ahead += rng.choice(JUMPS)
        elif action == "evict":
            fm._parts.credentials.forget(*pair)

    async def quiet(self):
        """Every call has ended, also those without a waiter."""
        async with asyncio.timeout(60):
            await asyncio.gather(*self.tasks, return_exceptions=True)
            while any(table.under_way for fm in self.clients for table in fm.stats().flights.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def run(self, *, faults):
        for _ in range(self.rng.randrange(15, 60)):
            if faults:
                fault = self.rng.choice((None, None, ProviderFault.ERROR_BODY))
                self.rng.choice(self.secrets)[1].fault = fault
            await self.step()
        for _, secret in self.secrets:
            secret.fault = None
        await self.end()

    async def end(self):
        """Everybody gets an end, and the truth; then nothing moves any more."""
        await self.quiet()
        for failure in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(failure, BaseException) and not isinstance(failure, asyncio.CancelledError):
                raise failure
        stats = self.twin.stats()
        if not any(fm.stats().coordination.outages for fm in self.clients):
            # While a busy machine's Redis does not answer, each process asks for itself.
            assert stats.lock_waits == {}
        for username, secret in self.secrets:
            assert stats.secret_gets.get(secret.id, 0) <= 3 * self.calls[secret.id]
            for fm in self.clients:
                with contextlib.suppress(FlowMateError):
                    await self.up_to_date(fm, (username, secret.id))

    async def up_to_date(self, fm, pair):
        """What was rejected when there was something newer, no process hands out once it has heard of it."""
        async with asyncio.timeout(10):
            while True:
                held = await fm.credential(*pair, min_valid=60)
                self.check(pair, held)
                if number(held) not in self.replaced[pair]:
                    return
                await asyncio.sleep(0.01)


async def run(redis, seed, *, faults):
    clock = Time()
    options = SandboxOptions(
        users=3,
        seed=seed,
        now=clock.wall,
        latency_seconds=0.002,
        provider_seconds=0.004,
        mint_token=lambda *what: schedule.mint(*what),  # noqa: PLW0108 - it comes later
    )
    async with contextlib.AsyncExitStack() as entered:
        twin = await entered.enter_async_context(Sandbox(options))
        clients = []
        for _ in range(PROCESSES):
            sharing = RedisCoordination(
                redis.url, key=KEY, policy=SharingPolicy(namespace=str(seed)), clock=clock
            )
            fm = FlowMate(
                admin_token=twin.admin_token, base_url=twin.url, rate=None, coordination=sharing, clock=clock
            )
            clients.append(await entered.enter_async_context(fm))
        schedule = Schedule(seed, twin, clients, clock)
        try:
            await schedule.run(faults=faults)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


async def together(redis, seeds, *, faults):
    async with asyncio.TaskGroup() as schedules:
        for seed in seeds:
            schedules.create_task(run(redis, seed, faults=faults))


SEEDS = [
    (0, 16),
    *(pytest.param(*some, marks=pytest.mark.long) for some in [(16, 64), (64, 112), (112, 160)]),
]


@pytest.mark.parametrize(("begin", "end"), SEEDS)
async def test_any_schedule_by_lot(redis, begin, end):
    """Eight schedules at a time; the seed is the failing one's name."""
    for first in range(begin, end, 8):
        await together(redis, range(first, first + 8), faults=False)


async def test_any_schedule_with_refreshes_that_fail(redis, monkeypatch):
    """All at once, since later callers wait out a failure."""
    monkeypatch.setattr(locks, "LIFE_SECONDS", 2.0)
    await together(redis, range(12), faults=True)
