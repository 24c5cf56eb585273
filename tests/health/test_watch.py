"""A worker's watch: what counts as one observation, and what tells an outage from broken credentials."""

import asyncio

import msgspec
import pytest

from flowmate_async import decode_secret
from flowmate_async.access.health_watch import HealthWatch
from flowmate_async.clock import SystemClock
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.contract.protocol import GET
from flowmate_async.errors import CredentialRejectedError, RefreshFailedError, UpstreamTimeoutError
from flowmate_async.events import CredentialBroken, Emitter
from flowmate_async.health.observations import Observed
from flowmate_async.health.policy import DEFAULT_POLICY

pytestmark = pytest.mark.anyio

REJECTED = CredentialRejectedError("no")
REFUSED = RefreshFailedError("HTTP Error Response: 400", status=500)


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class SetClock(SystemClock):
    """Wall time as it is set."""

    now = 1_790_000_000.0

    def wall(self):
        return self.now


class Watching:
    """A watch, and what it observed and told."""

    def __init__(self):
        self.clock, self.sightings, self.events = SetClock(), [], []
        self.watch = HealthWatch(
            policy=DEFAULT_POLICY,
            known=KnownSecrets(clock=self.clock),
            clock=self.clock,
            emitter=Emitter(self.events.append),
            capacity=1000,
            on_sighting=self.sightings.append,
        )

    @property
    def seen(self):
        return [one.what for sighting in self.sightings for one in sighting.observations]

    @property
    def broken(self):
        return [event.username for event in self.events if isinstance(event, CredentialBroken)]


def key_of(user):
    return user, "a" * 24


def secret(kind="API_KEY", **value):
    value = value or {"key": "a-key-that-is-long-enough"}
    return decode_secret(msgspec.Raw(msgspec.json.encode({"_id": "a" * 24, "type": kind, "value": value})))


def token():
    value = {"accessToken": "a-token", "refreshToken": "r", "authClientId": "client"}
    return secret("OA2_AUTHORIZATION_CODE", **value)


@pytest.mark.parametrize(("seconds", "times"), [(29.9, 1), (30.0, 2)])
async def test_reports_within_half_a_minute_are_one_observation(seconds, times):
    one = Watching()
    one.watch.failed(key_of("ann"), REJECTED, secret())
    one.clock.now += seconds
    one.watch.failed(key_of("ann"), REJECTED, secret())
    assert one.seen == [Observed.REJECTED] * times


async def test_a_rejection_after_another_value_is_a_new_observation():
    one = Watching()
    one.watch.failed(key_of("ann"), REJECTED, secret())
    one.watch.fetched(key_of("ann"), secret(key="another-key-that-works"), changed=True)
    one.watch.failed(key_of("ann"), REJECTED, secret(key="another-key-that-works"))
    assert one.seen == [Observed.REJECTED, Observed.CHANGED, Observed.REJECTED]


async def test_a_timeout_says_nothing_about_what_is_never_renewed():
    one, late = Watching(), UpstreamTimeoutError("late", endpoint=GET)
    one.watch.failed(key_of("ann"), late, secret())
    assert one.seen == []
    one.watch.failed(key_of("bob"), late, token())
    assert one.seen == [Observed.HUNG]
    one.watch.close()


@pytest.mark.parametrize(("renewed", "broken"), [(0, 0), (8, 0), (9, 8)])
async def test_an_outage_is_told_by_the_share_of_renewals_that_failed(renewed, broken):
    """Eight refusals are an outage unless more than half of the client's renewals worked."""
    one = Watching()
    for number in range(renewed):
        one.watch.fetched(key_of(f"fine-{number}"), token(), changed=True)
    for number in range(8):
        one.watch.failed(key_of(f"refused-{number}"), REFUSED, token())
    await asyncio.sleep(DEFAULT_POLICY.outage_seconds + 1)
    assert len(one.broken) == broken
    one.watch.close()
