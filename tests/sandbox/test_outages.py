"""docs/contract/OBSERVED.md § Second look, "Outages": the setting `outage`, and the pages of the ingress."""

import asyncio
from typing import Any

import pytest

from flowmate_async.sandbox import Outage

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
IAM_DOWN = "Token invalid. Error: Error. Details: Authorization failed"


async def statuses(call: Any, sandbox: Any, token: str) -> dict[str, int]:
    """Return the status of each kind of request."""
    secret = sandbox.world.secrets_of(ALICE)[0].id
    asked = {
        "impersonate": call.send("POST", "/impersonate", sandbox.admin_token, json={"username": ALICE}),
        "users": call.get("/users/", sandbox.admin_token),
        "list": call.get("/secrets/", token),
        "get": call.get(f"/secrets/{secret}", token),
        "unknown": call.get("/nothing", token),
    }
    return {name: (await reply).status for name, reply in asked.items()}


@pytest.mark.observes("Second look: outages", "IAM down", "A client that keeps asking")
async def test_while_iam_is_down_secrets_are_401_at_once(running: Any) -> None:
    """Whatever the token; a missing or broken header is still told apart, and IAM's routes are a 502 page."""
    async with running(outage=Outage.IAM) as (sandbox, call):
        token = sandbox.world.tokens.issue(sandbox.world.user(ALICE)).token
        for sent, message in (
            (token, IAM_DOWN),
            ("wrong", IAM_DOWN),
            (None, "Missing authorization header."),
            ("", "Invalid authorization header"),
        ):
            reply = await call.get("/secrets/", sent)
            assert (reply.status, reply.json()["message"]) == (401, message)
        down = {"impersonate": 502, "users": 502, "list": 401, "get": 401, "unknown": 404}
        assert await statuses(call, sandbox, token) == down
        sandbox.configure(outage=None)
        up = {"impersonate": 200, "users": 200, "list": 200, "get": 200, "unknown": 404}
        assert await statuses(call, sandbox, token) == up


@pytest.mark.observes("Second look: outages", "secret-service down")
async def test_while_the_secret_service_is_down_its_routes_are_a_502_page(running: Any) -> None:
    """IAM goes on; `faults.Refused` refuses connections instead."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        assert (await call.admin("POST", "settings", json={"outage": "secret_service"})).status == 200
        down = {"impersonate": 200, "users": 200, "list": 502, "get": 502, "unknown": 404}
        assert await statuses(call, sandbox, token) == down
        reply = await call.get("/secrets/", token)
        assert reply.headers["content-type"] == "text/html"
        assert "vary" not in reply.headers


@pytest.mark.observes("Second look: outages", "Database down")
async def test_while_the_database_is_down_reads_hang_until_it_is_back(running: Any, until: Any) -> None:
    """Then they are answered, all but a GET by id that has waited for 30 s (here 0.1 s): it is 401."""
    async with running(database_wait_seconds=0.1) as (sandbox, call):
        token = await call.impersonate(ALICE)
        sandbox.configure(outage="database")
        hanging = [
            asyncio.create_task(call.get("/secrets/", token)),
            asyncio.create_task(call.get("/users/", sandbox.admin_token)),
        ]
        async with asyncio.timeout(15):
            reply = await call.get(f"/secrets/{sandbox.world.secrets_of(ALICE)[0].id}", token)
            assert (await call.get("/nothing", token)).status == 404, "a route that needs no database"
        assert (reply.status, reply.body) == (401, b'{"message":""}')
        assert not any(task.done() for task in hanging)
        sandbox.configure(outage=None)
        assert [(await task).status for task in hanging] == [200, 200]


async def test_a_get_that_hung_is_answered_when_the_database_is_back_in_time(
    running: Any, until: Any
) -> None:
    """The wait is 30 s unless an option says otherwise."""
    async with running() as (sandbox, call):
        assert sandbox.options.database_wait_seconds == 30
        token, secret = await call.impersonate(ALICE), sandbox.world.secrets_of(ALICE)[0]
        sandbox.configure(outage="database")
        hanging = asyncio.create_task(call.get(f"/secrets/{secret.id}", token))
        await until(lambda: sandbox.stats().in_flight)
        sandbox.configure(outage=None)
        assert (await hanging).status == 200
