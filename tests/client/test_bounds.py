"""A hostile or broken upstream can neither make a listing go on for ever nor take the memory."""

import asyncio
import json
import tracemalloc

import msgspec
import pytest

from flowmate_async import (
    ApiLimits,
    ConfigurationError,
    FlowMate,
    FlowMateError,
    IncompleteListingError,
    ProtocolError,
    Response,
)
from flowmate_async.contract import answers
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.testing.scripted_server import ScriptedServer, http

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class Listing:
    """A listing that always has a further page; ``total`` is what each page claims."""

    def __init__(self, *, per_page=100, total=None, seconds=0.0):
        self.per_page, self.total, self.seconds = per_page, total, seconds
        self.pages = 0

    async def __call__(self, method, path, headers, body):
        if path == "/impersonate":
            return json_response(b'{"token":"t"}')
        await asyncio.sleep(self.seconds)
        first = self.pages * self.per_page
        self.pages += 1
        items = [{"_id": f"{first + n:024x}", "type": "SIMPLE"} for n in range(self.per_page)]
        total = first + self.per_page + 1 if self.total is None else self.total
        return json_response(json.dumps({"data": items, "meta": {"total": total}}).encode())


async def refusal(listing, **limits):
    transport = MemoryTransport(listing)
    async with FlowMate(
        admin_token="a",
        base_url="http://localhost",
        transport=transport,
        rate=None,
        limits=ApiLimits(**limits),
    ) as fm:
        with pytest.raises(IncompleteListingError) as refused:
            await fm.list_secrets("ann")
    assert refused.value.username == "ann"
    return refused.value


@pytest.mark.parametrize("total", [10**9, 2**31, 10**17, "4000000000", 1001])
async def test_a_total_beyond_the_limit_is_refused_at_the_first_page(total):
    listing = Listing(total=total)
    error = await refusal(listing, max_listing_secrets=1000)
    assert listing.pages == 1
    assert "more than the 1000 allowed" in str(error)
    assert "ApiLimits.max_listing_secrets" in error.advice


async def test_a_total_that_grows_with_every_page_ends_at_the_limit_of_secrets():
    listing = Listing()
    error = await refusal(listing, max_listing_secrets=1000)
    assert listing.pages == 10
    assert "max_listing_secrets" in error.advice


async def test_one_new_secret_per_page_ends_at_the_limit_of_pages():
    """All attempts at a listing share one limit."""
    listing = Listing(per_page=1, total=20)
    error = await refusal(listing, max_listing_pages=15)
    assert listing.pages == 16
    assert "max_listing_pages" in error.advice


async def test_slow_pages_end_at_the_limit_of_seconds():
    listing = Listing(seconds=10.0)
    error = await refusal(listing, max_listing_seconds=55.0)
    assert listing.pages == 6
    assert "60 s, more than the 55 allowed" in str(error)
    assert "max_listing_seconds" in error.advice


async def test_a_genuine_listing_at_the_limits_is_read():
    items = [{"_id": f"{n:024x}", "type": "SIMPLE"} for n in range(200)]

    def answer(method, path, headers, body):
        if path == "/impersonate":
            return json_response(b'{"token":"t"}')
        page = items[:100] if path.endswith("=1") else items[100:]
        return json_response(json.dumps({"data": page, "meta": {"total": 200}}).encode())

    limits = ApiLimits(max_listing_secrets=200, max_listing_pages=2)
    async with FlowMate(
        admin_token="a",
        base_url="http://localhost",
        transport=MemoryTransport(answer),
        rate=None,
        limits=limits,
    ) as fm:
        assert len(await fm.list_secrets("ann")) == 200


@pytest.mark.parametrize("name", ApiLimits.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, None, "5", True, float("nan")])
def test_a_limit_that_cannot_work_is_refused(name, value):
    limits = msgspec.structs.replace(ApiLimits(), **{name: value})
    with pytest.raises(ConfigurationError, match=f"ApiLimits.{name} must be a number above 0"):
        FlowMate(admin_token="a", base_url="http://localhost", limits=limits)


@pytest.mark.parametrize("transport", ["aiohttp", "wire"])
@pytest.mark.parametrize("over", [0, 1])
class TestSecretsHaveALimitOfTheirOwn:
    @pytest.fixture
    def anyio_backend(self):
        return "asyncio"

    async def test_a_secret_beyond_it_is_refused(self, transport, over):
        bare = msgspec.json.encode({"data": {"_id": "s", "type": "MIXED", "value": {"payload": ""}}})
        fill = b"x" * (256 * 1024 + over - len(bare))
        body = bare.replace(b'"payload":"', b'"payload":"' + fill)
        async with (
            ScriptedServer(http(b'{"token":"t"}'), http(body)) as server,
            FlowMate(admin_token="a", base_url=server.url, rate=None, transport=transport) as fm,
        ):
            if not over:
                assert len((await fm.get_secret("ann", "s")).value.payload) == len(fill)
                return
            with pytest.raises(FlowMateError, match=r"larger than allowed.*max_secret_bytes"):
                await fm.get_secret("ann", "s")


BOMBS = {
    "objects": b"{},",
    "arrays": b"[],",
    "nested objects": b'{"a":{}},',
    "objects with a field": b'{"_id":""},',
    "arrays in decoration": b'{"roles":[[],[],[],[],[],[],[],[],[],[],[]]},',
    "numbers in decoration": b'{"roles":[1.5,1.5,1.5,1.5,1.5,1.5,1.5,1.5]},',
    "texts in decoration": b'{"roles":["ab","cd","ef","gh","ij","kl"]},',
    "blanks between": b"{ }  ,",
}


@pytest.mark.parametrize("item", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize(
    "envelope", [b"[%s]", b'{"data":[%s],"meta":{"total":1}}', b'{"data":[],"meta":{"x":[%s]}}']
)
@pytest.mark.parametrize("read", [answers.read_users, answers.read_page])
def test_memory_stays_a_small_multiple_of_the_bytes(item, envelope, read):
    items = item * (1_000_000 // len(item))
    body = envelope % items[: items.rindex(b",")]
    response = Response(200, {"content-type": "application/json"}, body)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            read(response)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * len(body)


@pytest.mark.parametrize(
    "account",
    [
        {"_id": "6b0d67b776bd214a0a383115", "username": "u", "status": "ACTIVE", "tenant": "t", "roles": []},
        {
            "username": "user6@example.com", "firstname": "User6", "lastname": "Test", "status": "ACTIVE",
            "confirmed": True, "tenant": "6b0d67b676bd214a0a3830bb", "roles": [],
            "permissions": ["secrets.secret.readRaw"], "_id": "6b0d67b776bd214a0a383115",
            "createdAt": "2026-11-30T12:10:31.810Z", "updatedAt": "2026-11-30T12:10:31.810Z", "__v": 0,
        },
    ],
)  # fmt: skip
def test_a_large_genuine_list_is_read(account):
    body = msgspec.json.encode([account] * 3000)
    assert len(body) > 64 * 1024
    assert len(answers.read_users(Response(200, {}, body))) == 3000


@pytest.mark.parametrize(("allowed", "read"), [(3, True), (2, False)])
def test_the_user_list_has_a_maximum(allowed, read):
    response = Response(200, {}, b'[{"username":"a"},{"username":"b"},{"username":"c"}]')
    if read:
        assert len(answers.read_users(response, max_users=allowed)) == 3
        return
    with pytest.raises(ProtocolError, match=r"3 users, more than the 2 allowed.*max_users"):
        answers.read_users(response, max_users=allowed)
