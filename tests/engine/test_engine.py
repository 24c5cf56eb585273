"""Every request in virtual time: what is retried, when, and that everything is bounded.

Through the public client over an in-memory transport that answers by a script.
"""

import asyncio
import json
from collections import defaultdict

import pytest

from flowmate_async import (
    FlowMate,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    Response,
    RetryPolicy,
    TransportError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.contract import failures
from flowmate_async.engine.bucket import capacity_of
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

pytestmark = pytest.mark.anyio

LOCKED = json_response(b'{"message":"Max secret refresh retry iterations reached"}', 500)
THROTTLED = json_response(b'{"message":"slow down"}', 429, retry_after="30")
DOWN = json_response(b'{"message":"Authorization failed"}', 401)


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


LOCK_SECONDS = failures.LOCK_SECONDS - 1e-5  # but for the grain of virtual time


class Script:
    """An upstream with one secret a user, and what goes wrong first, by ``METHOD /path``."""

    def __init__(self, **trouble):
        self.trouble = defaultdict(
            list, {name.replace("_", " /"): list(steps) for name, steps in trouble.items()}
        )
        self.sent = []
        self.expires = None
        self.kind = "OA2_AUTHORIZATION_CODE"

    def times(self, what):
        return [at for sent, at in self.sent if sent == what]

    async def __call__(self, method, path, headers, body):
        what = (
            f"{method} /"
            + path.split("/")[1]
            + ("" if not path.startswith("/secrets/") or path[9:10] == "?" else "/id")
        )
        self.sent.append((what, asyncio.get_running_loop().time()))
        if self.trouble[what]:
            step = self.trouble[what].pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
                raise TransportError("timeout", "")
            return step
        if method == "POST":
            return json_response(json.dumps({"token": "t-" + json.loads(body)["username"]}).encode())
        if what == "GET /secrets":
            item = {"_id": "s", "type": self.kind, "value": {"expires": self.expires}}
            return json_response(json.dumps({"data": [item], "meta": {"total": 1}}).encode())
        secret = {"_id": path[9:], "type": "OA2_AUTHORIZATION_CODE", "value": {"accessToken": "a"}}
        return json_response(json.dumps({"data": secret}).encode())


def client(script, **options):
    options = {"rate": None} | options
    return FlowMate(
        admin_token="admin",
        base_url="http://localhost",
        transport=MemoryTransport(script),
        **options,
    )


def broken(kind):
    return TransportError(kind, "as scripted")


class TestHarmlessRequests:
    @pytest.mark.parametrize("trouble", ["connect", "stale", "interrupted", "timeout", "malformed"])
    async def test_an_impersonation_that_broke_is_sent_again(self, trouble):
        """Also on a stale connection, where aiohttp would not repeat a POST."""
        script = Script(POST_impersonate=[broken(trouble)])
        async with client(script) as fm:
            assert (await fm.impersonate("u")).token == "t-u"
        first, second = script.times("POST /impersonate")
        assert 0 <= second - first <= 0.5

    @pytest.mark.parametrize("trouble", ["tls", "too_large"])
    async def test_what_will_not_change_is_not_sent_again(self, trouble):
        script = Script(POST_impersonate=[broken(trouble)] * 9)
        async with client(script) as fm:
            with pytest.raises((UpstreamUnavailableError, ProtocolError)):
                await fm.impersonate("u")
        assert len(script.sent) == 1

    @pytest.mark.parametrize("step", [broken("connect"), DOWN, json_response(b"", 503)])
    async def test_nothing_is_sent_again_without_bound(self, step):
        script = Script(POST_impersonate=[step] * 99)
        async with client(script, retry=RetryPolicy(attempts=5)) as fm:
            with pytest.raises(UpstreamUnavailableError):
                await fm.impersonate("u")
        assert len(script.sent) == 5

    async def test_the_deadline_ends_it_before_the_attempts_do(self):
        script = Script(POST_impersonate=[30.0] * 99)
        async with client(script, retry=RetryPolicy(attempts=99, deadline_seconds=100)) as fm:
            with pytest.raises(UpstreamTimeoutError):
                await fm.impersonate("u")
        assert 2 <= len(script.sent) <= 4


class TestWhatMovesRetries:
    async def test_waits_are_on_the_injected_clock(self):
        """A clock that jumps over every wait makes retries immediate, whatever the loop's time does."""

        class JumpingClock:
            def __init__(self):
                self.now, self.waits = 0.0, []

            def monotonic(self):
                return self.now

            def wall(self):
                return 1.8e9 + self.now

            async def sleep(self, seconds):
                self.waits.append(seconds)
                self.now += seconds

        clock, script = JumpingClock(), Script(**{"GET_secrets/id": [LOCKED]})
        async with client(script, clock=clock) as fm:
            await fm.impersonate("u")
            await fm.get_secret("u", "s")
        first, second = script.times("GET /secrets/id")
        assert second == first, "the loop's own time stood still"
        assert sum(clock.waits) >= failures.LOCK_SECONDS

    async def test_staminas_global_switch_does_not_stop_them(self):
        """Stamina's manual recommends ``set_active(False)`` for every conftest, and it is process-wide."""
        stamina = pytest.importorskip("stamina")
        script = Script(POST_impersonate=[json_response(b"", 503)] * 99)
        stamina.set_active(False)
        try:
            async with client(script) as fm:
                with pytest.raises(UpstreamUnavailableError):
                    await fm.impersonate("u")
        finally:
            stamina.set_active(True)
        assert len(script.sent) == RetryPolicy().attempts


class TestRefreshingGets:
    @pytest.mark.parametrize(
        "trouble", [broken("stale"), broken("interrupted"), 30.0, LOCKED, json_response(b"", 504)]
    )
    async def test_it_is_sent_once_more_and_only_after_the_lock(self, trouble):
        script = Script(**{"GET_secrets/id": [trouble]})
        async with client(script) as fm:
            assert (await fm.get_secret("u", "s")).value.access_token == "a"
        first, second = script.times("GET /secrets/id")
        assert second - first >= LOCK_SECONDS

    @pytest.mark.parametrize("trouble", [broken("interrupted"), 30.0, LOCKED])
    async def test_it_is_not_sent_a_third_time(self, trouble):
        script = Script(**{"GET_secrets/id": [trouble] * 9})
        async with client(script) as fm:
            with pytest.raises((UpstreamUnavailableError, RefreshFailedError)):
                await fm.get_secret("u", "s")
        assert len(script.times("GET /secrets/id")) == 2

    async def test_a_connection_that_was_never_made_is_tried_again_quickly(self):
        script = Script(**{"GET_secrets/id": [broken("connect")]})
        async with client(script) as fm:
            await fm.get_secret("u", "s")
        first, second = script.times("GET /secrets/id")
        assert second - first <= 0.5

    @pytest.mark.parametrize("concurrency", [1, 64])
    async def test_nobody_else_sends_it_meanwhile(self, concurrency):
        """The lock belongs to the secret, for both of its owners, also while one waits for a slot."""
        script = Script(**{"GET_secrets/id": [5.0]})
        async with client(script, concurrency=concurrency) as fm:
            await asyncio.gather(*(fm.impersonate(name) for name in ("u", "v", "w")))
            tasks = [asyncio.create_task(fm.get_secret("u", "s"))]
            await asyncio.sleep(1)
            if concurrency == 1:  # this one has passed the quarantine before it was imposed
                tasks.append(asyncio.create_task(fm.get_secret("v", "s")))
            await asyncio.sleep(5)
            tasks.append(asyncio.create_task(fm.get_secret("w", "s")))
            tasks.append(asyncio.create_task(fm.get_secret("w", "other")))
            await asyncio.gather(*tasks)
            assert fm.stats().traffic.max_in_flight <= concurrency
        gets = script.times("GET /secrets/id")
        broke = gets[0] + 5
        assert [at for at in gets[1:] if at < broke + LOCK_SECONDS] == [gets[1]], "only the other secret's"

    async def test_after_it_failed_for_good_a_sweep_waits_for_the_lock(self):
        script = Script(**{"GET_secrets/id": [LOCKED, LOCKED]})
        async with client(script) as fm:
            for _ in range(10):  # all but the first are told at once
                with pytest.raises(RefreshFailedError):
                    await fm.get_secret("u", "s")
            (outcome,) = [outcome async for outcome in fm.sweep(["u"])]
            assert len(outcome.secrets) == 1
        _, second, third = script.times("GET /secrets/id")
        assert third - second >= LOCK_SECONDS

    @pytest.mark.parametrize("message", ["", "HTTP Error Response: 400 Bad Request"])
    async def test_a_provider_that_refused_is_not_asked_again(self, message):
        script = Script(
            **{"GET_secrets/id": [json_response(json.dumps({"message": message}).encode(), 500)] * 9}
        )
        async with client(script) as fm:
            with pytest.raises(RefreshFailedError):
                await fm.get_secret("u", "s")
        assert len(script.times("GET /secrets/id")) == 1


class TestGetsKnownNotToRefresh:
    @pytest.mark.parametrize(
        ("kind", "expires"), [("SIMPLE", None), ("OA2_AUTHORIZATION_CODE", "9000-01-01T00:00:00Z")]
    )
    async def test_a_sweep_sends_it_again_quickly(self, kind, expires):
        script = Script(**{"GET_secrets/id": [broken("interrupted")]})
        script.kind, script.expires = kind, expires
        async with client(script) as fm:
            (outcome,) = [outcome async for outcome in fm.sweep(["u"])]
        assert len(outcome.secrets) == 1
        first, second = script.times("GET /secrets/id")
        assert second - first <= 0.5

    async def test_a_sweep_of_an_expired_one_waits(self):
        script = Script(**{"GET_secrets/id": [broken("interrupted")]})
        script.expires = "2020-01-01T00:00:00Z"
        async with client(script) as fm:
            assert [len(outcome.secrets) async for outcome in fm.sweep(["u"])] == [1]
        first, second = script.times("GET /secrets/id")
        assert second - first >= LOCK_SECONDS


class TestThrottling:
    async def test_everybody_waits_as_long_as_upstream_asked(self):
        script = Script(POST_impersonate=[THROTTLED])
        async with client(script) as fm:
            await asyncio.gather(*(fm.impersonate(f"u{number}") for number in range(3)))
            alone = asyncio.create_task(fm.impersonate("late"))
            await alone
        first = script.sent[0][1]
        later = [at for _, at in script.sent if at > first]
        assert later, "the throttled one was sent again"
        assert min(later) >= first + 30

    async def test_newcomers_wait_too(self):
        script = Script(POST_impersonate=[THROTTLED])
        async with client(script) as fm:
            unlucky = asyncio.create_task(fm.impersonate("u"))
            await asyncio.sleep(1)
            await asyncio.gather(unlucky, *(fm.impersonate(f"v{number}") for number in range(5)))
            assert fm.stats().throttled == 1
        assert min(at for _, at in script.sent[1:]) >= script.sent[0][1] + 30

    async def test_it_ends(self):
        script = Script(POST_impersonate=[THROTTLED] * 99)
        async with client(script) as fm:
            with pytest.raises(RateLimitedError):
                await fm.impersonate("u")
        assert len(script.sent) <= RetryPolicy().attempts

    async def test_a_preposterous_wait_is_cut(self):
        script = Script(POST_impersonate=[json_response(b"", 429, retry_after="86400")])
        async with client(script) as fm:
            await fm.impersonate("u")
        first, second = script.times("POST /impersonate")
        assert 60 <= second - first <= 67  # a tenth of jitter for everybody, and the retry's own


class TestConcurrency:
    async def test_there_are_never_more_requests_in_flight_than_allowed(self):
        now, most = 0, 0

        async def answer(method, path, headers, body):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(1)
            now -= 1
            return json_response(b'{"token":"t"}')

        async with client(answer, concurrency=7) as fm:
            await asyncio.gather(*(fm.impersonate(f"u{number}") for number in range(50)))
            assert fm.stats().traffic.max_in_flight == most == 7
            assert fm.stats().traffic.in_flight == 0

    async def test_a_crash_of_the_transport_frees_its_slot(self):
        steps = [RuntimeError("a bug"), Response(200, {}, b'{"token":"t"}')]

        def answer(method, path, headers, body):
            step = steps.pop(0)
            if isinstance(step, Exception):
                raise step
            return step

        async with client(answer, concurrency=1) as fm:
            with pytest.raises(RuntimeError):
                await fm.impersonate("u")
            assert (await fm.impersonate("u")).token == "t"
            assert fm.stats().traffic.in_flight == 0


class TestRate:
    async def test_it_holds_over_everything_a_client_sends(self):
        """Rate and moments are dyadic, see test_admission_rate.py."""
        script, rate, burst = Script(), 64, 8
        async with client(script, rate=rate, burst=burst) as fm:
            outcomes = [outcome async for outcome in fm.sweep(f"u{number}" for number in range(50))]
        sent = [at for _, at in script.sent]
        assert len(sent) == len(outcomes) * 3 == 150
        for first in range(len(sent)):
            for last in range(first, len(sent)):
                assert last - first + 1 <= rate * (sent[last] - sent[first]) + burst
        capacity = capacity_of(rate, burst)
        assert burst // 2 <= capacity < burst
        assert sent[-1] - sent[0] == (150 - capacity) / rate, "and it is used to the full"
