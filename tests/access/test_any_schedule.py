"""Any schedule: one request per key, one refresh per secret, no expired or foreign value, an end for all."""

import asyncio
import contextlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async import CredentialExpiredError, FlowMateError

pytestmark = pytest.mark.usefixtures("both_ways")

USERS = ("ali", "bea", "cem")
KINDS = ("OA2_AUTHORIZATION_CODE", "SESSION_AUTH", "API_KEY")
PAIRS = [(user, f"{user}-{number}") for user in USERS for number in range(len(KINDS))]
SHARED = ("shared-oauth", "shared-session")
PAIRS += [(user, secret_id) for secret_id in SHARED for user in USERS]
FAULTS = ("503", "502", "429", "refresh failed", "locked", "timeout", "reset")
FAULTS += ("not found", "forbidden", "html")
PAUSES = (0.0, 0.0625, 0.25, 1.0, 11.0, 40.0, 300.0, 700.0, 3000.0, 3580.0)

ACTIONS = ("get",) * 6 + ("lease",) * 3 + ("reject",) * 4 + ("release", "cancel", "cancel") + ("pause",) * 6
ACTIONS += ("fault",) * 2 + ("heal", "sick", "revoke", "rotate", "many", "evict")

UPSTREAM_WINDOW = 900.0

PARTS = [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, 8))]

steps = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, len(PAIRS) - 1), st.integers(0, 29)),
    min_size=3,
    max_size=25,
)


@contextlib.contextmanager
def told_the_truth(need):
    """Upstream renews what has less than its window left: no failure may say that there is nothing newer."""
    try:
        yield
    except CredentialExpiredError:
        assert need > UPSTREAM_WINDOW
    except FlowMateError:
        pass


class Schedule:
    """One run of many steps, and what must hold in each of them."""

    def __init__(self, kit, world):
        self.kit = kit
        self.world = world
        self.upstream = world.upstream
        self.tasks = []
        self.leases = []
        self.calls = Counter()

    def check(self, pair, secret):
        """What was handed out is this user's secret's, and has not ended."""
        username, secret_id, _ = self.kit.presented(secret).split("/")
        assert (username, secret_id) == pair
        expires = secret.expires_at
        assert expires is None or expires.timestamp() > self.upstream.now()

    async def get(self, pair, need):
        with told_the_truth(need):
            self.check(pair, await self.world.fm.credential(*pair, min_valid=need))

    async def lease(self, pair, need):
        lease = self.world.fm.lease(*pair, min_valid=need)
        with told_the_truth(need):
            await lease.__aenter__()
            self.check(pair, lease.secret)
            self.leases.append((pair, lease))

    async def reject(self, pair, lease):
        before = self.kit.presented(lease.secret)
        try:
            secret = await lease.reject()
        except FlowMateError:
            return
        self.check(pair, secret)
        assert self.kit.presented(secret) != before

    def start(self, pair, call):
        self.calls[pair[1]] += 1
        self.tasks.append(asyncio.create_task(call))

    async def step(self, action, which, number):  # noqa: C901, PLR0912 - one branch an action
        pair = PAIRS[which]
        if action == "get":
            self.start(pair, self.get(pair, (0.0, 60.0, 300.0, 5000.0)[number % 4]))
        elif action == "many":
            for _ in range(10):
                self.start(pair, self.get(pair, 60.0))
        elif action == "lease":
            self.start(pair, self.lease(pair, 60.0))
        elif action == "reject" and self.leases:
            pair, lease = self.leases[number % len(self.leases)]
            self.start(pair, self.reject(pair, lease))
        elif action == "release" and self.leases:
            self.leases.pop(number % len(self.leases))
        elif action == "cancel" and self.tasks:
            self.tasks[number % len(self.tasks)].cancel()
        elif action == "pause":
            await asyncio.sleep(PAUSES[number % len(PAUSES)])
        elif action == "fault":
            self.upstream.faults[pair[1]] = FAULTS[number % len(FAULTS)]
        elif action == "sick":
            down = self.kit.json_response(b'{"message":"down"}', 503)
            self.upstream.sick = lambda *_: down
        elif action == "heal":
            self.upstream.faults.clear()
            self.upstream.sick = lambda *_: None
        elif action == "revoke":
            self.upstream.revoke_tokens(pair[0] if number % 2 else None)
        elif action == "rotate":
            self.upstream.kept[pair[1]].number += 1
        elif action == "evict":
            self.world.fm._parts.credentials.forget(*pair)
        assert (self.upstream.overlaps, self.upstream.lock_waits) == (0, 0)

    async def end(self):
        """Everybody gets an end in bounded time; then nothing moves any more."""
        upstream = self.upstream
        async with asyncio.timeout(600):
            ended = await asyncio.gather(*self.tasks, return_exceptions=True)
        for failure in ended:
            if isinstance(failure, BaseException) and not isinstance(failure, asyncio.CancelledError):
                raise failure
        await asyncio.sleep(200)
        assert (upstream.overlaps, upstream.lock_waits) == (0, 0)
        assert not any(upstream.on_wire.values())
        assert len(self.world.fm._parts.fetcher.turns) == 0
        # At most four attempts for each, a new token between two of them, and a background refresh besides.
        for pair in PAIRS:
            assert upstream.gets[pair[1]] <= 8 * 2 * self.calls[pair[1]]
        assert sum(upstream.impersonations.values()) <= 8 * sum(self.calls.values())
        sent = len(upstream.requests)
        await asyncio.sleep(5000)
        assert len(upstream.requests) == sent
        flights = self.world.fm.stats().flights
        assert all((table.under_way, table.waiting) == (0, 0) for table in flights.values())
        assert self.world.fm.stats().traffic.limiter.admitted == 0


async def run(kit, plan, capacity):
    async with kit.World(cache_capacity=capacity) as world:
        for number, pair in enumerate(PAIRS[: -len(SHARED) * len(USERS)]):
            kind = KINDS[number % len(KINDS)]
            world.upstream.add(*pair, kind, left=float(300 + 400 * number) if kind == kit.OAUTH else None)
        world.upstream.add(USERS, "shared-oauth", kit.OAUTH, left=700.0)
        world.upstream.add(USERS, "shared-session", kit.SESSION)
        schedule = Schedule(kit, world)
        for step in plan:
            await schedule.step(*step)
        await schedule.end()


@given(plan=steps, capacity=st.sampled_from([1, 2, 100]))
@settings(max_examples=6 * settings().max_examples)
def test_any_schedule_that_hypothesis_thinks_of(virtually, kit, plan, capacity):
    virtually(lambda: run(kit, plan, capacity))


@pytest.mark.parametrize("part", PARTS)
def test_any_schedule_by_lot(virtually, kit, part):
    """200 longer schedules each; the seed is the failing one's name."""
    for seed in range(200 * part, 200 * (part + 1)):
        rng = random.Random(seed)
        random.seed(seed)  # the jitter of the library
        plan = [
            (rng.choice(ACTIONS), rng.randrange(len(PAIRS)), rng.randrange(30))
            for _ in range(rng.randrange(5, 60))
        ]
        try:
            virtually(lambda plan=plan, rng=rng: run(kit, plan, rng.choice([1, 2, 100])))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
