"""A client belongs to one event loop of one process: elsewhere it refuses at once, and nothing hangs."""

import asyncio
import copy
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from flowmate_async import ConfigurationError, FlowMate, FlowMateSync, open_store
from flowmate_async.sandbox import Sandbox, SandboxOptions

pytestmark = pytest.mark.timeout(60)

TRANSPORTS = ["aiohttp", "wire"]


@pytest.fixture(scope="module")
def twin() -> Iterator[Sandbox]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox(SandboxOptions(users=3, seed=7))) as sandbox,
    ):
        yield sandbox


@pytest.fixture
def options(twin):
    return {"admin_token": twin.admin_token, "base_url": twin.url, "rate": None}


@pytest.fixture
def pair(twin):
    truth = next(iter(twin.world.truth()))
    return truth.username, truth.secret_id


async def everything(fm: FlowMate, pair: tuple[str, str]) -> dict[str, str]:
    """How each method of a client ends."""

    async def first(items):
        async for _ in items:
            break

    async def leased():
        async with fm.lease(*pair) as lease:
            return lease.secret

    async def kept_fresh():
        async with fm.keep_fresh([pair]):
            pass

    async def synced(job):
        async with open_store("memory:") as store:
            return await job(store, [pair[0]])

    calls = {
        "users": lambda: first(fm.users()),
        "impersonate": lambda: fm.impersonate(pair[0]),
        "list_secrets": lambda: fm.list_secrets(pair[0]),
        "get_secret": lambda: fm.get_secret(*pair),
        "credential": lambda: fm.credential(*pair),
        "lease": leased,
        "keep_fresh": kept_fresh,
        "sweep": lambda: first(fm.sweep([pair[0]])),
        "sync": lambda: synced(fm.sync),
        "plan_sync": lambda: synced(fm.plan_sync),
    }
    ends = {}
    for name, call in calls.items():
        try:
            async with asyncio.timeout(5):
                await call()
            ends[name] = "it works"
        except ConfigurationError as error:
            ends[name] = error.message
        except Exception as error:  # noqa: BLE001 - it is compared
            ends[name] = repr(error)
    return ends


class TestLoops:
    @pytest.mark.parametrize("transport", TRANSPORTS)
    @pytest.mark.parametrize("warm", [False, True])
    def test_another_loop_is_refused_and_the_own_one_goes_on(self, options, pair, transport, warm):
        """By every method. Only a fresh value in the cache is served anywhere, since it needs no loop."""

        async def main():
            async with FlowMate(**options, transport=transport) as fm:
                if warm:
                    assert set((await everything(fm, pair)).values()) == {"it works"}
                with ThreadPoolExecutor(1) as other:
                    job = other.submit(asyncio.run, everything(fm, pair))
                    ends = await asyncio.wrap_future(job)
                if warm:
                    assert ends.pop("credential") == "it works"
                assert set(ends.values()) == {"the client was entered on another event loop"}
                assert set((await everything(fm, pair)).values()) == {"it works"}

        asyncio.run(main())

    @pytest.mark.parametrize("transport", TRANSPORTS)
    def test_a_second_run_is_refused(self, options, pair, transport):
        """As with ``asyncio.run`` twice and one client, which is not left in between."""
        first = asyncio.new_event_loop()
        fm = FlowMate(**options, transport=transport)
        first.run_until_complete(fm.__aenter__())
        ends = asyncio.run(everything(fm, pair))
        assert set(ends.values()) == {"the client was entered on another event loop"}
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(fm.__aexit__(None, None, None))
        first.run_until_complete(fm.__aexit__(None, None, None))
        first.close()

    def test_a_client_may_be_made_anywhere(self, options, pair):
        fm = FlowMate(**options)

        async def main():
            async with fm:
                return await everything(fm, pair)

        assert set(asyncio.run(main()).values()) == {"it works"}

    def test_a_loop_that_is_driven_by_hand_will_do(self, options, pair):
        loop = asyncio.new_event_loop()
        fm = FlowMate(**options)
        try:
            loop.run_until_complete(fm.__aenter__())
            assert loop.run_until_complete(fm.credential(*pair)).id == pair[1]
            loop.run_until_complete(fm.__aexit__(None, None, None))
        finally:
            loop.close()

    def test_before_and_after_its_block_a_client_says_so(self, options, pair):
        async def main():
            fm = FlowMate(**options)
            assert set((await everything(fm, pair)).values()) == {"the client is used before it is entered"}
            async with fm:
                await fm.credential(*pair)
            assert set((await everything(fm, pair)).values()) == {"the client is closed"}

        asyncio.run(main())

    def test_trio_is_refused_with_what_to_do(self, options):
        async def main():
            async with FlowMate(**options):
                pass

        with pytest.raises(ConfigurationError, match=r"needs asyncio.*asyncio\.run"):
            anyio.run(main, backend="trio")


@contextmanager
def no_leftover_alarm() -> Iterator[None]:
    """End a child that hangs."""
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)


def in_forked_child(body: Callable[[], object]) -> str:
    """Fork, run something in the child, and return what it returned, or how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with no_leftover_alarm():
                said = str(body())
        except BaseException as error:  # noqa: BLE001 - it is compared
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said or f"the child ended with {status}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestForks:
    @pytest.mark.parametrize("transport", TRANSPORTS)
    def test_a_blocking_client_entered_before_refuses_by_every_method(self, options, pair, transport):
        """As with gunicorn --preload: the child has no thread for the client's loop."""

        def in_child():
            return {how_it_ends(call) for call in blocking_calls(fm, pair)}

        with FlowMateSync(**options, transport=transport) as fm:
            fm.credential(*pair)
            assert in_forked_child(in_child) == str({FORKED})
            assert fm.get_secret(*pair).id == pair[1], "the parent goes on"

    def test_a_child_leaves_the_blocks_that_it_inherits(self, options, pair):
        """An iterator and a client; without waiting, and without closing the parent's connections."""

        def in_child():
            users.close()
            fm.__exit__(None, None, None)
            return how_it_ends(fm.stats)

        with FlowMateSync(**options) as fm:
            users = fm.users()
            next(users)
            began = threading.active_count()
            assert in_forked_child(in_child) == FORKED
            assert threading.active_count() == began
            assert fm.get_secret(*pair).id == pair[1]
            assert list(users)

    def test_a_blocking_client_entered_after_works(self, options, pair):
        fm = FlowMateSync(**options)

        def in_child():
            with fm:
                return fm.get_secret(*pair).id

        assert in_forked_child(in_child) == pair[1]
        assert in_child() == pair[1]

    @pytest.mark.parametrize("transport", TRANSPORTS)
    def test_an_async_client_entered_before_is_refused(self, options, pair, transport):
        """In the inherited loop and in a new one; leaving it in the child does not affect the parent."""

        async def main():
            async with FlowMate(**options, transport=transport) as fm:
                await fm.credential(*pair)
                reading, writing = os.pipe()
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    ends = set()
                    for call in (fm.credential(*pair), fm.get_secret(*pair), fm.list_secrets(pair[0])):
                        try:
                            await call
                        except ConfigurationError as error:
                            ends.add(error.message)
                    await fm.__aexit__(None, None, None)
                    os.write(writing, str(ends).encode())
                    os._exit(0)
                os.close(writing)
                with os.fdopen(reading) as pipe:
                    assert pipe.read() == str({FORKED})
                await asyncio.to_thread(os.waitpid, child, 0)
                assert (await fm.get_secret(*pair)).id == pair[1], "the parent goes on"

        asyncio.run(main())

    def test_an_async_client_on_a_loop_of_the_child_is_refused(self, options, pair):
        loop = asyncio.new_event_loop()
        fm = FlowMate(**options)
        loop.run_until_complete(fm.__aenter__())
        ends = in_forked_child(lambda: set(asyncio.run(everything(fm, pair)).values()))
        assert ends == str({FORKED})
        loop.run_until_complete(fm.__aexit__(None, None, None))
        loop.close()


FORKED = "the client was entered before this process was forked"


def how_it_ends(call: Callable[[], object]) -> str:
    try:
        call()
    except ConfigurationError as error:
        return error.message
    return "it works"


def blocking_calls(fm: FlowMateSync, pair: tuple[str, str]) -> list[Callable[[], object]]:
    """A call of each method of a blocking client."""
    username = pair[0]
    return [
        lambda: next(fm.users()),
        lambda: fm.impersonate(username),
        lambda: fm.list_secrets(username),
        lambda: fm.get_secret(*pair),
        lambda: fm.credential(*pair),
        lambda: fm.lease(*pair).__enter__(),
        lambda: fm.keep_fresh([pair]).__enter__(),
        lambda: next(fm.sweep([username])),
        lambda: fm.sync(open_store("memory:"), [username]),
        lambda: fm.plan_sync(open_store("memory:"), [username]),
        lambda: fm.listening().__enter__(),
        fm.stats,
    ]


@pytest.mark.parametrize("kind", [FlowMate, FlowMateSync])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_cannot_be_copied_or_pickled(options, kind, duplicate):
    """A copy would share connections; a pickle would carry the admin token away."""
    with pytest.raises(TypeError, match="cannot be copied or pickled; make a client in each process"):
        duplicate(kind(**options))
