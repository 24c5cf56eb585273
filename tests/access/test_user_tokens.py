"""User tokens: reused, made once, replaced once a rejection; and the admin token behind them."""

import asyncio
import json

import pytest

from flowmate_async import AuthenticationError, ConfigurationError, FlowMate, UpstreamUnavailableError
from flowmate_async.access.admin import AdminToken
from flowmate_async.access.api import Api, ApiLimits
from flowmate_async.access.user_tokens import UserTokens
from flowmate_async.clock import SystemClock
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.engine.wiring import Traffic, TrafficLimits, TrafficPolicies
from flowmate_async.events import Emitter
from flowmate_async.testing.memory_transport import MemoryTransport, json_response
from flowmate_async.values.models import KeptToken, UserToken

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class Iam:
    """Makes numbered tokens; accepts those that ``accepts`` says, and takes a second for everything."""

    def __init__(self, accepts=lambda token: True, admin="admin", said="Token not found in IAM"):
        self.accepts, self.admin, self.said = accepts, admin, said
        self.made = self.rejected = self.admin_rejected = 0

    async def __call__(self, method, path, headers, body):
        await asyncio.sleep(5 if path == "/secrets/slow" else 1)
        token = dict(headers.pairs)["Authorization"].removeprefix("Bearer ")
        if method == "POST":
            if token != self.admin:
                self.admin_rejected += 1
                return json_response(b'{"message":""}', 401)
            self.made += 1
            return json_response(
                json.dumps({"token": f"{json.loads(body)['username']}#{self.made}"}).encode()
            )
        if not self.accepts(token):
            self.rejected += 1
            return json_response(json.dumps({"message": self.said}).encode(), 401)
        if path.startswith("/users/"):
            return json_response(b"[]")
        if path.startswith("/secrets/?"):
            return json_response(b'{"data":[],"meta":{"total":0}}')
        secret = {"_id": path[9:], "type": "API_KEY", "value": {"key": token}}
        return json_response(json.dumps({"data": secret}).encode())


def client(iam, admin_token="admin", **options):
    return FlowMate(
        admin_token=admin_token,
        base_url="http://localhost",
        transport=MemoryTransport(iam),
        rate=None,
        **options,
    )


def table(iam, **options):
    """The table itself, for what the public API fixes."""
    clock, emitter = SystemClock(), Emitter()
    known = KnownSecrets(clock=clock)
    traffic = Traffic(
        MemoryTransport(iam),
        limits=TrafficLimits(rate=None, burst=1, concurrency=64),
        policies=TrafficPolicies(),
        clock=clock,
        emitter=emitter,
        known=known,
    )
    api = Api(traffic.engine, limits=ApiLimits(), keep_refresh_fields=False, known=known)
    return UserTokens(api, admin=AdminToken("admin"), clock=clock, emitter=emitter, **options)


class TestReuse:
    async def test_many_tasks_make_one_token_and_keep_it(self):
        iam = Iam()
        async with client(iam) as fm:
            tokens = await asyncio.gather(*(fm.impersonate("u") for _ in range(100)))
            tokens.append(await fm.impersonate("u"))
            await fm.get_secret("u", "s")
            stats = fm.stats()
            assert (stats.tokens_made, stats.tokens_replaced) == (1, 0)
        assert {token.token for token in tokens} == {"u#1"}
        assert iam.made == 1

    async def test_each_user_has_a_token_of_their_own(self):
        async with client(Iam()) as fm:
            secrets = await asyncio.gather(*(fm.get_secret(f"u{number}", "shared") for number in range(20)))
        assert [secret.value.key.partition("#")[0] for secret in secrets] == [
            f"u{number}" for number in range(20)
        ]

    async def test_an_idle_token_is_not_trusted_and_a_used_one_is(self):
        """Upstream's life slides by use: three hours after the last one it is over."""
        iam = Iam()
        async with client(iam) as fm:
            for _ in range(5):
                await fm.get_secret("u", "s")
                await asyncio.sleep(2 * 3600)
            assert iam.made == 1
            await asyncio.sleep(3600)
            await fm.get_secret("u", "s")
            assert iam.made == 2

    async def test_beyond_its_capacity_the_least_recently_used_token_is_forgotten(self):
        iam = Iam()
        tokens = table(iam, capacity=3)
        for name in ("a", "b", "c", "a", "d"):
            await tokens.token(name)
        assert [tokens.holds(name) for name in "abcd"] == [True, False, True, True]
        tokens.clear()
        assert not any(tokens.holds(name) for name in "abcd")

    async def test_a_user_whose_token_is_being_made_is_not_forgotten(self):
        """However many others come meanwhile; so there is one impersonation per user at a time."""
        iam = Iam()
        tokens = table(iam, capacity=3)
        names = [f"u{number}" for number in range(20)] * 2
        await asyncio.gather(*(tokens.token(name) for name in names))
        assert iam.made == 20
        assert sum(tokens.holds(name) for name in set(names)) <= 3

    async def test_a_sweep_that_forgets_a_user_makes_no_second_impersonation(self):
        """Calls that hold the user from before share one impersonation with those that come after."""
        iam = Iam()
        async with client(iam) as fm:
            before = fm._parts.tokens.identity("u")
            fm._parts.tokens.forget("u")
            await asyncio.gather(before.token(), fm.impersonate("u"), fm.impersonate("U"))
        assert iam.made == 1


class TestReplacement:
    async def test_fifty_tasks_that_saw_the_401_make_one_new_token(self):
        iam = Iam(accepts=lambda token: token != "u#1")
        async with client(iam) as fm:
            await fm.impersonate("u")
            secrets = await asyncio.gather(*(fm.get_secret("u", f"s{number}") for number in range(50)))
            assert fm.stats().tokens_replaced == 1
        assert {secret.value.key for secret in secrets} == {"u#2"}
        assert iam.made == 2

    async def test_stragglers_of_an_older_token_use_the_new_one(self):
        iam = Iam(accepts=lambda token: token != "u#1")
        async with client(iam) as fm:
            await fm.impersonate("u")
            late = asyncio.create_task(fm.get_secret("u", "slow"))
            early = asyncio.create_task(fm.get_secret("u", "a"))
            await early
            assert not late.done()
            assert (await late).value.key == "u#2"
        assert iam.made == 2

    @pytest.mark.parametrize(
        ("said", "error"), [("Token not found in IAM", AuthenticationError), ("", UpstreamUnavailableError)]
    )
    async def test_when_every_token_is_rejected_the_requests_are_bounded(self, said, error):
        iam = Iam(accepts=lambda token: False, said=said)
        async with client(iam) as fm:
            for _ in range(4):
                outcomes = await asyncio.gather(
                    *(fm.get_secret("u", f"{number:024x}") for number in range(25)), return_exceptions=True
                )
                assert {type(outcome) for outcome in outcomes} == {error}
                assert {outcome.username for outcome in outcomes} == {"u"}
        assert iam.made == 2, "one token, one replacement, and no more within the cool-down"
        lookups = 4 * 2  # in each round, whose the secrets are that have to wait for a slot
        assert iam.rejected <= 25 * 2 + 3 * 25 + lookups

    async def test_after_the_cool_down_it_tries_again(self):
        healthy = False
        iam = Iam(accepts=lambda token: healthy)
        async with client(iam) as fm:
            with pytest.raises(AuthenticationError):
                await fm.get_secret("u", "s")
            await asyncio.sleep(31)
            healthy = True
            await fm.get_secret("u", "s")
        assert iam.made == 2

    async def test_a_token_that_dies_of_age_is_replaced_every_time(self):
        dead = set()
        iam = Iam(accepts=lambda token: token not in dead)
        async with client(iam) as fm:
            for number in range(1, 6):
                await fm.get_secret("u", "s")
                dead.add(f"u#{number}")
            await fm.get_secret("u", "s")
        assert iam.made == 6


class LoopTime:
    """A clock whose wall goes with the loop."""

    def monotonic(self):
        return asyncio.get_running_loop().time()

    def wall(self):
        return 1.8e9 + self.monotonic()

    sleep = staticmethod(asyncio.sleep)


class TestKept:
    """A token goes from one client to the next, as it does with a store between two runs."""

    clock = LoopTime()

    async def kept_of(self, iam):
        async with client(iam, clock=self.clock) as fm:
            await fm.get_secret("u", "s")
            return fm._parts.tokens.kept("u")

    async def test_it_is_used_and_none_is_made(self):
        iam = Iam()
        kept = await self.kept_of(iam)
        async with client(iam, clock=self.clock) as fm:
            fm._parts.tokens.adopt("u", kept)
            assert (await fm.get_secret("u", "s")).value.key == "u#1"
            assert fm.stats().tokens_made == 0
        assert iam.made == 1

    async def test_it_lives_from_its_last_acceptance_on(self):
        """Not from when it was taken over, or kept once more without a use in between."""
        iam = Iam()
        kept = await self.kept_of(iam)
        for hours, made in ((1, 1), (2.7, 1), (2.8, 2)):
            await asyncio.sleep(1800)
            async with client(iam, clock=self.clock) as fm:
                fm._parts.tokens.adopt("u", kept)
                await asyncio.sleep(600)
                kept = fm._parts.tokens.kept("u")
            await asyncio.sleep(hours * 3600 - 2400)
            async with client(iam, clock=self.clock) as fm:
                fm._parts.tokens.adopt("u", kept)
                await fm.get_secret("u", "s")
                kept = fm._parts.tokens.kept("u")
            assert iam.made == made

    @pytest.mark.parametrize("age", [-1.0, 2.75 * 3600, float("nan"), float("inf"), float("-inf")])
    async def test_one_of_doubtful_age_is_not_taken_over(self, age):
        iam = Iam()
        async with client(iam, clock=self.clock) as fm:
            fm._parts.tokens.adopt("u", KeptToken(UserToken("u#0"), self.clock.wall() - age))
            assert (await fm.get_secret("u", "s")).value.key == "u#1"

    async def test_fifty_tasks_that_saw_it_rejected_make_one_new_token(self):
        iam = Iam(accepts=lambda token: token != "u#1")
        async with client(iam, clock=self.clock) as fm:
            fm._parts.tokens.adopt("u", KeptToken(UserToken("u#1"), self.clock.wall()))
            iam.made = 1
            secrets = await asyncio.gather(*(fm.get_secret("u", f"s{number}") for number in range(50)))
            assert fm.stats().tokens_replaced == 1
            assert fm._parts.tokens.kept("u").token.token == "u#2"
        assert {secret.value.key for secret in secrets} == {"u#2"}
        assert iam.made == 2

    async def test_a_straggler_of_one_uses_the_one_that_was_taken_over_later(self):
        iam = Iam(accepts=lambda token: token == "u#2")
        async with client(iam, clock=self.clock) as fm:
            fm._parts.tokens.adopt("u", KeptToken(UserToken("u#1"), self.clock.wall()))
            late = asyncio.create_task(fm.get_secret("u", "slow"))
            await asyncio.sleep(1)
            fm._parts.tokens.adopt("u", KeptToken(UserToken("u#2"), self.clock.wall()))
            assert (await late).value.key == "u#2"
        assert iam.made == 0

    async def test_when_the_new_one_is_rejected_as_well_neither_is_kept(self):
        iam = Iam(accepts=lambda token: False)
        async with client(iam, clock=self.clock) as fm:
            fm._parts.tokens.adopt("u", KeptToken(UserToken("u#0"), self.clock.wall()))
            for _ in range(3):
                with pytest.raises(AuthenticationError):
                    await fm.get_secret("u", "s")
            assert fm._parts.tokens.kept("u") is None
        assert iam.made == 1


class TestAdminToken:
    async def test_a_rejected_one_as_it_was_typed_is_not_tried_again(self):
        iam = Iam(admin="another")
        async with client(iam) as fm:
            outcomes = await asyncio.gather(
                *(fm.impersonate(f"u{n}") for n in range(5)), return_exceptions=True
            )
        assert {type(outcome) for outcome in outcomes} == {AuthenticationError}
        assert iam.admin_rejected == 5

    async def test_a_provider_is_asked_once_and_once_more_after_a_rejection(self):
        asked = []

        async def provider():
            asked.append(len(asked))
            await asyncio.sleep(1)
            return "stale" if len(asked) == 1 else "admin"

        iam = Iam()
        async with client(iam, provider) as fm:
            await asyncio.gather(*(fm.impersonate(f"u{number}") for number in range(20)))
            await fm.impersonate("later")
        assert len(asked) == 2
        assert iam.made == 21

    async def test_a_provider_that_failed_is_asked_again(self):
        steps = [ConfigurationError("the vault is sealed"), "admin"]

        async def provider():
            step = steps.pop(0)
            if isinstance(step, Exception):
                raise step
            return step

        async with client(Iam(), provider) as fm:
            with pytest.raises(ConfigurationError, match="sealed"):
                await fm.impersonate("u")
            assert (await fm.impersonate("u")).token == "u#1"

    async def test_who_gives_up_waiting_for_the_provider_harms_nobody(self):
        async def provider():
            await asyncio.sleep(5)
            return "admin"

        async with client(Iam(), provider) as fm:
            first, second = (asyncio.create_task(fm.impersonate(name)) for name in "uv")
            await asyncio.sleep(1)
            first.cancel()
            assert (await second).token == "v#1"

    @pytest.mark.parametrize("token", ["", "  ", "two words", "5ecr3t\r\nX: y", "5ecr3t\u2028x"])
    def test_one_that_no_header_can_carry_is_refused_without_showing_it(self, token, exposed):
        with pytest.raises(ConfigurationError) as refused:
            client(Iam(), token)
        assert "5ecr3t" not in exposed(refused.value)

    @pytest.mark.parametrize(
        "wrong", [{"base_url": "http://elsewhere.example"}, {"concurrency": 0}, {"transport": "fax"}]
    )
    def test_a_wrong_argument_beside_it_does_not_show_it(self, wrong, exposed):
        with pytest.raises(ConfigurationError) as refused:
            FlowMate(**({"admin_token": "5ecr3t-admin", "base_url": "http://localhost"} | wrong))
        assert "5ecr3t" not in exposed(refused.value)


class TestAdminTokenFile:
    @pytest.fixture
    def anyio_backend(self):
        """A file is read in a thread, whose time is real."""
        return "asyncio"

    async def test_it_is_read_again_after_a_401_and_once_for_all_who_met_it(self, sandbox, tmp_path):
        path = tmp_path / "token"
        path.write_text("stale\n")
        path.chmod(0o600)
        async with FlowMate(admin_token=path, base_url=sandbox.url, rate=None) as fm:
            with pytest.raises(AuthenticationError):
                await fm.impersonate("user-000001@tenant.example")
            path.write_text(f"{sandbox.admin_token}\n")
            names = [f"user-{number:06d}@tenant.example" for number in range(1, 10)]
            await asyncio.gather(*(fm.impersonate(name) for name in names))
        assert sandbox.stats().impersonations == 9

    @pytest.mark.parametrize("content", [None, "", "a b"])
    async def test_an_unusable_one_is_a_configuration_error(self, sandbox, tmp_path, content):
        path = tmp_path / "token"
        if content is not None:
            path.write_text(content)
            path.chmod(0o600)
        async with FlowMate(admin_token=path, base_url=sandbox.url, rate=None) as fm:
            with pytest.raises(ConfigurationError):
                await fm.impersonate("u")
        assert sandbox.stats().total_requests() == 0
