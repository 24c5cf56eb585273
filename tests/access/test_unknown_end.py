"""A provider that sends no lifetime: a fresh token whose end is unknown (OBSERVED.md § Second look)."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from flowmate_async import CredentialExpiredError, FreshnessPolicy, decode_secret
from flowmate_async.contract.freshness import timeline

pytestmark = pytest.mark.anyio
SID = "66761aedcf268b4d68470e27"
NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


def iso(moment):
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_lifetime(world, kit, *, seconds=0.0, expires=iso, field="updatedAt"):
    """Let every GET refresh: a new token, whose ``expires`` is the moment of the refresh."""
    logins = []

    async def answer():
        logins.append(1)
        await asyncio.sleep(seconds)
        now = datetime.fromtimestamp(world.clock.wall(), UTC)
        secret = {
            "_id": SID, "type": kit.OAUTH, "createdAt": "2026-01-01T00:00:00.000Z",
            "value": {"accessToken": f"token-{len(logins)}", "expires": expires(now)},
            field: iso(now + timedelta(milliseconds=80)),
        }  # fmt: skip
        return kit.json_response(msgspec.json.encode({"data": secret}))

    world.upstream._get = lambda bearer, secret_id: answer()
    return logins


@pytest.mark.parametrize("field", ["updatedAt", "lockedAt", "createdAt"])
async def test_it_is_served_for_ten_minutes_and_refreshed_once(world, kit, field):
    logins = without_lifetime(world, kit, field=field)
    for token in ("token-1", "token-2", "token-3"):
        for _ in range(100):
            assert await world.token("ann", SID, 0) == token
            await asyncio.sleep(5.9)
        await asyncio.sleep(11)
    assert len(logins) == 3


async def test_a_crowd_shares_one_refresh(world, kit):
    logins = without_lifetime(world, kit, seconds=2.0)
    assert set(await world.together(200, "ann", SID)) == {"token-1"}
    await asyncio.sleep(601)
    assert set(await world.together(200, "ann", SID)) == {"token-2"}
    assert len(logins) == 2


async def test_it_is_never_fetched_early(world, kit):
    logins = without_lifetime(world, kit)
    async with world.fm.keep_fresh([("ann", SID)]):
        await asyncio.sleep(3 * 3600)
    assert len(logins) == 1


async def test_a_min_valid_above_ten_minutes_fails_and_costs_one_refresh(world, kit):
    logins = without_lifetime(world, kit)
    for _ in range(20):
        with pytest.raises(CredentialExpiredError, match=r"its end is unknown.*oauth_ttl_seconds"):
            await world.fm.credential("ann", SID, min_valid=700)
    assert len(logins) == 1
    assert await world.token("ann", SID, 300) == "token-1"


@pytest.mark.parametrize("expires", [None, "soon", "", 0, "0001-01-01T00:00:00Z", {"odd": 1}])
async def test_an_unreadable_expiry_is_served_for_minutes_as_well(world, kit, expires):
    logins = without_lifetime(world, kit, expires=lambda _now: expires)
    assert await world.token("ann", SID) == "token-1"
    await asyncio.sleep(601)
    assert await world.token("ann", SID) == "token-2"
    assert len(logins) == 2


async def test_a_rejected_one_is_replaced(world, kit):
    without_lifetime(world, kit)
    async with world.fm.lease("ann", SID) as lease:
        await lease.reject()
        assert lease.secret.value.access_token == "token-2"


def secret(kind="OA2_AUTHORIZATION_CODE", *, expires=NOW, **dates):
    value = {"accessToken": "t", "accessTokenSecret": "s", "expires": expires and iso(expires)}
    body = {"_id": "s", "type": kind, "value": value}
    return decode_secret(msgspec.json.encode(body | {name: iso(date) for name, date in dates.items()}))


@pytest.mark.parametrize("kind", ["OA2_AUTHORIZATION_CODE", "SESSION_AUTH"])
@pytest.mark.parametrize("name", ["updatedAt", "lockedAt", "createdAt"])
@pytest.mark.parametrize(
    ("apart", "known"), [(-1001, True), (-1000, False), (0, False), (100, False), (1000, False), (1001, True)]
)
def test_an_expiry_within_a_second_of_its_making_is_no_expiry(kind, name, apart, known):
    made = secret(kind, **{name: NOW + timedelta(milliseconds=apart)})
    assert (made.expires_at == NOW) == known
    assert (made.expires_at is None) == (not known)


def test_dates_that_cannot_be_read_do_not_matter():
    body = {"_id": "s", "type": "OA2_AUTHORIZATION_CODE", "updatedAt": 5, "lockedAt": {}, "createdAt": "soon"}
    value = {"accessToken": "t", "expires": iso(NOW)}
    assert decode_secret(msgspec.json.encode(body | {"value": value})).expires_at == NOW


@pytest.mark.parametrize("kind", ["OA2_AUTHORIZATION_CODE", "SESSION_AUTH"])
def test_both_clocks_end_it(kind):
    policy = FreshnessPolicy(session_ttl_seconds=100.0, oauth_ttl_seconds=100.0)
    line = timeline(secret(kind, expires=None), wall=1000.0, monotonic=5.0, jitter=0.5, policy=policy)
    assert (line.valid_until_wall, line.valid_until_monotonic) == (1100.0, 105.0)


@pytest.mark.parametrize(("expires", "ends"), [("soon", True), (None, False)])
@pytest.mark.parametrize("kind", ["OA1_THREE_LEGGED", "FUTURE_TYPE"])
def test_other_types_end_only_if_they_show_an_expiry(kind, expires, ends):
    value = {"accessToken": "t", "accessTokenSecret": "s", "expires": expires}
    made = decode_secret(msgspec.json.encode({"_id": "s", "type": kind, "value": value}))
    line = timeline(made, wall=0.0, monotonic=0.0, jitter=0.5, policy=FreshnessPolicy())
    assert (line.valid_until_wall == 600.0) == ends
