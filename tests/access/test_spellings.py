"""Several spellings of one user or secret are one user and one secret (OBSERVED.md § Second look)."""

import asyncio

import pytest

from flowmate_async import FlowMateError, InvalidIdError
from flowmate_async.contract.ids import canonical_key, secret_key, user_key

pytestmark = pytest.mark.anyio
SID = "66761aedcf268b4d68470e27"
NAMES = ["ann@x.example", "Ann@X.example", "ANN@X.EXAMPLE"]


@pytest.fixture
async def world(kit):
    """A FlowMate that ignores the case of names, as the real one does."""
    async with kit.world_with(NAMES[0], SID) as world:
        impersonate = world.upstream._impersonate
        world.upstream._impersonate = lambda name: impersonate(name.lower())
        get = world.upstream._get
        world.upstream._get = lambda bearer, secret_id: get(bearer, secret_id.lower())
        yield world


async def test_they_share_one_flight_one_token_and_one_cached_value(world):
    tokens = await asyncio.gather(
        *(
            world.token(name, secret_id)
            for name in NAMES
            for secret_id in (SID, SID.upper())
            for _ in range(5)
        )
    )
    assert len(set(tokens)) == 1
    assert sum(world.upstream.impersonations.values()) == 1
    assert sum(world.upstream.gets.values()) == 1
    for name in NAMES:
        assert await world.token(name, SID.upper()) in tokens
    assert sum(world.upstream.gets.values()) == 1
    assert world.fm.stats().cache.entries == 1


async def test_they_share_flights_of_get_secret_and_tokens(world):
    secrets = await asyncio.gather(*(world.fm.get_secret(name, SID) for name in NAMES))
    assert len({id(secret) for secret in secrets}) == 1
    assert {(await world.fm.impersonate(name)).token for name in NAMES} == {f"token-{NAMES[0]}-1"}


async def test_a_token_made_in_one_spelling_is_reused_in_another(world):
    tokens = {(await world.fm.impersonate(name)).token for name in reversed(NAMES)}
    assert len(tokens) == sum(world.upstream.impersonations.values()) == 1


async def test_an_upper_case_id_is_accepted(world):
    """Upstream finds the secret and answers in lower case."""
    assert (await world.fm.get_secret(NAMES[0], SID.upper())).id == SID


async def test_a_rejection_in_one_spelling_counts_for_all(world):
    async with world.fm.lease(NAMES[1], SID) as lease, world.fm.lease(NAMES[2], SID.upper()) as other:
        assert lease.generation == other.generation
        world.upstream.kept[SID].expires = world.upstream.now() + 10
        await lease.reject()
        assert await world.token(NAMES[0], SID) == lease.secret.value.access_token
        await other.reject()
        assert other.generation == lease.generation


async def test_errors_name_user_and_secret_as_they_were_spelled(world):
    world.upstream.faults[SID] = "forbidden"
    for name, secret_id in ((NAMES[1], SID.upper()), (NAMES[0], SID), (NAMES[2], SID)):
        with pytest.raises(FlowMateError) as refused:
            await world.fm.credential(name, secret_id)
        assert (refused.value.username, refused.value.secret_id) == (name, secret_id)
        with pytest.raises(FlowMateError) as refused:
            async with world.fm.lease(name, secret_id):
                pass
        assert (refused.value.username, refused.value.secret_id) == (name, secret_id)


async def test_the_request_keeps_the_spelling(world):
    """FlowMate may create a user on first use; only keys are lower-cased."""
    await world.fm.get_secret(NAMES[1], SID)
    assert list(world.upstream.impersonations) == [NAMES[1]]


async def test_keep_fresh_fetches_one_secret_once(world):
    async with world.fm.keep_fresh([(name, SID) for name in NAMES]):
        await asyncio.sleep(60)
    assert sum(world.upstream.gets.values()) == 1


@pytest.mark.parametrize("name", [None, 5, "", " ", "\ufeffann", "ann\u200b"])
async def test_what_is_not_a_username_is_still_refused(world, name):
    with pytest.raises(InvalidIdError):
        await world.fm.credential(name, SID)


def test_keys():
    assert user_key("ÄNN") == "änn"
    assert secret_key("A" * 24) == "a" * 24
    assert secret_key("TWELVE-CHARS") == "TWELVE-CHARS"
    assert secret_key("A" * 23) == "A" * 23
    assert secret_key("G" * 24) == "G" * 24
    assert canonical_key("Ann", "B" * 24) == ("ann", "b" * 24)
