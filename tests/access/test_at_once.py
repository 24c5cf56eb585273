"""What a transport sends at once, without a task: the same promises, whichever way a request goes."""

import asyncio
import gc
from collections import Counter

import pytest

from flowmate_async import (
    ConfigurationError,
    FlowMate,
    RefreshFailedError,
    RetryPolicy,
    TransportError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.testing.memory_transport import (
    ImmediateMemoryTransport,
    MemoryTransport,
    json_response,
)

pytestmark = pytest.mark.anyio

SECRET = b'{"data":{"_id":"s","type":"SIMPLE","value":{"username":"u","passphrase":"p"}}}'


@pytest.fixture
def anyio_backend(virtual_time):
    return virtual_time


class Upstream:
    """Answers GETs with what it is given, after some seconds each; ``asked`` holds the moments of them."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.tokens = 0
        self.seconds = 1

    async def __call__(self, method, path, headers, body):
        if method == "POST":
            self.tokens += 1
            return json_response(b'{"token":"t%d"}' % self.tokens)
        self.asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.seconds)
        answer = self.answers.pop(0) if self.answers else json_response(SECRET)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Watched(ImmediateMemoryTransport):
    """Counts what was sent at once, by method."""

    def __init__(self, answer):
        super().__init__(answer)
        self.at_once = Counter()

    def send_at_once(self, method, *request, then):
        self.at_once[method] += 1
        return super().send_at_once(method, *request, then=then)


@pytest.fixture
def upstream():
    return Upstream()


@pytest.fixture
def transport(upstream):
    return Watched(upstream)


@pytest.fixture
async def fm(transport):
    async with FlowMate(admin_token="a", transport=transport, rate=None) as client:
        await client.impersonate("u")
        yield client


async def test_all_who_ask_at_once_share_one_request(fm, upstream, transport):
    secrets = await asyncio.gather(*(fm.get_secret("u", "s") for _ in range(100)))
    assert all(secret is secrets[0] for secret in secrets)
    assert (len(upstream.asked), transport.at_once) == (1, {"POST": 1, "GET": 1})
    assert fm.stats().joined["secret"] == 99


async def test_a_failure_is_retried_with_its_wait_and_counts_as_an_attempt(transport, upstream):
    upstream.answers = [json_response(b"", 503)] * 2
    retry = RetryPolicy(attempts=2)
    async with FlowMate(admin_token="a", transport=transport, rate=None, retry=retry) as fm:
        await fm.impersonate("u")
        with pytest.raises(UpstreamUnavailableError, match="'u', secret 's'"):
            await fm.get_secret("u", "s")
        assert len(upstream.asked) == 2
        assert fm.stats().retries == {"upstream_unavailable": 1}


async def test_a_timeout_of_a_refreshing_get_is_let_lie_past_the_lock(fm, upstream):
    upstream.answers = [TransportError("timeout", "")]
    await fm.get_secret("u", "s")
    first, second = upstream.asked
    assert second - first > 11


async def test_what_may_still_be_refreshing_is_left_alone_by_newcomers(fm, upstream):
    upstream.answers = [TransportError("timeout", "")]
    task = asyncio.create_task(fm.get_secret("u", "s"))
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task])
    for _ in range(9):
        with pytest.raises(RefreshFailedError, match="nothing was sent"):
            await fm.get_secret("u", "s")
        await asyncio.sleep(1)
    await asyncio.sleep(1)
    await fm.get_secret("u", "s")
    first, second = upstream.asked
    assert second - first >= 11  # it was answered for one second, and the lock takes ten


async def test_a_rejected_token_is_replaced_once(fm, upstream):
    upstream.answers = [json_response(b'{"message":"Token not found"}', 401)]
    await fm.get_secret("u", "s")
    assert (upstream.tokens, len(upstream.asked)) == (2, 2)


async def test_a_token_that_is_used_does_not_idle(fm, upstream):
    for _ in range(5):
        await asyncio.sleep(3600)
        await fm.get_secret("u", "s")
    assert upstream.tokens == 1


async def test_an_answer_that_nobody_waits_for_any_more_is_kept_in_the_cache(fm, upstream):
    task = asyncio.create_task(fm.credential("u", "s"))
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.sleep(10)
    assert (await fm.credential("u", "s")).id == "s"
    assert len(upstream.asked) == 1


async def test_an_answer_that_cannot_be_read_is_everybodys_error(fm, upstream):
    upstream.answers = [json_response(b'{"data":{}}')]
    outcomes = await asyncio.gather(*(fm.get_secret("u", "s") for _ in range(3)), return_exceptions=True)
    assert len({id(error) for error in outcomes}) == 3
    assert all("not what the contract documents" in str(error) for error in outcomes)
    assert all(error.username == "u" and error.secret_id == "s" for error in outcomes)


async def test_who_gives_up_harms_nobody_and_what_is_on_the_wire_ends(fm, upstream):
    first, second = (asyncio.create_task(fm.get_secret("u", "s")) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert (await second).id == "s"
    assert len(upstream.asked) == 1
    third = asyncio.create_task(fm.get_secret("u", "s"))
    await asyncio.sleep(0.5)
    third.cancel()
    await asyncio.wait([third])
    assert (await fm.get_secret("u", "s")).id == "s", "joined what the third left"
    assert len(upstream.asked) == 2


async def test_what_nobody_wants_any_more_is_not_sent_again(fm, upstream):
    upstream.answers = [json_response(b"", 503)]
    task = asyncio.create_task(fm.get_secret("u", "s"))
    await asyncio.sleep(0.5)
    task.cancel()
    await asyncio.sleep(60)
    assert len(upstream.asked) == 1
    flights = fm.stats().flights["secret"]
    assert (flights.under_way, flights.waiting) == (0, 0)


async def test_closing_waits_for_what_is_on_the_wire(transport, upstream):
    async with FlowMate(admin_token="a", transport=transport, rate=None) as fm:
        await fm.impersonate("u")
        task = asyncio.create_task(fm.get_secret("u", "s"))
        await asyncio.sleep(0.5)
    assert (await task).id == "s"


async def test_closing_waits_no_longer_than_it_says(transport, upstream):
    upstream.seconds = 1000
    async with FlowMate(admin_token="a", transport=transport, rate=None) as fm:
        await fm.impersonate("u")
        task = asyncio.create_task(fm.get_secret("u", "s"))
        await asyncio.sleep(0.5)
    with pytest.raises(ConfigurationError, match="closed"):
        await task
    assert asyncio.get_running_loop().time() < 100
    assert len(upstream.asked) == 1


async def test_a_request_that_waited_for_a_slot_is_sent_at_once_too(upstream, transport):
    async with FlowMate(admin_token="a", transport=transport, rate=None, concurrency=2) as fm:
        await fm.impersonate("u")
        ids = [f"s{number}" for number in range(6)]
        upstream.answers = [json_response(SECRET.replace(b'"s"', b'"%s"' % one.encode())) for one in ids]
        assert [
            secret.id for secret in await asyncio.gather(*(fm.get_secret("u", one) for one in ids))
        ] == ids
        assert transport.at_once == {"POST": 1, "GET": 6}
        assert fm.stats().traffic.max_in_flight == 2


async def test_what_the_transport_does_not_take_at_once_is_sent_with_a_task(upstream):
    class Sometimes(Watched):
        def send_at_once(self, method, *request, then):
            taken = super().send_at_once if sum(self.at_once.values()) % 2 else self._refuse
            return taken(method, *request, then=then)

        def _refuse(self, method, *_request, then):
            self.at_once["refused"] += 1
            return False

    transport = Sometimes(upstream)
    async with FlowMate(admin_token="a", transport=transport, rate=None, concurrency=2) as fm:
        await fm.impersonate("u")
        for _ in range(4):
            assert (await fm.get_secret("u", "s")).id == "s"
        assert transport.at_once["refused"] >= 2
        assert transport.sent == len(upstream.asked) + 1 == 5
        assert fm.stats().traffic.in_flight == 0


async def test_a_listener_that_fails_breaks_nothing(upstream, transport):
    def listener(event):
        raise LookupError

    async with FlowMate(admin_token="a", transport=transport, rate=None, on_event=listener) as fm:
        await fm.impersonate("u")
        assert (await fm.get_secret("u", "s")).id == "s"


async def test_when_the_time_is_over_the_error_says_so(transport, upstream):
    upstream.answers = [TransportError("timeout", "")]
    async with FlowMate(admin_token="a", transport=transport, rate=None, retry=RetryPolicy(attempts=1)) as fm:
        await fm.impersonate("u")
        with pytest.raises(UpstreamTimeoutError):
            await fm.get_secret("u", "s")


WAYS = [MemoryTransport, ImmediateMemoryTransport]


@pytest.mark.parametrize("way", WAYS)
async def test_a_fault_of_the_transport_reaches_the_caller(way):
    """And leaves no slot taken and no flight behind that others would join."""
    upstream = Upstream(LookupError("a bug"))
    async with FlowMate(admin_token="a", transport=way(upstream), rate=None, concurrency=1) as fm:
        await fm.impersonate("u")
        with pytest.raises(LookupError):
            await fm.get_secret("u", "s")
        assert fm.stats().traffic.in_flight == fm.stats().flights["secret"].under_way == 0
        async with asyncio.timeout(100):
            assert (await fm.get_secret("u", "s")).id == "s"


async def test_a_transport_that_cannot_even_begin_leaves_nothing_behind(upstream):
    class Broken(ImmediateMemoryTransport):
        broken = True

        def send_at_once(self, method, *request, then):
            if self.broken and method == "GET":
                raise LookupError("a bug")
            return super().send_at_once(method, *request, then=then)

    transport = Broken(upstream)
    async with FlowMate(admin_token="a", transport=transport, rate=None, concurrency=1) as fm:
        await fm.impersonate("u")
        with pytest.raises(LookupError):
            await fm.get_secret("u", "s")
        transport.broken = False
        async with asyncio.timeout(100):
            assert (await fm.get_secret("u", "s")).id == "s"


async def test_it_may_be_told_before_the_call_has_returned(upstream):
    """As with tasks that start eagerly."""

    class Eager(ImmediateMemoryTransport):
        def send_at_once(self, method, *request, then):
            if method == "POST":
                return super().send_at_once(method, *request, then=then)
            then(json_response(SECRET))
            return True

    async with FlowMate(admin_token="a", transport=Eager(upstream), rate=None) as fm:
        await fm.impersonate("u")
        assert (await fm.get_secret("u", "s")).id == "s"
        assert fm.stats().traffic.in_flight == fm.stats().traffic.limiter.admitted == 0


@pytest.mark.parametrize("way", WAYS)
async def test_closing_does_not_send_again_what_nobody_wants(way):
    upstream = Upstream(json_response(b"", 503))
    async with FlowMate(admin_token="a", transport=way(upstream), rate=None) as fm:
        await fm.impersonate("u")
        task = asyncio.create_task(fm.get_secret("u", "s"))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_closed_client_holds_no_credential(way):
    async with FlowMate(admin_token="a", transport=way(Upstream()), rate=None) as fm:
        await fm.impersonate("u")
        task = asyncio.create_task(fm.credential("u", "s"))
        await asyncio.sleep(0.5)
    await task
    assert fm.stats().cache.entries == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_close_that_is_cancelled_leaves_nothing_running(way):
    upstream = Upstream()
    upstream.seconds = 1000
    fm, before = FlowMate(admin_token="a", transport=way(upstream), rate=None), asyncio.all_tasks()
    await fm.__aenter__()
    await fm.impersonate("u")
    waiting = asyncio.create_task(fm.get_secret("u", "s"))
    await asyncio.sleep(0.5)
    closing = asyncio.create_task(fm.__aexit__(None, None, None))
    await asyncio.sleep(0.5)
    closing.cancel()
    await asyncio.wait([closing])
    await asyncio.sleep(0.1)
    assert not asyncio.all_tasks() - before - {waiting}
    with pytest.raises(ConfigurationError, match="closed"):
        await waiting


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_that_was_answered_leaves_nothing_to_the_garbage_collector(upstream, way):
    async with FlowMate(admin_token="a", transport=way(upstream), rate=None) as fm:
        await fm.impersonate("u")
        gc.collect()
        gc.disable()
        try:
            before = kinds_alive()
            for _ in range(5):
                await fm.get_secret("u", "s")
            await asyncio.sleep(0)
            assert kinds_alive() == before
        finally:
            gc.enable()


def kinds_alive():
    """How many objects of this library's request path there are, by type."""
    kinds = {"Flight", "_Impersonation", "AwaitedCall", "Trouble", "Refresh", "_Load"}
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in kinds)
