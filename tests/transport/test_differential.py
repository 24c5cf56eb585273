"""Both transports read the same bytes alike: the same answer, or both a failure.

A seeded grammar (``answer_grammar.py``) makes whole answers in every framing, mutates them and cuts them;
each is put before both transports over loopback, and hypothesis looks for small counterexamples in the same
grammar. Some hundred cases run with the suite; ``make fuzz-transport`` runs 100,000.

What is tolerated, and why:

1. Which failure it is: a stream that is broken and cut short may be told off for either.
2. aiohttp answers where the wire transport refuses, if the very same answer comes out when llhttp is given
   the leniencies that aiohttp gives it (a bare LF for a line's end, blanks after a chunk's size, odd
   characters and folds in headers). aiohttp offers no way to turn them off.
3. Bytes after the answer: whether they arrive in time to be seen with it is up to the network. Then an answer
   and a failure are both right; but the answer must be the one before them, and the next request never
   meets them.
"""

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter

import pytest
import uvloop
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


def read(played: Case, *, lenient: bool) -> tuple[Outcome, bool]:
    """What comes out byte by byte, and whether bytes are left over."""
    reader = AnswerReader()
    if lenient:
        reader._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
    reader.expect(head_only=False, cap=CAP)
    stream = b"".join(played.pieces)
    for at in range(len(stream)):
        read = reader.feed(stream[at : at + 1])
        if isinstance(read, TransportError):
            return read.failure, False
        if read is not None:
            return (read.status, read.headers, read.body), at + 1 < len(stream)
    end = reader.end()
    return ("interrupted" if end is None else (end.status, end.headers, end.body)), False


def is_answer(outcome: Outcome) -> bool:
    return not isinstance(outcome, str)


def verdict(played: Case, ours: Outcome, theirs: Outcome) -> str:
    """What the two outcomes are to each other; raises when that is not tolerated."""
    strict, surplus = read(played, lenient=False)
    lenient, lenient_surplus = read(played, lenient=True)
    if surplus or lenient_surplus:
        assert ours == strict or not is_answer(ours)
        assert theirs in (strict, lenient) or not is_answer(theirs)
        return "surplus"
    assert ours == strict or not (is_answer(ours) or is_answer(strict)), "the wire transport depends on cuts"
    if is_answer(ours):
        assert theirs == ours
        return "same answer"
    if is_answer(theirs):
        assert theirs == lenient
        return "lenient aiohttp"
    return "same failure" if ours == theirs else "another failure"


def check(played: Case, wire: tuple[Outcome, Outcome], aiohttp: tuple[Outcome, Outcome]) -> str:
    for _, following in (wire, aiohttp):
        assert following == (NEXT.status, NEXT.headers, NEXT.body) or following in ("stale", "interrupted")
    return verdict(played, wire[0], aiohttp[0])


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

        try:
            return check(played, *(outcomes := self.runner.run(both())))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{played}\nwire {outcomes[0]}\naiohttp {outcomes[1]}") from error


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
    assert seen.keys() >= {"same answer", "same failure", "lenient aiohttp", "surplus"}, (
        "the grammar is too tame"
    )
    assert seen["same answer"] > CASES / 10


@given(choose=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_no_small_stream_is_read_differently(theatre, choose):
    theatre.perform(case(choose))


@given(choose=st.randoms(use_true_random=False), cut=st.integers(0, 400))
@settings(max_examples=500, deadline=None)
def test_where_a_stream_is_cut_changes_nothing(choose, cut):
    """In the wire transport's own reader, without a network: whole, cut in two anywhere, and byte by byte."""
    played = case(choose)
    stream = b"".join(played.pieces)
    expected, surplus = read(played, lenient=False)
    for pieces in ((stream,), (stream[:cut], stream[cut:])):
        reader = AnswerReader()
        reader.expect(head_only=False, cap=CAP)
        got = next((got for piece in pieces if (got := reader.feed(piece)) is not None), None) or reader.end()
        if isinstance(got, Response):
            assert (got.status, got.headers, got.body) == expected
        else:
            assert surplus or not is_answer(expected)
