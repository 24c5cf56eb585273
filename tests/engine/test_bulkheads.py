"""One OAuth client's provider never meets a storm: few refreshes at once, and a rest when they only fail."""

import asyncio

import pytest

from flowmate_async import BulkheadPolicy, RefreshFailedError
from flowmate_async.events import ProviderRefused
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, MemoryTransport, json_response

pytestmark = pytest.mark.anyio


async def swept(fm, users):
    return [outcome async for outcome in fm.sweep(f"user-{number}" for number in range(users))]


@pytest.mark.parametrize("carrier", [MemoryTransport, ImmediateMemoryTransport])
async def test_however_many_are_due_few_are_refreshed_at_once(provider, client, carrier):
    upstream = provider()
    async with client(upstream, carrier=carrier, rate=None, concurrency=200) as fm:
        outcomes = await swept(fm, 400)
    assert len(outcomes) == upstream.asked == 400
    assert not [outcome for outcome in outcomes if hasattr(outcome, "error")]
    assert upstream.most_inside == 8


async def test_the_cap_is_an_option_and_statistics_tell_who_waits(provider, client):
    upstream = provider(seconds=5)
    policy = BulkheadPolicy(refreshes=3)
    async with client(upstream, rate=None, concurrency=20, bulkhead=policy) as fm:
        pairs = pairs_of(20)
        await asyncio.gather(*(fm.list_secrets(user) for user, _ in pairs))
        task = asyncio.gather(*(fm.credential(*pair) for pair in pairs))
        await asyncio.sleep(1)
        standing = fm.stats().traffic.bulkheads
        assert (standing.clients, standing.refreshing, standing.waiting) == (1, 3, 17)
        await task
        standing = fm.stats().traffic.bulkheads
        assert (standing.refreshing, standing.waiting, standing.open, standing.refused) == (0, 0, 0, 0)
    assert upstream.most_inside == 3


async def test_a_worker_that_renews_is_under_the_same_cap(provider, client):
    """What a cached credential says of its OAuth client is known without a listing."""
    upstream = provider()
    async with client(upstream, rate=None, concurrency=100) as fm:
        pairs = [(f"user-{number}", f"secret-of-user-{number}") for number in range(50)]
        await asyncio.gather(*(fm.credential(*pair, min_valid=0) for pair in pairs))
        upstream.most_inside = 0
        leases = [fm.lease(*pair, min_valid=0) for pair in pairs]
        for lease in leases:
            await lease.__aenter__()
        await asyncio.gather(*(lease.reject() for lease in leases), return_exceptions=True)
    assert upstream.asked == 100
    assert upstream.most_inside == 8


async def test_a_provider_that_only_fails_is_given_a_rest(provider, client):
    upstream, events = provider(), []
    upstream.failing = True
    async with client(upstream, rate=None, concurrency=64, on_event=events.append) as fm:
        outcomes = await swept(fm, 1000)
        assert len(outcomes) == 1000
        assert upstream.asked <= 20 + 8
        refused = fm.stats().traffic.bulkheads.refused
        assert refused == 1000 - upstream.asked == sum(isinstance(event, ProviderRefused) for event in events)
        assert fm.stats().traffic.bulkheads.open == 1
    errors = {str(outcome.error) for outcome in outcomes if outcome.error.message.startswith("the provider")}
    assert all(isinstance(outcome.error, RefreshFailedError) for outcome in outcomes)
    assert all("client-1" in error and "nothing was sent" in error for error in errors)
    assert len(errors) == refused, "each names its user and secret"


async def test_after_its_rest_one_refresh_tells_whether_it_is_well_again(provider, client):
    upstream = provider()
    upstream.failing = True
    async with client(upstream, rate=None, concurrency=64) as fm:
        await swept(fm, 200)
        asked = upstream.asked
        await asyncio.sleep(30)
        await swept(fm, 50)
        assert upstream.asked == asked + 1
        upstream.failing = False
        await asyncio.sleep(60)
        outcomes = await swept(fm, 50)
        assert not any(hasattr(outcome, "error") for outcome in outcomes), (
            "they wait for how the first one fares"
        )


async def test_what_is_not_due_is_no_refresh_and_under_no_cap(provider, client):
    """A GET with much time left never reaches the provider."""
    upstream = fresh(provider)()
    async with client(upstream, rate=None, concurrency=200) as fm:
        assert len(await swept(fm, 400)) == upstream.asked == 400
        assert fm.stats().traffic.bulkheads.clients == 0
    assert upstream.most_inside > 64


async def test_a_few_users_whose_grant_is_gone_do_not_stop_the_others(provider, client):
    """Refused refreshes are everyday life, as long as others go well."""

    class Some(provider):
        async def _refresh(self, secret_id):
            answer = await super()._refresh(secret_id)
            gone = int(secret_id.rpartition("-")[2]) % 3 != 0
            return json_response(b'{"message":""}', 500) if gone else answer

    upstream = Some()
    async with client(upstream, rate=None, concurrency=64) as fm:
        outcomes = await swept(fm, 600)
        assert fm.stats().traffic.bulkheads.refused == 0
    assert sum(hasattr(outcome, "error") for outcome in outcomes) == 400


async def test_other_secrets_pass_by_a_provider_that_hangs(provider, client):
    class Mixed(provider):
        async def __call__(self, method, path, headers, body):
            if path == "/secrets/simple":
                return json_response(
                    b'{"data":{"_id":"simple","type":"SIMPLE","value":{"username":"u","passphrase":"p"}}}'
                )
            return await super().__call__(method, path, headers, body)

    upstream = Mixed(seconds=25)
    async with client(upstream, rate=None, concurrency=64) as fm:
        background = asyncio.create_task(swept(fm, 64))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        assert (await fm.get_secret("somebody", "simple")).type == "SIMPLE"
        assert asyncio.get_running_loop().time() - began < 0.1
        background.cancel()
        await asyncio.wait([background])


def cold(fm, how, pair):
    """Fetch a secret of which nothing is known, in one of the ways there are."""
    if how == "lease":
        return leased(fm, pair)
    return fm.credential(*pair) if how == "credential" else fm.get_secret(*pair)


async def leased(fm, pair):
    async with fm.lease(*pair) as lease:
        return lease.secret


def pairs_of(users):
    return [(f"user-{number}", f"secret-of-user-{number}") for number in range(users)]


@pytest.mark.parametrize("carrier", [MemoryTransport, ImmediateMemoryTransport])
@pytest.mark.parametrize("how", ["credential", "get_secret", "lease"])
@pytest.mark.parametrize("listed", [True, False])
async def test_cold_fetches_keep_to_the_limit_of_a_client(provider, client, carrier, how, listed):
    """Whether a listing has shown the secrets before, or they are unknown."""
    upstream = provider()
    async with client(upstream, carrier=carrier, rate=None, concurrency=64) as fm:
        pairs = pairs_of(200)
        if listed:
            await asyncio.gather(*(fm.list_secrets(user) for user, _ in pairs))
        listings = fm.stats().requests.get("GET /secrets/", 0)
        got = await asyncio.gather(*(cold(fm, how, pair) for pair in pairs))
        if listed:
            assert fm.stats().requests["GET /secrets/"] == listings, "what is known is not asked for again"
    assert [secret.id for secret in got] == [secret_id for _, secret_id in pairs]
    assert upstream.asked == 200
    assert upstream.most_inside == 8


async def test_keep_fresh_keeps_to_the_limit_too(provider, client):
    upstream = provider()
    policy = BulkheadPolicy(refreshes=3)
    async with client(upstream, rate=None, bulkhead=policy) as fm, fm.keep_fresh(pairs_of(40)):
        await asyncio.sleep(60)
    assert upstream.asked == 40
    assert upstream.most_inside == 3


async def test_cold_plain_reads_are_not_held_to_the_limit_of_refreshes(provider, client):
    """They are unknown at first, so a listing of each user shows that they need no slot."""
    times = {}
    for refreshes in (8, 1000):
        upstream = fresh(provider)()
        policy = BulkheadPolicy(refreshes=refreshes)
        async with client(upstream, rate=None, concurrency=64, bulkhead=policy) as fm:
            began = asyncio.get_running_loop().time()
            await asyncio.gather(*(fm.credential(*pair) for pair in pairs_of(400)))
            times[refreshes] = asyncio.get_running_loop().time() - began
            assert fm.stats().requests.get("GET /secrets/", 0) <= 400
        assert upstream.asked == 400
    assert times[8] <= 2 * times[1000]


async def test_a_lookup_is_one_listing_per_user(client):
    """Many secrets of one user are looked up together."""
    upstream = ManySecrets(users=4, secrets=50)
    async with client(upstream, rate=None, concurrency=64) as fm:
        await asyncio.gather(*(fm.credential(*pair) for pair in upstream.pairs()))
        assert fm.stats().requests["GET /secrets/"] <= 4
    assert upstream.most_inside > 32


@pytest.mark.parametrize("how", ["credential", "get_secret"])
@pytest.mark.parametrize("together", [True, False])
async def test_cold_fetches_try_a_provider_that_refuses_everything_few_times(provider, client, how, together):
    """As few as a sweep does, at once or one after the other."""
    upstream = provider(seconds=0.01)
    upstream.failing = True
    async with client(upstream, rate=None, concurrency=64) as fm:
        if together:
            calls = (cold(fm, how, pair) for pair in pairs_of(400))
            got = await asyncio.gather(*calls, return_exceptions=True)
        else:
            got = [
                (await asyncio.gather(cold(fm, how, pair), return_exceptions=True))[0]
                for pair in pairs_of(400)
            ]
        assert fm.stats().traffic.bulkheads.open == 1
    assert {type(error) for error in got} == {RefreshFailedError}
    assert upstream.asked <= 20 + 8
    assert sum("client-1" in str(error) for error in got) >= 400 - 20 - 8


async def test_a_resting_client_rests_for_secrets_that_nothing_is_known_of(provider, client):
    """One more listing shows their client; secrets of another client are fetched meanwhile."""
    upstream = provider(seconds=0.01)
    upstream.failing = True
    async with client(upstream, rate=None, concurrency=64) as fm:
        await swept(fm, 100)
        asked = upstream.asked
        with pytest.raises(RefreshFailedError, match=r"client-1.*nothing was sent"):
            await fm.credential("user-900", "secret-of-user-900")
        assert upstream.asked == asked
        upstream.failing, upstream.client = False, "client-2"
        await fm.credential("user-901", "secret-of-user-901")
        assert upstream.asked == asked + 1


async def test_unlisted_secrets_share_one_limit(provider, client):
    """Those of a tenant are in no listing, so whose they are stays unknown until they are answered."""

    class Unlisted(provider):
        async def __call__(self, method, path, headers, body):
            if path.startswith("/secrets/?"):
                return json_response(b'{"data":[],"meta":{"total":0}}')
            return await super().__call__(method, path, headers, body)

    upstream = Unlisted()
    async with client(upstream, rate=None, concurrency=64) as fm:
        await asyncio.gather(*(fm.credential(*pair) for pair in pairs_of(100)))
        assert upstream.most_inside == 8
        await asyncio.sleep(120)  # what went well before counts for a minute
        upstream.failing = True
        others = [(user, f"other-{secret_id}") for user, secret_id in pairs_of(400)]
        got = await asyncio.gather(*(fm.credential(*pair) for pair in others), return_exceptions=True)
        assert upstream.asked <= 100 + 20 + 8
        assert "OAuth client is unknown has just failed" in str(got[-1])


async def test_a_secret_that_becomes_known_while_it_waits_needs_no_slot(provider, client):
    """Here a listing shows it late; it may also be an answer to another owner."""

    class Late(fresh(provider)):
        listed = False

        async def __call__(self, method, path, headers, body):
            if path.startswith("/secrets/?") and not self.listed:
                return json_response(b'{"data":[],"meta":{"total":0}}')
            return await super().__call__(method, path, headers, body)

    upstream = Late(seconds=5)
    async with client(upstream, rate=None, concurrency=64) as fm:
        pairs = pairs_of(50)
        began = asyncio.get_running_loop().time()
        task = asyncio.gather(*(fm.get_secret(*pair) for pair in pairs))
        await asyncio.sleep(1)
        upstream.listed = True
        await asyncio.gather(*(fm.list_secrets(user) for user, _ in pairs))
        await task
        assert asyncio.get_running_loop().time() - began < 12
    assert upstream.most_inside > 8


async def test_a_listing_that_fails_is_not_the_callers_failure(provider, client):
    class NoListings(provider):
        async def __call__(self, method, path, headers, body):
            if path.startswith("/secrets/?"):
                return json_response(b'{"message":""}', 403)
            return await super().__call__(method, path, headers, body)

    upstream = NoListings()
    async with client(upstream, rate=None, concurrency=64) as fm:
        await asyncio.gather(*(fm.credential(*pair) for pair in pairs_of(50)))
    assert upstream.most_inside == 8


async def test_a_hanging_provider_does_not_hold_up_an_unlisted_secret(provider, client):
    class Mixed(provider):
        async def __call__(self, method, path, headers, body):
            if path == "/secrets/simple":
                return json_response(
                    b'{"data":{"_id":"simple","type":"SIMPLE","value":{"username":"u","passphrase":"p"}}}'
                )
            return await super().__call__(method, path, headers, body)

    async with client(Mixed(seconds=25), rate=None, concurrency=64) as fm:
        background = asyncio.create_task(swept(fm, 64))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(fm.get_secret(f"somebody-{number}", "simple") for number in range(20)))
        assert asyncio.get_running_loop().time() - began < 1
        background.cancel()
        await asyncio.wait([background])


def fresh(provider):
    """A provider's upstream whose secrets need no refresh."""

    class Fresh(provider):
        async def __call__(self, method, path, headers, body):
            answer = await super().__call__(method, path, headers, body)
            return json_response(answer.body.replace(b"2020-01-01", b"2033-01-01"), answer.status)

    return Fresh


class ManySecrets:
    """Users with many API keys each."""

    def __init__(self, *, users, secrets):
        self.users, self.secrets = users, secrets
        self.inside = self.most_inside = 0

    def pairs(self):
        return [
            (f"user-{user}", f"user-{user}-{number}")
            for user in range(self.users)
            for number in range(self.secrets)
        ]

    async def __call__(self, method, path, headers, body):
        if method == "POST":
            return json_response(b'{"token":"%s"}' % body[13:-2])
        user = dict(headers.pairs)["Authorization"].removeprefix("Bearer ")
        await asyncio.sleep(0.05)
        if path.startswith("/secrets/?"):
            data = [b'{"_id":"%s","type":"API_KEY"}' % i.encode() for u, i in self.pairs() if u == user]
            return json_response(b'{"data":[%s],"meta":{"total":%d}}' % (b",".join(data), len(data)))
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await asyncio.sleep(0.2)
        self.inside -= 1
        secret_id = path.rpartition("/")[2].encode()
        return json_response(b'{"data":{"_id":"%s","type":"API_KEY","value":{"key":"k"}}}' % secret_id)


@pytest.mark.parametrize("carrier", [MemoryTransport, ImmediateMemoryTransport])
async def test_a_crash_of_the_listing_that_identifies_a_client_loses_no_call(provider, client, carrier):
    """The fault is in the transport; every caller gets an answer or error, and the secret is fetched."""

    class Crashing(provider):
        async def __call__(self, method, path, headers, body):
            if path.startswith("/secrets/?"):
                raise LookupError("a bug")
            return await super().__call__(method, path, headers, body)

    upstream = Crashing()
    async with client(upstream, carrier=carrier, rate=None, concurrency=64) as fm:
        async with asyncio.timeout(1000):
            calls = (fm.credential(*pair) for pair in pairs_of(50))
            got = await asyncio.gather(*calls, return_exceptions=True)
        assert not [error for error in got if isinstance(error, asyncio.TimeoutError)]
        assert {type(one) for one in got if isinstance(one, Exception)} <= {LookupError}
        assert fm.stats().flights["secret"].under_way == 0
