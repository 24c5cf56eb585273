"""The cache's hit, written out inline for speed, decides as the rule it is written out from."""

from datetime import UTC, datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowmate_async.access.cache import Credentials
from flowmate_async.contract.freshness import FreshnessPolicy, State
from flowmate_async.engine.coordination import SharedSecret
from flowmate_async.events import Emitter
from flowmate_async.system.loop_binding import LoopBinding
from flowmate_async.values.secrets import (
    OAuth2Secret,
    OAuth2Value,
    SessionSecret,
    SessionValue,
    SimpleSecret,
    SimpleValue,
)

WALL = 1_800_000_000.0


class Stopped:
    """A clock that stands where it is put."""

    def __init__(self):
        self.now = 0.0
        self.jump = 0.0

    def monotonic(self):
        return self.now

    def wall(self):
        return WALL + self.now + self.jump


class NoFetcher:
    """A fetcher that fetches nothing."""

    async def get(self, *key, **options):
        raise AssertionError(key, options)


def secret_of(kind, life):
    expires = datetime.fromtimestamp(WALL + life, UTC).isoformat()
    if kind == "oauth":
        return OAuth2Secret(id="s", value=OAuth2Value(access_token="t", expires=expires))
    if kind == "session":
        return SessionSecret(id="s", value=SessionValue(access_token="t"))
    return SimpleSecret(id="s", value=SimpleValue(passphrase="p"))


# Whole seconds, which floats hold exactly: both ways round of one inequality then agree.
situations = st.tuples(
    st.sampled_from(["oauth", "oauth", "session", "static"]),
    st.integers(-100, 3000),  # its life
    st.integers(0, 1000) | st.integers(0, 5000),  # its age
    st.just(0) | st.integers(-3000, 3000),  # how far the wall clock has jumped
    st.sampled_from([0, 60, 300]) | st.integers(0, 5000),  # for how long it is needed
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),  # the jitter
)


def here():
    binding = LoopBinding()
    binding.bind()
    return binding


@given(situations)
@example(("session", 0, 600, 0, 0, 0.0))  # its very end, for a caller who needs it for no time at all
@example(("session", 0, 300, 300, 0, 0.0))  # the same by the wall clock, after a machine was suspended
@example(("oauth", 3000, 0, 1900, 1200, 0.0))  # long enough by the monotonic clock only
@settings(max_examples=8 * settings().max_examples)
def test_the_inline_hit_agrees_with_the_rule(virtually, situation):
    """It serves exactly the fresh values at once, and applies the rule to everything else."""
    kind, life, age, jump, need, jitter = situation

    async def main():
        clock = Stopped()
        credentials = Credentials(
            NoFetcher(),
            policy=FreshnessPolicy(),
            capacity=10,
            clock=clock,
            emitter=Emitter(),
            binding=here(),
            uniform=lambda low, high: low + (high - low) * jitter,
        )
        entry = credentials._keep(("ali", "s"), SharedSecret(secret_of(kind, life)))
        asked = []

        async def rule(key, min_valid):
            asked.append(key)
            return entry

        credentials.entry = rule
        clock.now, clock.jump = float(age), float(jump)
        state = entry.timeline.state(
            wall=clock.wall(), monotonic=clock.monotonic(), min_valid_seconds=float(need)
        )
        assert await credentials.credential("ali", "s", float(need)) is entry.secret
        assert (not asked) == (state is State.FRESH)

    virtually(main)
