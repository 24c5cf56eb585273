"""The raw TCP proxy: what it does to bytes, and that it leaves nothing behind."""

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from flowmate_async.sandbox import FaultProxy, ProxyOptions, Sandbox

pytestmark = pytest.mark.anyio

BIG = 300_000


@asynccontextmanager
async def echo() -> Any:
    """A server that sends everything back and then ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while some := await reader.read(65536):
                writer.write(some)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


class Ends:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def exchange(self, sent: bytes) -> tuple[bytes, str, int]:
        """Send, read to the end: what came back, how it ended, in how many pieces."""
        came, pieces = b"", 0
        try:
            self.writer.write(sent)
            self.writer.write_eof()
            async with asyncio.timeout(20):
                while some := await self.reader.read(65536):
                    came, pieces = came + some, pieces + 1
        except ConnectionError:
            return came, "reset", pieces
        finally:
            self.writer.transport.abort()
        return came, "closed", pieces


async def through(proxy: FaultProxy) -> Ends:
    return Ends(*await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2])))


@asynccontextmanager
async def proxied(**options: Any) -> Any:
    async with echo() as target, FaultProxy(target, ProxyOptions(**options)) as proxy:
        yield proxy


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split_bytes": 3000},
        {"stall_share": 1.0, "stall_seconds": 0.01},
        {"up_delay_seconds": 0.002, "down_delay_seconds": 0.002},
    ],
)
async def test_bytes_that_are_not_cut_arrive_unchanged(options: Any) -> None:
    """Whatever happens to their timing; several connections at once."""
    async with proxied(**options) as proxy:
        sent = [bytes([number]) * BIG for number in range(5)]
        ends = [await through(proxy) for _ in sent]
        found = await asyncio.gather(*(end.exchange(some) for end, some in zip(ends, sent, strict=True)))
        assert [(came, end) for came, end, _ in found] == [(some, "closed") for some in sent]
        assert proxy.stats().bytes_up == proxy.stats().bytes_down == 5 * BIG
        assert proxy.stats().stalls == (5 if "stall_share" in options else 0)


async def test_split_bytes_come_one_by_one() -> None:
    """Each in its own segment; the reader's kernel may join two or three of them."""
    async with proxied(split_bytes=100) as proxy:
        came, _, pieces = await (await through(proxy)).exchange(b"x" * 100)
        assert (len(came), pieces >= 25) == (100, True)
    async with proxied() as proxy:
        assert (await (await through(proxy)).exchange(b"x" * 100))[2] < 10


async def test_a_cut_resets_the_connection_where_the_seed_says() -> None:
    """The same connections with the same seed, not with another."""

    async def cut_lengths(seed: int) -> list[tuple[int, str]]:
        async with proxied(seed=seed, cut_share=0.5, cut_within_bytes=500) as proxy:
            outcomes = []
            for _ in range(12):
                came, end, _ = await (await through(proxy)).exchange(b"x" * 500)
                outcomes.append((len(came), end))
            assert proxy.stats().cuts == sum(end == "reset" for _, end in outcomes)
            return outcomes

    once = await cut_lengths(1)
    assert once == await cut_lengths(1)
    assert once != await cut_lengths(2)
    assert {end for _, end in once} == {"closed", "reset"}


async def test_it_stands_in_front_of_a_sandbox(running: Any) -> None:
    """Answers in segments of one byte are answers."""
    async with (
        running() as (sandbox, _),
        FaultProxy(sandbox.url, ProxyOptions(split_bytes=5000)) as proxy,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(3):
            async with session.get(f"{proxy.url}/secrets/") as response:
                assert (await response.json())["message"] == "Missing authorization header."
        assert proxy.stats().connections == 1


async def test_it_leaves_nothing_behind_with_connections_open_and_stalled(dial: Any, until: Any) -> None:
    """No task, no listener; both ends of every connection are closed."""
    before = asyncio.all_tasks()
    async with Sandbox() as sandbox:
        options = ProxyOptions(stall_share=1.0, stall_within_bytes=1, stall_seconds=600)
        async with FaultProxy(sandbox.url, options) as proxy:
            url = proxy.url
            lines = [await dial(url) for _ in range(20)]
            for line in lines:
                line.ask("/secrets/")
            await until(lambda: proxy.stats().open == 20)
        assert proxy.stats().open == 0
        for line in lines:
            assert (await line.rest())[1] in ("closed", "reset")
        with pytest.raises(ConnectionRefusedError):
            await dial(url)
    assert asyncio.all_tasks() == before


async def test_it_turns_away_what_is_too_much(until: Any) -> None:
    """Bounded in connections; a freed place is taken again."""
    async with proxied(max_connections=2) as proxy:
        first, second = await through(proxy), await through(proxy)
        await until(lambda: proxy.stats().open == 2)
        assert (await (await through(proxy)).exchange(b"x"))[:2] == (b"", "reset")
        assert proxy.stats().turned_away == 1
        await first.exchange(b"x")
        await until(lambda: proxy.stats().open == 1)
        assert (await (await through(proxy)).exchange(b"x"))[0] == b"x"
        await second.exchange(b"x")


async def test_an_upstream_that_is_away_is_a_reset() -> None:
    """Nothing is answered in its name."""
    async with echo() as target:
        pass
    async with FaultProxy(target) as proxy:
        assert (await (await through(proxy)).exchange(b"x"))[:2] == (b"", "reset")


@pytest.mark.parametrize("turns", range(25))
async def test_whenever_it_ends_a_connection_that_is_being_cut_leaves_no_socket(turns: int) -> None:
    """Also when the end comes while a cut is being cleared up."""
    async with echo() as url:
        options = ProxyOptions(cut_share=1.0, cut_within_bytes=1)
        async with FaultProxy(url, options) as proxy:
            ends = await through(proxy)
            ends.writer.write(b"x")
            for _ in range(turns):
                await asyncio.sleep(0)
        ends.writer.transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)
        del ends, proxy
        gc.collect()  # an open socket that nobody holds warns, and a warning is an error
