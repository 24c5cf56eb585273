"""Every secret, exactly once: pages, duplicates, shifts, and totals that do not agree."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from flowmate_async import FlowMate, IncompleteListingError, UserFailed
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """Real time: the sandbox is a real server."""
    return "asyncio"


class Pages:
    """An upstream with one user's listing; ``before_page`` may change it, ``total`` may lie."""

    def __init__(self, count, *, before_page=lambda pages, number: None, total=len, meta=True):
        self.ids = [f"s{number}" for number in range(count)]
        self.before_page, self.total, self.meta = before_page, total, meta
        self.asked = []

    def __call__(self, method, path, headers, body):
        if method == "POST":
            return json_response(b'{"token":"t"}')
        query = parse_qs(urlsplit(path).query)
        size, number = int(query["page[size]"][0]), int(query["page[number]"][0])
        self.asked.append((size, number))
        self.before_page(self, len(self.asked))
        data = [{"_id": found, "type": "SIMPLE"} for found in self.ids[(number - 1) * size : number * size]]
        answer = {"data": data}
        if self.meta:
            answer["meta"] = {"page": number, "perPage": size, "total": self.total(self.ids), "totalPages": 0}
        return json_response(json.dumps(answer).encode())


async def listed(pages, page_size=10):
    transport = MemoryTransport(pages)
    async with FlowMate(
        admin_token="a", base_url="http://localhost", transport=transport, rate=None, page_size=page_size
    ) as fm:
        return [summary.id for summary in await fm.list_secrets("u")], fm.stats()


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 77])
async def test_every_page_is_read_and_no_more(count):
    pages = Pages(count)
    found, stats = await listed(pages)
    assert found == pages.ids
    assert len(pages.asked) == max(1, -(-count // 10))
    assert stats.relisted == 0


async def test_an_item_that_shifted_over_a_page_border_is_not_missed():
    """A delete between two pages moves the rest forward; the count shows it, and one big page fixes it."""

    def delete_the_first(pages, call):
        if call == 2:
            del pages.ids[0]

    pages = Pages(25, before_page=delete_the_first)
    found, stats = await listed(pages)
    assert sorted(found) == sorted(pages.ids)
    assert stats.relisted == 1
    assert pages.asked[-1][0] >= 24, "the second time everything fits one page"


async def test_an_item_seen_twice_is_listed_once():
    """An insert between two pages moves the last item of the first page onto the second."""

    def insert_at_the_front(pages, call):
        if call == 2:
            pages.ids.insert(0, "new")

    found, stats = await listed(Pages(25, before_page=insert_at_the_front))
    assert len(found) == len(set(found)) == 26
    assert "new" in found
    assert stats.relisted == 1


@pytest.mark.parametrize(
    "lie", [lambda ids: len(ids) + 1, lambda ids: len(ids) - 1, lambda ids: -5, lambda ids: 10**15]
)
async def test_a_listing_that_never_agrees_is_no_listing(lie):
    """Bounded, and an error that names the user; nothing of theirs may be called removed."""
    pages = Pages(25, total=lie)
    with pytest.raises(IncompleteListingError) as refused:
        await listed(pages)
    assert refused.value.username == "u"
    assert len(pages.asked) <= 15


async def test_a_sweep_reports_such_a_user_as_failed():
    transport = MemoryTransport(Pages(5, total=lambda ids: 6))
    async with FlowMate(admin_token="a", base_url="http://localhost", transport=transport, rate=None) as fm:
        (outcome,) = [outcome async for outcome in fm.sweep(["u"])]
    assert isinstance(outcome, UserFailed)
    assert isinstance(outcome.error, IncompleteListingError)
    assert outcome.secrets == ()


async def test_without_meta_the_one_page_is_all_there_is_and_not_called_proven():
    transport = MemoryTransport(Pages(0, meta=False))
    async with FlowMate(admin_token="a", base_url="http://localhost", transport=transport, rate=None) as fm:
        (outcome,) = [outcome async for outcome in fm.sweep(["u"])]
    assert not outcome.listing_proven
    pages = Pages(5, meta=False)
    assert (await listed(pages))[0] == pages.ids
    assert len(pages.asked) == 1


async def test_the_twins_longest_listing_is_read_in_small_pages(sandbox):
    """The first user has more than 30 secrets; one page of the default size would lose some."""
    username = "user-000000@tenant.example"
    truth = {secret.id for secret in sandbox.world.secrets_of(username)}
    assert len(truth) > 30
    async with FlowMate(admin_token=sandbox.admin_token, base_url=sandbox.url, rate=None, page_size=10) as fm:
        found = [summary.id for summary in await fm.list_secrets(username)]
    assert len(found) == len(truth)
    assert set(found) == truth
    assert sandbox.stats().lists[username] == -(-len(truth) // 10)
