"""Both transports read the same bytes alike, and an independent parser agrees wherever they answer.

A seeded grammar (``answer_grammar.py``) makes whole answers in every framing, mutates them and cuts them;
each is put before both transports over loopback, and hypothesis looks for small counterexamples in the same
grammar. Some hundred cases run with the suite; ``make fuzz-transport`` runs 100,000.

The independent parser is the one of ``aiohttp.ClientSession``. It is more lenient (a bare LF for a line's
end, blanks after a chunk's size, odd characters and folds in headers), so that only one direction is checked:
what the transports answer, it answers too, and in the same way.

What is tolerated between the transports, and why:

1. Which failure it is: a stream that is broken and cut short may be reported as either.
2. Bytes after the answer: whether they arrive in time to be seen with it depends on the network. Then an
   answer and a failure are both right; but the answer must be the one before them, and the next request never
   meets them.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter

import aiohttp
import pytest
import uvloop
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpResponseParser
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmate_async import Headers, Limits, Response, TransportError
from flowmate_async.transport.aiohttp import AiohttpTransport
from flowmate_async.transport.tls import client_context
from flowmate_async.transport.wire import WireTransport
from flowmate_async.transport.wire.framing import AnswerReader

from .answer_grammar import Case, case

CASES = int(os.environ.get("FLOWMATE_FUZZ_CASES", "600"))
SEED = int(os.environ.get("FLOWMATE_TEST_SEED", "7"))
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
CAP = 10_000
LIMITS = Limits(timeout_seconds=5.0, max_body_bytes=CAP)
NEXT = Response(200, {"content-length": "6"}, b'"next"')

Outcome = tuple[int, dict[str, str], bytes] | str


class Player(asyncio.Protocol):
    """A server's end of a connection: plays the case to the first request, and a fixed answer to others."""

    def __init__(self, stage):
        self.stage = stage
        self.ended = False

    def connection_made(self, transport):
        self.transport = transport
        self.stage.open.add(self)

    def data_received(self, data):
        self.stage.requests += 1
        if self.ended:
            self.transport.abort()  # the client had not seen the end yet
        elif self.stage.case is None:
            self.transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"next"')
        else:
            self.stage.playing = asyncio.ensure_future(self.play(self.stage.case))
            self.stage.case = None

    async def play(self, played):
        for piece in played.pieces:
            if self.transport.is_closing():
                return
            self.transport.write(piece)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if played.lingers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.005):
                    await self.stage.answered.wait()
                return
        self.end()

    def end(self):
        if not self.ended and not self.transport.is_closing():
            self.ended = True
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()

    def connection_lost(self, error):
        self.stage.open.discard(self)
        if not self.stage.open:
            self.stage.empty.set()


class Stage:
    """A loopback server and one transport to it, on which one case is played at a time."""

    def __init__(self, kind):
        self.kind = kind
        self.open = set()
        self.requests = 0
        self.case = None

    async def __aenter__(self):
        self.answered, self.empty = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Player(self), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.transport = await self.kind(url, user_agent="test", tls=client_context()).__aenter__()
        return self

    async def __aexit__(self, *_):
        await self.transport.__aexit__(None, None, None)
        self.server.close()

    async def perform(self, played) -> tuple[Outcome, Outcome]:
        """How a request to which this case is played ends, and how the next one does."""
        self.case = played
        self.answered.clear()
        self.empty.clear()
        before = self.requests
        first = await self.outcome()
        assert self.requests == before + 1, "sent more than once"
        self.answered.set()
        # What comes after the next request was sent is its answer, for all that anybody can tell.
        await self.playing
        await asyncio.sleep(0.0005)
        second = await self.outcome()
        for player in list(self.open):
            player.end()
        async with asyncio.timeout(5):
            while self.open:
                self.empty.clear()
                await self.empty.wait()
        return first, second

    async def outcome(self) -> Outcome:
        try:
            answer = await self.transport.send("GET", "/", Headers(), None, LIMITS)
        except TransportError as error:
            return error.failure
        return answer.status, answer.headers, answer.body


def read(played: Case) -> tuple[Outcome, bool]:
    """Return what comes out byte by byte, and whether bytes are left over."""
    reader = AnswerReader()
    reader.max_body_bytes = CAP
    stream = b"".join(played.pieces)
    for at in range(len(stream)):
        read = reader.feed(stream[at : at + 1])
        if isinstance(read, TransportError):
            return read.failure, False
        if read is not None:
            return (read.status, read.headers, read.body), at + 1 < len(stream)
    end = reader.end()
    return ("interrupted" if end is None else (end.status, end.headers, end.body)), False


def independently(played: Case) -> Outcome:
    """Return what aiohttp's own parser makes of the stream."""
    loop = asyncio.new_event_loop()
    parser = HttpResponseParser(
        BaseProtocol(loop), loop, 2**16, payload_exception=aiohttp.ClientPayloadError, auto_decompress=False,
        response_with_body=True, read_until_eof=True,
    )  # fmt: skip
    try:
        messages, _, _ = parser.feed_data(b"".join(played.pieces))
        final = [(message, body) for message, body in messages if not 100 <= message.code < 200]
        if not final:
            return "interrupted"
        message, body = final[0]
        if not body.is_eof():
            parser.feed_eof()
        read = body.read_nowait()
    except (HttpProcessingError, aiohttp.ClientError) as error:
        return type(error).__name__
    finally:
        loop.close()
    if not body.is_eof():
        return "interrupted"
    fields: dict[str, str] = {}
    for name, value in message.headers.items():
        before = [fields[name.lower()]] if name.lower() in fields else []
        fields[name.lower()] = ", ".join([*before, value.strip(" \t")])
    # The last of a repeated header may be empty; no value ends with a blank (RFC 9110 § 5.5).
    return message.code, {name: value.strip(" \t") for name, value in fields.items()}, read


def is_answer(outcome: Outcome) -> bool:
    return not isinstance(outcome, str)


def verdict(played: Case, wire: Outcome, aiohttp: Outcome) -> str:
    """Return what the outcomes are to each other; raise if that is not tolerated."""
    expected, surplus = read(played)
    independent = independently(played)
    for ours in (wire, aiohttp):
        if is_answer(ours):
            assert ours == expected
            assert surplus or independent == ours, "aiohttp's own parser disagrees"
        else:
            assert surplus or not is_answer(expected), "it depends on the cuts"
    if surplus:
        return "surplus"
    if is_answer(wire):
        return "same answer"
    if is_answer(independent):
        return "lenient parser"
    return "same failure" if wire == aiohttp else "another failure"


def check(played: Case, outcomes: list[tuple[Outcome, Outcome]]) -> str:
    for _, following in outcomes:
        assert following == (NEXT.status, NEXT.headers, NEXT.body) or following in ("stale", "interrupted")
    return verdict(played, *(first for first, _ in outcomes))


class Theatre:
    """Both stages on one loop."""

    def __init__(self, loop_name):
        self.runner = asyncio.Runner(loop_factory=LOOPS[loop_name])
        self.stages = [Stage(WireTransport), Stage(AiohttpTransport)]

    def __enter__(self):
        for stage in self.stages:
            self.runner.run(stage.__aenter__())
        return self

    def __exit__(self, *_):
        for stage in self.stages:
            self.runner.run(stage.__aexit__())
        self.runner.close()

    def perform(self, played: Case) -> str:
        async def both():
            return [await stage.perform(played) for stage in self.stages]

        outcomes = self.runner.run(both())
        try:
            return check(played, outcomes)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{played}\nwire, aiohttp: {outcomes}\nindependent: {independently(played)}"
            ) from error


@pytest.fixture(scope="module", params=LOOPS)
def theatre(request):
    with Theatre(request.param) as made:
        yield made


@pytest.mark.timeout(7200)
def test_both_read_the_same_bytes_alike(theatre, capsys):
    seen = Counter()
    for number in range(CASES):
        try:
            seen[theatre.perform(case(random.Random(f"{SEED}-{number}")))] += 1
        except AssertionError as error:
            raise AssertionError(f"case {SEED}-{number}: {error}") from error
    with capsys.disabled():
        if "FLOWMATE_FUZZ_CASES" in os.environ:
            sys.stdout.write(f"\n{CASES} cases: {dict(seen)}\n")
    assert seen.keys() >= {"same answer", "same failure", "lenient parser", "surplus"}, (
        "the grammar is too tame"
    )
    assert seen["same answer"] > CASES / 10


@given(choose=st.randoms(use_true_random=False))
@settings(max_examples=2 * settings().max_examples)
def test_no_small_stream_is_read_differently(theatre, choose):
    theatre.perform(case(choose))


@given(choose=st.randoms(use_true_random=False), cut=st.integers(0, 400))
@settings(max_examples=5 * settings().max_examples)
def test_where_a_stream_is_cut_changes_nothing(choose, cut):
    """In the wire transport's own reader, without a network: whole, cut in two anywhere, and byte by byte."""
    played = case(choose)
    stream = b"".join(played.pieces)
    expected, surplus = read(played)
    for pieces in ((stream,), (stream[:cut], stream[cut:])):
        reader = AnswerReader()
        reader.max_body_bytes = CAP
        got = next((got for piece in pieces if (got := reader.feed(piece)) is not None), None) or reader.end()
        if isinstance(got, Response):
            assert (got.status, got.headers, got.body) == expected
        else:
            assert surplus or not is_answer(expected)
