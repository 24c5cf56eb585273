"""Virtual time, and upstreams in memory that behave like strict, queueing or failing ones."""

import asyncio
import json
import math
import random
from typing import Any

import pytest

from flowmate_async import FlowMate
from flowmate_async.clock import SystemClock
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.contract.protocol import USERS, Request, get_secret
from flowmate_async.engine.awaiting import AwaitedCall
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.wiring import Traffic, TrafficLimits, TrafficPolicies
from flowmate_async.events import Emitter
from flowmate_async.redaction import Headers
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.transport.base import Limits

TOKEN = json_response(b'{"token":"t","id":"i"}')
NO_SECRETS = json_response(b'{"data":[],"meta":{"total":0}}')


@pytest.fixture
def anyio_backend(virtual_time) -> Any:
    """Every test of this folder runs on virtual time, unless its module says otherwise."""
    return virtual_time


@pytest.fixture(autouse=True)
def _no_blocking(no_blocking):
    """The library may not block the loop."""


class StrictUpstream:
    """A token bucket of ``rate`` and ``burst`` that answers everything above it with 429.

    Requests take a random time to arrive, so that they bunch up, and a fixed one to be answered. A busy one
    reads what has arrived only every ``batch_seconds``, all at once.
    """

    def __init__(self, *, rate, burst, seed=0, batch_seconds=None):
        self.rate, self.burst = rate, burst
        self.batch_seconds = batch_seconds
        self.passed, self.throttled = [], []
        self.retry_after = lambda seconds: str(math.ceil(seconds))
        self._random = random.Random(seed)
        self._tokens, self._counted_at = float(burst), 0.0

    async def __call__(self, method, path, headers, body):
        loop = asyncio.get_running_loop()
        if self.batch_seconds is None:
            await asyncio.sleep(self._random.uniform(0.001, 0.03))
        else:
            await asyncio.sleep(self.batch_seconds - loop.time() % self.batch_seconds)
        missing = self._take(loop.time())
        if missing > 0:
            self.throttled.append(loop.time())
            wait = self.retry_after(missing / self.rate)
            return json_response(b"{}", 429, **({} if wait is None else {"retry_after": wait}))
        self.passed.append(loop.time())
        await asyncio.sleep(0.004)
        return TOKEN if method == "POST" else NO_SECRETS

    def _take(self, now):
        """Take a token; how many are missing, if there is none."""
        if not self._counted_at:
            self._counted_at = now
        self._tokens = min(self.burst, self._tokens + (now - self._counted_at) * self.rate)
        self._counted_at = now
        if self._tokens < 1 - 1e-9:
            return 1 - self._tokens
        self._tokens -= 1
        return 0

    def between(self, start, end):
        """How many passed and how many were throttled from second ``start`` to second ``end`` of its life."""
        first = min(self.passed + self.throttled)
        inside = [[at for at in seen if start <= at - first < end] for seen in (self.passed, self.throttled)]
        return len(inside[0]), len(inside[1])


class QueueingUpstream:
    """Answers ``capacity`` requests at once, each after ``seconds``; the others wait in line."""

    def __init__(self, *, capacity, seconds):
        self.seconds = seconds
        self.inside, self.most_inside, self.answered = 0, 0, 0
        self._places = asyncio.Semaphore(capacity)

    async def __call__(self, method, path, headers, body):
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            async with self._places:
                await asyncio.sleep(self.seconds)
        finally:
            self.inside -= 1
        self.answered += 1
        return TOKEN if method == "POST" else NO_SECRETS

    def widen(self, places):
        """Answer that many more at once."""
        for _ in range(places):
            self._places.release()


class Provider:
    """Users with one OAuth secret each, all of one client and all due; its provider may fail."""

    def __init__(self, *, seconds=0.2):
        self.seconds = seconds
        self.failing = False
        self.client = "client-1"
        self.inside, self.most_inside, self.asked = 0, 0, 0

    async def __call__(self, method, path, headers, body):
        if method == "POST":
            return json_response(json.dumps({"token": json.loads(body)["username"]}).encode())
        name = dict(headers.pairs)["Authorization"].removeprefix("Bearer ")
        if path.startswith("/secrets/?"):
            value = {"authClientId": self.client, "expires": "2020-01-01T00:00:00Z"}
            item = {"_id": f"secret-of-{name}", "type": "OA2_AUTHORIZATION_CODE", "value": value}
            return json_response(json.dumps({"data": [item], "meta": {"total": 1}}).encode())
        return await self._refresh(path.removeprefix("/secrets/"))

    async def _refresh(self, secret_id):
        self.asked += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.inside -= 1
        if self.failing:
            return json_response(b'{"message":""}', 500)
        value = {"authClientId": self.client, "accessToken": "a", "expires": "2033-01-01T00:00:00Z"}
        secret = {"_id": secret_id, "type": "OA2_AUTHORIZATION_CODE", "value": value}
        return json_response(json.dumps({"data": secret}).encode())


@pytest.fixture(scope="session")
def strict():
    return StrictUpstream


@pytest.fixture(scope="session")
def queueing():
    return QueueingUpstream


@pytest.fixture(scope="session")
def provider():
    return Provider


@pytest.fixture(scope="session")
def client():
    """A client of an upstream in memory."""

    def make(upstream, *, carrier=MemoryTransport, **options):
        return FlowMate(
            admin_token="admin",
            base_url="http://localhost",
            transport=carrier(upstream),
            **options,
        )

    return make


@pytest.fixture(scope="session")
def sweep_for():
    """Sweep users without end for some seconds; the failures."""

    async def sweep(fm, seconds):
        failed = []

        async def go():
            async for outcome in fm.sweep(f"user-{number}" for number in range(10**9)):
                failed.extend([outcome] if hasattr(outcome, "error") else [])

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(go(), seconds)
        return failed

    return sweep


class Token:
    """A token that never changes."""

    headers = Headers((("Authorization", "Bearer t"),))


class Somebody:
    """An identity whose token is always there; counts what the engine tells it."""

    def __init__(self):
        self.token = Token()
        self.accepted_tokens = 0

    def current(self, now, wall):
        return self.token

    def obtain(self, call):
        raise AssertionError("there is a token")

    def abandon(self, call):
        """Nothing waits here."""

    def hurry(self, call):
        """Nothing waits here."""

    def accepted(self, token, now):
        self.accepted_tokens += 1

    def reject(self, token, now):
        return False


class Lab:
    """An engine with all its gates, and the function that answers its requests: ``async with Lab(answer)``.

    Without jitter. ``answer`` is called with the path of the request, and may be a coroutine function.
    """

    def __init__(self, answer, *, carrier=MemoryTransport, clock=None, coordination=None, **options):
        limits = {"rate": None, "burst": 1, "concurrency": 64}
        limits |= {name: options.pop(name) for name in list(options) if name in limits}
        clock = clock or SystemClock()
        self.known = KnownSecrets(clock=clock)
        self.transport = carrier(lambda _method, path, _headers, _body: answer(path))
        self.traffic = Traffic(
            self.transport,
            limits=TrafficLimits(**limits),
            policies=TrafficPolicies(**options),
            clock=clock,
            emitter=Emitter(),
            known=self.known,
            coordination=coordination,
            uniform=lambda low, _high: low,
        )
        self.somebody = Somebody()

    async def __aenter__(self):
        await self.transport.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.engine.aclose(drain_seconds=0)
        await self.transport.__aexit__(*error)

    @property
    def engine(self):
        return self.traffic.engine

    @property
    def gates(self):
        return self.traffic._gates

    @property
    def pacer(self):
        return self.traffic._pacer

    def call(self, path="/", *, priority=Priority.INTERACTIVE):
        """A call that reads something plain."""
        request = Request(endpoint=USERS, method="GET", path=path, username="u")
        return AwaitedCall(request, self.somebody, LIMITS, priority)

    def refresh(self, secret_id, *, username="u", client=None, priority=Priority.INTERACTIVE):
        """A call that may refresh a secret."""
        request = get_secret(secret_id, username=username, auth_client_id=client)
        return AwaitedCall(request, self.somebody, LIMITS, priority)

    async def send(self, path="/", *, priority=Priority.INTERACTIVE):
        """Send something plain and wait for its answer."""
        return await self.call(path, priority=priority).answer(self.engine)


LIMITS = Limits(timeout_seconds=30.0, max_body_bytes=1024)


@pytest.fixture(scope="session")
def lab():
    """An engine by itself."""
    return Lab
