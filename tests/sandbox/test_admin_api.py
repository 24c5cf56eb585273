"""The sandbox's own routes, its counters and its limits."""

import asyncio
import json
from typing import Any

import pytest

from flowmate_async.sandbox.admission import TokenBucket

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"


async def test_stats_count_what_came_in(running: Any) -> None:
    """By route template and status, by username, by secret; over HTTP the same as in process."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        await call.impersonate(ALICE)
        first, second = sandbox.world.secrets_of(ALICE)[:2]
        for secret in (first, first, second):
            await call.get(f"/secrets/{secret.id}", token)
        await call.get(f"/secrets/{first.id}", "stranger")
        await call.get("/secrets/?page[number]=2", token)
        await call.get("/users/", sandbox.admin_token)
        await call.get("/users/none", sandbox.admin_token)
        await call.get("/nothing")
        stats = sandbox.stats()
        assert stats.requests == {
            "POST /impersonate": {200: 2},
            "GET /secrets/{id}": {200: 3, 401: 1},
            "GET /secrets/": {200: 1},
            "GET /users/": {200: 1},
            "GET /users/{id}": {500: 1},
            "unknown": {404: 1},
        }
        assert stats.total_requests() == 10
        assert (stats.impersonations, stats.impersonations_by_username) == (2, {ALICE: 2})
        assert stats.secret_gets == {first.id: 2, second.id: 1}
        assert stats.lists == {ALICE: 1}
        assert stats.max_in_flight == 1
        told = (await call.admin("GET", "stats")).json()
        assert told["requests"]["GET /secrets/{id}"] == {"200": 3, "401": 1}
        assert told["secret_gets"] == stats.secret_gets


async def test_stats_can_be_reset_and_the_desk_is_never_counted(running: Any) -> None:
    """A copy that was taken before does not change."""
    async with running() as (sandbox, call):
        await call.impersonate(ALICE)
        before = sandbox.stats()
        assert (await call.admin("POST", "reset-stats")).status == 200
        assert sandbox.stats().requests == {}
        assert before.impersonations == 1
        await call.admin("GET", "stats")
        assert sandbox.stats().total_requests() == 0


async def test_the_most_requests_in_flight_are_seen(running: Any) -> None:
    """The latency holds them all at once."""
    async with running(latency_seconds=0.1) as (sandbox, call):
        await asyncio.gather(*(call.get("/secrets/") for _ in range(7)))
        assert sandbox.stats().max_in_flight == 7
        assert sandbox.stats().in_flight == 0


@pytest.mark.parametrize("errand", ["stats", "settings", "truth", "nothing"])
async def test_the_desk_needs_the_admin_token(running: Any, errand: str) -> None:
    """Neither a user's token nor none will do."""
    async with running() as (_, call):
        user = await call.impersonate(ALICE)
        for token in (None, "stranger", user):
            assert (await call.get(f"/_sandbox/{errand}", token)).status == 401


async def test_settings_change_what_they_name_and_nothing_else(running: Any) -> None:
    """A partial update; `null` takes a limit away."""
    async with running(latency_seconds=0.001) as (sandbox, call):
        reply = await call.admin("POST", "settings", json={"rate": 5, "burst": 3})
        assert reply.json()["rate"] == 5
        assert (sandbox.settings.latency_seconds, sandbox.settings.burst) == (0.001, 3)
        await call.admin("POST", "settings", json={"rate": None, "raw_read": False})
        assert (await call.admin("GET", "settings")).json() == {
            "latency_seconds": 0.001,
            "rate": None,
            "burst": 3,
            "raw_read": False,
            "provider_seconds": 0.0,
            "provider_fault": None,
            "client_faults": {},
            "outage": None,
            "faults": {"seed": 0, "rules": []},
        }


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0},
        {"rate": -1},
        {"burst": 0},
        {"latency_seconds": -1},
        {"provider_fault": "x"},
        {"unknown": 1},
        [],
    ],
)
async def test_impossible_settings_are_refused(running: Any, change: Any) -> None:
    """400 and a reason; everything stays as it was."""
    async with running() as (sandbox, call):
        before = sandbox.settings
        reply = await call.admin("POST", "settings", json=change)
        assert (reply.status, sandbox.settings) == (400, before)
        assert reply.json()["message"]


async def test_above_the_limit_the_answer_is_429(running: Any) -> None:
    """`burst` at once, then 429 with whole seconds to wait; the desk is not limited."""
    async with running(rate=0.01, burst=3) as (sandbox, call):
        replies = [await call.get("/secrets/") for _ in range(5)]
        assert [reply.status for reply in replies] == [401, 401, 401, 429, 429]
        refused = replies[-1]
        assert refused.headers["content-type"] == "application/json; charset=utf-8"
        assert 90 < int(refused.headers["retry-after"]) <= 100
        assert refused.json()["message"]
        assert (await call.admin("GET", "stats")).json()["throttled"] == 2
        sandbox.configure(rate=None)
        assert (await call.get("/secrets/")).status == 401


async def test_the_bucket_is_strict() -> None:
    """Over any window no more than `burst` + `rate` times its length, however it is approached."""
    now = 0.0
    bucket = TokenBucket(rate=10, burst=5, clock=lambda: now)
    taken = []
    for step in range(4000):
        now = step / 1000
        if bucket.take() == 0:
            taken.append(now)
    assert taken[:5] == [0.0, 0.001, 0.002, 0.003, 0.004]
    assert len(taken) == pytest.approx(5 + 10 * 4, abs=1)
    for start, at in enumerate(taken):
        in_window = [later for later in taken[start:] if later - at <= 1]
        assert len(in_window) <= 5 + 10


async def test_an_idle_bucket_holds_no_more_than_its_burst() -> None:
    """An hour of silence does not buy more than `burst` at once."""
    now = 0.0
    bucket = TokenBucket(rate=10, burst=5, clock=lambda: now)
    now = 3600.0
    assert [bucket.take() for _ in range(7)] == [0, 0, 0, 0, 0, 1, 1]


async def test_truth_is_streamed_as_lines(running: Any) -> None:
    """One JSON line a secret, as it is now: a refresh changes it."""
    async with running(users=30) as (sandbox, call):
        reply = await call.admin("GET", "truth")
        rows = [json.loads(line) for line in reply.body.splitlines()]
        expected = list(sandbox.world.truth())
        assert len(rows) == len(expected) > 100
        assert rows[0].keys() == {"username", "secret_id", "type", "value"}
        due = next(row for row in rows if row["type"] == "SESSION_AUTH" and not row["value"].get("expires"))
        fetched = await call.get(f"/secrets/{due['secret_id']}", await call.impersonate(due["username"]))
        later = (await call.admin("GET", "truth")).body.splitlines()
        changed = [json.loads(line) for line in later if line not in reply.body.splitlines()]
        assert len(changed) == 1
        token = fetched.json()["data"]["value"]["accessToken"]
        assert changed[0]["value"]["accessToken"] == token


async def test_errands_the_desk_does_not_know(running: Any) -> None:
    """404, and only with the right method."""
    async with running() as (_, call):
        assert (await call.admin("GET", "nothing")).status == 404
        assert (await call.admin("POST", "stats")).status == 404
