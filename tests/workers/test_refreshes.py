"""Refreshes of ``flowmate sync --workers``: slots go to the worker that needs them, within one limit.

The upstream runs in the test's own loop and counts; the workers are processes.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter

import pytest
from aiohttp import web

from tests.cli.conftest import FLOWMATE

from .conftest import KEY, children_of, needs_proc

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120), needs_proc]

PAST, FUTURE = "2020-01-01T00:00:00.000Z", "2099-01-01T00:00:00.000Z"


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Upstream:
    """Users with OAuth secrets that are due, all of one client; counts refreshes at the provider."""

    def __init__(self, users, secrets=1, *, seconds, shared=0):
        self.users = [f"user-{number}" for number in range(users)]
        self.seconds = seconds
        self.held = {
            user: [f"{index:012x}{number:012x}" for number in range(secrets)]
            for index, user in enumerate(self.users)
        }
        for number in range(shared):
            for user in self.users:
                self.held[user].append(f"{number:012x}{'f' * 12}")
        self.inside, self.most_inside, self.refreshes, self.overlaps = 0, 0, Counter(), 0
        self.under_way = Counter()
        self.spans = []
        self.begun = asyncio.Event()
        self.on_wire = self.most_on_wire = 0

    async def impersonate(self, request):
        return web.json_response({"token": (await request.json())["username"], "id": "4" * 24})

    async def accounts(self, _request):
        fields = {"status": "ACTIVE", "tenant": "t", "roles": [], "permissions": []}
        data = [{"_id": f"{n:024x}", "username": user, **fields} for n, user in enumerate(self.users)]
        return web.json_response({"data": data, "meta": {"total": len(data)}})

    async def listing(self, request):
        user = request.headers["Authorization"].removeprefix("Bearer ")
        data = [self.shown(secret_id) for secret_id in self.held[user]]
        for one in data:
            del one["value"]["accessToken"]
        return web.json_response({"data": data, "meta": {"total": len(data)}})

    async def secret(self, request):
        secret_id = request.match_info["id"]
        loop = asyncio.get_running_loop()
        if not self.refreshes[secret_id]:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.under_way[secret_id] += 1
            self.overlaps += self.under_way[secret_id] > 1
            self.begun.set()
            began = loop.time()
            try:
                await asyncio.sleep(self.seconds)
            finally:
                self.inside -= 1
                self.under_way[secret_id] -= 1
            self.refreshes[secret_id] += 1
            self.spans.append((began, loop.time()))
        return web.json_response({"data": self.shown(secret_id)})

    def shown(self, secret_id):
        expires = FUTURE if self.refreshes[secret_id] else PAST
        value = {"authClientId": "c" * 24, "accessToken": f"access-token-of-{secret_id}", "expires": expires}
        return {"_id": secret_id, "name": "n", "owners": [], "type": "OA2_AUTHORIZATION_CODE", "value": value}

    @property
    def mean_inside(self):
        """How many refreshes were under way on average, from the first to the last."""
        began, ended = min(start for start, _ in self.spans), max(end for _, end in self.spans)
        return sum(end - start for start, end in self.spans) / (ended - began)

    @web.middleware
    async def counted(self, request, handler):
        self.on_wire += 1
        self.most_on_wire = max(self.most_on_wire, self.on_wire)
        try:
            return await handler(request)
        finally:
            self.on_wire -= 1

    @contextlib.asynccontextmanager
    async def running(self):
        app = web.Application(middlewares=[self.counted])
        app.router.add_post("/impersonate", self.impersonate)
        app.router.add_get("/users/", self.accounts)
        app.router.add_get("/secrets/", self.listing)
        app.router.add_get("/secrets/{id}", self.secret)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def syncing(upstream, store, *flags, workers):
    environment = {name: text for name, text in os.environ.items() if not name.startswith("FLOWMATE_")}
    environment |= {
        "FLOWMATE_BASE_URL": upstream.url,
        "FLOWMATE_ADMIN_TOKEN": "admin",
        "FLOWMATE_RATE": "0",
        "FLOWMATE_STORE": f"sqlite:///{store}",
        "FLOWMATE_STORE_KEY": KEY.encoded(),
    }
    many = ["--workers", str(workers)] if workers > 1 else []
    process = await asyncio.create_subprocess_exec(
        *FLOWMATE,
        "sync",
        "--all-users",
        "--json",
        *many,
        *flags,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def synced(upstream, store, *flags, workers):
    async with upstream.running(), syncing(upstream, store, *flags, workers=workers) as process:
        out, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(out)


@pytest.mark.parametrize("secrets", [pytest.param(1, marks=pytest.mark.long), 16])
async def test_three_workers_refresh_as_many_at_once_as_one(tmp_path, secrets):
    """The limit is the provider's. All of it is used, and it is not exceeded by all workers together."""
    means = {}
    for workers in (1, 3):
        upstream = Upstream(160 // secrets, secrets, seconds=0.15)
        report = await synced(upstream, tmp_path / f"{workers}.db", workers=workers)
        assert (report["synced"], len(upstream.refreshes)) == (160 // secrets, 160)
        assert upstream.most_inside == 8
        means[workers] = upstream.mean_inside
    assert means[3] >= 0.8 * means[1]


async def test_owners_in_several_workers_take_turns(tmp_path):
    upstream = Upstream(60, 0, seconds=0.1, shared=4)
    report = await synced(upstream, tmp_path / "store.db", workers=3)
    assert (report["synced"], report["secrets"]) == (60, 240)
    assert (upstream.overlaps, set(upstream.refreshes.values())) == (0, {1})


async def test_all_workers_together_keep_to_the_concurrency(tmp_path):
    """It cannot be divided evenly, and one worker has most of the users."""
    upstream = Upstream(60, 2, seconds=0.05)
    report = await synced(upstream, tmp_path / "store.db", "--concurrency", "7", workers=3)
    assert report["synced"] == 60
    assert 3 <= upstream.most_on_wire <= 7


async def test_the_slots_of_a_killed_worker_come_back_after_upstreams_lock(tmp_path):
    """It dies with all of them; upstream may still be refreshing for it, so they come back later."""
    upstream = Upstream(40, seconds=0.5)
    async with upstream.running(), syncing(upstream, tmp_path / "store.db", workers=2) as process:
        await upstream.begun.wait()
        for pid in children_of(process.pid)[:1]:
            os.kill(pid, signal.SIGKILL)
        out, _ = await process.communicate()
    report = json.loads(out)
    assert (process.returncode, report["complete"], report["synced"]) == (0, True, 40)
    assert upstream.most_inside <= 8
