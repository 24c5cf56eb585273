"""Another process rejects a credential at any moment: callers get a newer one or a correct error."""

import asyncio

import msgspec
import pytest

from flowmate_async import CredentialExpiredError
from flowmate_async.engine.coordination import SharedSecret
from flowmate_async.engine.priority import set_background

pytestmark = pytest.mark.anyio


class Neighbours:
    """A coordination with processes that fetch nothing, and reject what this one is answered.

    What they were answered earlier is ``held``.
    """

    def __init__(self, *, rejections=0):
        self.rejections = rejections
        self.held = None
        self.told = []
        self.telling = asyncio.Event()
        self.answered = 0
        self._listener = None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    def join(self, base_url):
        pass

    def budget(self, *, rate, burst):
        pass

    def credentials(self):
        return self

    def pause(self, seconds):
        pass

    def on_pause(self, listener):
        pass

    def on_event(self, listener):
        pass

    def on_rejected(self, listener):
        self._listener = listener

    def announce(self, username, secret_id):
        """They have rejected whatever this process holds of the secret."""
        self._listener(username, secret_id, lambda _secret: True)

    async def reject(self, username, secret_id, rejected):
        self.told.append(rejected)
        return False

    async def fetch(self, username, secret_id, ask, *, acceptable=None):
        await asyncio.sleep(0.01)
        if self.held is not None and acceptable is not None:
            theirs = SharedSecret(msgspec.structs.replace(self.held), self.age(), newest=False)
            if acceptable(theirs):
                return theirs
        secret = await ask()
        self.telling.set()
        await asyncio.sleep(1)  # the others are told
        self.answered += 1
        if self.rejections:
            self.rejections -= 1
            # Heard in the step in which the flight lands, before those who waited for it have their turn.
            asyncio.get_running_loop().call_soon(self.announce, username, secret_id)
        return SharedSecret(secret)

    async def were_answered(self, world, *, left, then_left):
        """They hold what upstream has with so many seconds left; later so many are left of it."""
        world.upstream.kept["ali-s-secret"].expires = world.upstream.now() + left
        self.held, at = await world.fm.get_secret("ali", "ali-s-secret"), world.clock.monotonic()
        self.age = lambda: world.clock.monotonic() - at
        await asyncio.sleep(left - then_left)


async def test_what_they_reject_as_it_arrives_is_asked_for_again(kit):
    neighbours = Neighbours(rejections=2)
    async with kit.world_with(kind="API_KEY", options={"coordination": neighbours}) as world:
        assert set(await world.together(20, "ali", "ali-s-secret")) == {"ali/ali-s-secret/1"}
        assert world.upstream.gets["ali-s-secret"] == 3
        assert neighbours.rejections == 0


async def test_a_neighbours_rejection_causes_one_more_request(kit):
    neighbours = Neighbours()
    async with kit.world_with(life=3600, options={"coordination": neighbours}) as world:
        await world.token("ali", "ali-s-secret")
        with pytest.raises(CredentialExpiredError):
            await world.token("ali", "ali-s-secret", min_valid=5000)
        neighbours.announce("ali", "ali-s-secret")
        world.upstream.kept["ali-s-secret"].number = 2
        assert set(await world.together(20, "ali", "ali-s-secret")) == {"ali/ali-s-secret/2"}
        assert world.upstream.gets["ali-s-secret"] == 3


async def test_a_neighbours_rejection_waits_for_the_cool_down(kit):
    neighbours = Neighbours()
    async with kit.world_with(life=3600, options={"coordination": neighbours}) as world:
        await world.token("ali", "ali-s-secret")
        neighbours.announce("ali", "ali-s-secret")
        world.upstream.faults["ali-s-secret"] = "refresh failed"
        for _ in range(10):
            await world.together(10, "ali", "ali-s-secret")
            neighbours.announce("ali", "ali-s-secret")
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_longer_min_valid_refetches_a_shared_value(kit):
    neighbours = Neighbours()
    async with kit.world_with(options={"coordination": neighbours}) as world:
        await neighbours.were_answered(world, left=1000, then_left=200)
        needs = (60, 60, 300, 300)
        got = await asyncio.gather(*(world.token("ali", "ali-s-secret", min_valid=need) for need in needs))
        assert got == ["ali/ali-s-secret/1"] * 2 + ["ali/ali-s-secret/2"] * 2
        assert world.upstream.gets["ali-s-secret"] == 2


async def test_theirs_once_more_does_not_mean_that_upstream_has_no_newer(kit):
    neighbours = Neighbours()
    async with kit.world_with(options={"coordination": neighbours}) as world:
        await neighbours.were_answered(world, left=1000, then_left=200)
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        neighbours.announce("ali", "ali-s-secret")
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/1"
        assert await world.token("ali", "ali-s-secret", min_valid=300) == "ali/ali-s-secret/2"


async def test_a_neighbours_value_must_last_as_long_as_the_lease_needs(kit):
    neighbours = Neighbours()
    options = {"coordination": neighbours}
    async with (
        kit.world_with(options=options) as world,
        world.fm.lease("ali", "ali-s-secret", min_valid=300) as lease,
    ):
        world.upstream.kept["ali-s-secret"].number = 2
        await neighbours.were_answered(world, left=1000, then_left=200)
        assert kit.presented(await lease.reject()) == "ali/ali-s-secret/3"


async def test_they_are_told_of_a_rejection_also_when_a_newer_one_is_here_already(kit):
    neighbours = Neighbours()
    options = {"coordination": neighbours}
    async with kit.world_with(kind=kit.SESSION, options=options) as world:
        leases = [world.fm.lease("ali", "ali-s-secret") for _ in range(5)]
        for lease in leases:
            await lease.__aenter__()
        old = leases[0].secret
        await asyncio.sleep(601)  # its time is over
        newer = await world.token("ali", "ali-s-secret")
        for lease in leases:
            assert kit.presented(await lease.reject()) == newer
        assert neighbours.told == [old]


async def test_neighbours_get_an_answer_that_has_no_waiter_left(kit):
    neighbours = Neighbours()
    async with kit.world_with(kind=kit.SESSION, options={"coordination": neighbours}) as world:
        nobody = asyncio.create_task(world.token("ali", "ali-s-secret"))
        await neighbours.telling.wait()
        nobody.cancel()
        await asyncio.sleep(2)
        assert neighbours.answered == 1
        assert await world.token("ali", "ali-s-secret") == "ali/ali-s-secret/2"
        assert world.upstream.gets["ali-s-secret"] == 1


async def test_a_hurried_caller_causes_no_second_request(kit):
    neighbours = Neighbours()

    async def in_the_background():
        set_background()
        return await world.token("ali", "ali-s-secret")

    async with kit.world_with(kind=kit.SESSION, options={"coordination": neighbours}) as world:
        patient = asyncio.create_task(in_the_background())
        await neighbours.telling.wait()
        assert kit.presented(await world.fm.get_secret("ali", "ali-s-secret")) == await patient
        assert world.upstream.gets["ali-s-secret"] == 1
