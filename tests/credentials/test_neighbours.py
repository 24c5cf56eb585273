"""What another process rejected, heard of at any moment: a newer one is asked for, nobody is told a lie."""

import asyncio

import pytest

from flowmate_async import CredentialExpiredError
from flowmate_async.coordination import SharedSecret

pytestmark = pytest.mark.anyio


class Neighbours:
    """A coordination with processes that fetch nothing, and reject what this one is answered."""

    def __init__(self, *, rejections=0):
        self.rejections = rejections
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

    def on_rejected(self, listener):
        self._listener = listener

    def announce(self, username, secret_id):
        """They have rejected whatever this process holds of the secret."""
        self._listener(username, secret_id, lambda _secret: True)

    async def fetch(self, username, secret_id, ask, *, acceptable=None):
        secret = await ask()
        if self.rejections:
            self.rejections -= 1
            # Heard in the step in which the flight lands, before those who waited for it have their turn.
            asyncio.get_running_loop().call_soon(self.announce, username, secret_id)
        return SharedSecret(secret)


async def test_what_they_reject_as_it_arrives_is_asked_for_again(kit):
    neighbours = Neighbours(rejections=2)
    async with kit.world_with(kind="API_KEY", options={"coordination": neighbours}) as world:
        assert set(await world.together(20, "ali", "secret")) == {"ali/secret/1"}
        assert world.upstream.gets["secret"] == 3
        assert neighbours.rejections == 0


async def test_what_they_reject_is_asked_for_once_more_though_upstream_had_just_nothing_newer(kit):
    neighbours = Neighbours()
    async with kit.world_with(life=3600, options={"coordination": neighbours}) as world:
        await world.token("ali", "secret")
        with pytest.raises(CredentialExpiredError):
            await world.token("ali", "secret", min_valid=5000)
        neighbours.announce("ali", "secret")
        world.upstream.kept["secret"].number = 2
        assert set(await world.together(20, "ali", "secret")) == {"ali/secret/2"}
        assert world.upstream.gets["secret"] == 3


async def test_what_they_reject_while_the_refresh_fails_is_not_asked_for_before_the_cool_down_is_over(kit):
    neighbours = Neighbours()
    async with kit.world_with(life=3600, options={"coordination": neighbours}) as world:
        await world.token("ali", "secret")
        neighbours.announce("ali", "secret")
        world.upstream.faults["secret"] = "refresh failed"
        for _ in range(10):
            await world.together(10, "ali", "secret")
            neighbours.announce("ali", "secret")
        assert world.upstream.gets["secret"] == 2
