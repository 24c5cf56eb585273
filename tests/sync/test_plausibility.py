"""Whose answer it is, seen by a whole run: pages of other servers, and users that are all "not found"."""

import json

import pytest

from flowmate_async import (
    DeltaPolicy,
    FlowMate,
    Response,
    RetryPolicy,
    SyncOptions,
    UpstreamUnavailableError,
    open_store,
)
from flowmate_async.stores.base import RunTotals
from flowmate_async.sync.plausibility import implausible
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio
SECRET = {"_id": "66761aedcf268b4d68470e27", "type": "SIMPLE", "value": {"username": "u", "passphrase": "p"}}
GONE = json_response(b'{"message":"FORBIDDEN"}', 404)
PAGES = {
    "an ingress": Response(404, {"content-type": "text/plain; charset=utf-8"}, b"default backend - 404"),
    "a firewall": Response(
        403, {"content-type": "text/html"}, b"<html><title>Just a moment...</title></html>"
    ),
    "a login page": Response(401, {"content-type": "text/html"}, b"<html>Sign in</html>"),
    "a gateway's JSON": json_response(b'{"error":"not found"}', 404),
}


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


def client(special):
    """A client of a FlowMate with one secret per user, unless ``special`` answers for a username or path."""

    def answer(method, path, headers, body):
        name = json.loads(body)["username"] if body else None
        other = special(name, path)
        if other is not None:
            return other
        if name:
            return json_response(json.dumps({"token": f"token-of-{name}"}).encode())
        if path.startswith("/secrets/?"):
            item = {"_id": SECRET["_id"], "type": "SIMPLE"}
            return json_response(json.dumps({"data": [item], "meta": {"total": 1}}).encode())
        return json_response(json.dumps({"data": SECRET}).encode())

    retry = RetryPolicy(base_seconds=0.01)
    return FlowMate(
        admin_token="a",
        base_url="http://localhost",
        transport=MemoryTransport(answer),
        rate=None,
        retry=retry,
    )


async def stored(store):
    return [item.username async for item in store.items()]


USERS = [f"u{number:03}" for number in range(300)]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("where", ["/impersonate", "/secrets/?", "/secrets/6"])
async def test_a_page_of_another_server_ends_the_run_and_removes_nothing(page, where):
    """It is never "no such user" or "not yours": the run ends as with an outage and can be resumed."""
    delete = SyncOptions(removed="delete", max_removed_share=1.0, delta=DeltaPolicy(full=True))
    async with open_store("memory:") as store:
        async with client(lambda name, path: None) as fm:
            await fm.sync(store, USERS)
        async with client(lambda name, path: page if path.startswith(where) else None) as fm:
            with pytest.raises(UpstreamUnavailableError):
                await fm.sync(store, USERS, options=delete)
        assert (await store.last_run()).finished_at is None
        assert await stored(store) == USERS
        async with client(lambda name, path: None) as fm:
            report = await fm.sync(store, USERS, options=delete)
        assert (report.resumed, report.complete, report.synced, report.removed) == (True, True, 300, 0)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
async def test_one_page_in_between_costs_nobody_anything(page):
    seen = set()

    def once(name, path):
        if path in seen:
            return None
        seen.add(path)
        return page

    async with open_store("memory:") as store, client(once) as fm:
        report = await fm.sync(store, ["ann"])
    assert (report.complete, report.synced, report.errors) == (True, 1, {})


@pytest.mark.parametrize(("gone", "complete"), [(269, True), (270, False), (300, False)])
async def test_a_run_in_which_nearly_all_users_are_gone_is_not_complete(gone, complete):
    async with open_store("memory:") as store:
        lost = set(USERS[:gone])
        async with client(lambda name, path: GONE if name in lost else None) as fm:
            if complete:
                assert (await fm.sync(store, USERS)).complete
                return
            with pytest.raises(UpstreamUnavailableError, match=rf'{gone} of 300 users were "not found"'):
                await fm.sync(store, USERS)
        async with client(lambda name, path: None) as fm:
            report = await fm.sync(store, USERS)
        assert (report.resumed, report.complete, report.synced) == (True, True, 300)


@pytest.mark.parametrize(
    ("synced", "gone", "others", "believed"),
    [
        (0, 9, 0, True),
        (0, 10, 0, False),
        (1, 9, 0, True),
        (1, 10, 0, False),
        (2, 10, 0, True),
        (0, 10, 2, True),
        (100, 899, 0, True),
        (100, 900, 0, False),
        (0, 0, 0, True),
    ],
)
def test_ten_users_and_nine_in_ten_are_too_many(synced, gone, others, believed):
    """Earlier parts of a resumed run count as well, so its totals are judged."""
    errors = {"user_not_found": gone, "refresh_failed": others}
    totals = RunTotals(synced=synced, failed=gone + others, errors=errors)
    assert (implausible(totals) is None) == believed
