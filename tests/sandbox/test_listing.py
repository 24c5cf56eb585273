"""docs/contract/OBSERVED.md § Listing."""

from typing import Any

import pytest

from flowmate_async.sandbox import Owner
from flowmate_async.sandbox.pagination import Page, page_of

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"
CREDENTIALS = {
    "accessToken",
    "accessTokenSecret",
    "refreshToken",
    "inputFields",
    "key",
    "passphrase",
    "payload",
    "passkey",
}


async def listed(call: Any, token: str, query: str = "") -> Any:
    reply = await call.get(f"/secrets/{query}", token)
    assert reply.status == 200
    return reply.json()


def ids(listing: Any) -> list[str]:
    return [item["_id"] for item in listing["data"]]


async def test_a_list_is_cut_into_pages_of_thirty(running: Any) -> None:
    """30 a page by default; all pages together are every secret once, in natural order."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        first, second = await listed(call, token), await listed(call, token, "?page[number]=2")
        assert first["meta"] == {"page": 1, "perPage": 30, "total": 40, "totalPages": 2}
        assert second["meta"] == {"page": 2, "perPage": 30, "total": 40, "totalPages": 2}
        natural = [secret.id for secret in sandbox.world.secrets_of(ALICE)]
        assert ids(first) + ids(second) == natural


@pytest.mark.observes("Listing", "Paginated, 30 a page")
async def test_brackets_may_be_literal_or_encoded(running: Any) -> None:
    """Both spellings of `page[size]` mean the same."""
    async with running() as (_, call):
        token = await call.impersonate(ALICE)
        literal = await listed(call, token, "?page[size]=7&page[number]=3")
        encoded = await listed(call, token, "?page%5Bsize%5D=7&page%5Bnumber%5D=3")
        assert literal == encoded
        assert (await listed(call, token))["meta"] == {"page": 1, "perPage": 30, "total": 40, "totalPages": 2}
        assert literal["meta"] == {"page": 3, "perPage": 7, "total": 40, "totalPages": 6}


@pytest.mark.observes("Listing", "Nonsense sizes")
@pytest.mark.parametrize("size", ["", "0", "abc", "-", "%00", "null"])
async def test_a_nonsense_size_falls_back_to_thirty(running: Any, size: str) -> None:
    """Invalid parameters are not an error."""
    async with running() as (_, call):
        token = await call.impersonate(ALICE)
        listing = await listed(call, token, f"?page[size]={size}")
        assert (listing["meta"]["perPage"], len(listing["data"])) == (30, 30)
        assert len((await listed(call, token, "?page[size]=-1"))["data"]) == 1


@pytest.mark.observes("Listing", "No maximum size", "A page past the end")
async def test_there_is_no_maximum_size_and_no_last_page(running: Any) -> None:
    """1 000 000 is honoured; a page past the end is empty; size -1 gives one item."""
    async with running() as (_, call):
        token = await call.impersonate(ALICE)
        everything = await listed(call, token, "?page[size]=1000000")
        assert len(everything["data"]) == 40
        past = await listed(call, token, "?page[number]=99")
        assert past == {
            "data": [],
            "meta": {"page": 99, "perPage": 30, "total": 40, "totalPages": 2},
        }
        one = await listed(call, token, "?page[size]=-1")
        assert ids(one) == ids(everything)[:1]
        assert one["meta"] == {"page": 1, "perPage": -1, "total": 40, "totalPages": 1}


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("", Page(number=1, size=30)),
        ("page[size]=12abc&page[number]=%202", Page(number=2, size=12)),
        ("page[size]=5&page[size]=6", Page(number=1, size=5)),
        ("page[number]=0", Page(number=1, size=30)),
        ("size=5&page=2", Page(number=1, size=30)),
    ],
)
async def test_a_page_is_read_like_the_services_read_it(query: str, page: Page) -> None:
    """Leading digits count, zero is nothing, other names are ignored."""
    assert page_of(query) == page


@pytest.mark.observes("Listing", "The list carries no credentials", "`value` is absent", "No timestamps")
async def test_a_list_carries_no_credentials_and_no_times(running: Any) -> None:
    """`value` is absent where nothing of it may be listed."""
    async with running() as (_, call):
        token = await call.impersonate(ALICE)
        for item in (await listed(call, token, "?page[size]=100"))["data"]:
            value = item.get("value", {})
            assert not CREDENTIALS & value.keys()
            assert value.keys() <= {"authClientId", "scope", "expires", "externalId"}
            assert not {"createdAt", "updatedAt", "lockedAt"} & item.keys()
            assert item["__t"] == f"S_{item['type']}"
            if item["type"] in {"SIMPLE", "API_KEY", "MIXED"}:
                assert "value" not in item
            if item["type"] in {"OA2_AUTHORIZATION_CODE", "SESSION_AUTH"}:
                assert "authClientId" in value


async def test_natural_order_is_stable_and_sorted_by_nothing(running: Any) -> None:
    """Neither ids nor names nor types come in order, yet always in the same one."""
    async with running() as (_, call):
        token = await call.impersonate(ALICE)
        listing = await listed(call, token, "?page[size]=100")
        assert listing == await listed(call, token, "?page[size]=100")
        for field in ("_id", "name", "type"):
            order = [item[field] for item in listing["data"]]
            assert order not in (sorted(order), sorted(order, reverse=True))


@pytest.mark.observes("Listing", "Unsorted (natural order)")
async def test_a_deletion_between_pages_shifts_items(running: Any) -> None:
    """An item is missed when an earlier one goes: only `meta.total` tells."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        first = await listed(call, token)
        sandbox.world.remove_secret(ids(first)[0])
        second = await listed(call, token, "?page[number]=2")
        assert len({*ids(first), *ids(second)}) == 39
        assert second["meta"]["total"] == 39
        natural = [secret.id for secret in sandbox.world.secrets_of(ALICE)]
        assert natural[29] not in ids(first) + ids(second)


@pytest.mark.observes("Listing", "A secret owned through")
async def test_a_tenants_secret_is_not_listed_but_can_be_fetched(running: Any) -> None:
    """Owned through the TENANT: absent from the list, there by id, for users of the tenant only."""
    async with running() as (sandbox, call):
        token = await call.impersonate(ALICE)
        shared = sandbox.world.tenant_secrets()
        assert shared
        listing = await listed(call, token, "?page[size]=100")
        service = await call.impersonate("svc-secrets@tenant.example")
        for secret in shared:
            assert secret.id not in ids(listing)
            assert (await call.get(f"/secrets/{secret.id}", token)).status == 200
            assert (await call.get(f"/secrets/{secret.id}", service)).status == 403


async def test_a_secret_with_two_owners_is_in_both_lists(running: Any) -> None:
    """Ownership decides, not creation."""
    async with running() as (sandbox, call):
        bob = "user-000001@tenant.example"
        owners = tuple(Owner(sandbox.world.user(name).id) for name in (ALICE, bob))
        secret = sandbox.world.add_secret(
            ALICE, type="SIMPLE", value={"username": "u", "passphrase": "p"}, owners=owners
        )
        for name in (ALICE, bob):
            listing = await listed(call, await call.impersonate(name), "?page[size]=100")
            assert ids(listing)[-1] == secret.id
        sandbox.world.remove_secret(secret.id)
        assert (await call.get(f"/secrets/{secret.id}", await call.impersonate(bob))).status == 404
