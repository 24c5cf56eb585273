"""What health costs a sync in which all is well: no request, and at most 3 % more work.

Time would be noisy, so the interpreter's instructions in this library are counted. That is stricter than
processor time, most of which goes to sockets, TLS, JSON and the store, outside of Python.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

import flowmate_async
from flowmate_async import FlowMate, SyncOptions, open_store
from flowmate_async.bench.canned import ADMIN_TOKEN, ANSWERS, SECRET_IDS
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport
from flowmate_async.transport.base import Response

pytestmark = pytest.mark.anyio

PACKAGE = str(Path(flowmate_async.__file__).parent)
USERS = 30
IS_DUE = b"2020-11-23T18:35:52.322Z"
IS_GOOD = b"2099-11-23T18:35:52.322Z"


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the instructions that run in the library, by file."""
    counts: Counter[str] = Counter()

    def local(frame: FrameType, event: str, _: object) -> object:
        if event == "opcode":
            counts[frame.f_code.co_filename.removeprefix(PACKAGE)] += 1
        return local

    def trace(frame: FrameType, _: str, __: object) -> object:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield counts
    finally:
        sys.settrace(before)


def tenant(*, due: bool) -> ImmediateMemoryTransport:
    """Five OAuth tokens for each user; if they are due, FlowMate renews each when it is fetched."""

    def answer(method, path, headers, body):
        path = path.partition("?")[0]
        found = ANSWERS[path]
        content = found.body.replace(IS_GOOD, IS_DUE) if due and path == "/secrets/" else found.body
        return Response(200, {name.lower(): value for name, value in found.headers}, content)

    return ImmediateMemoryTransport(answer)


async def cost(options: SyncOptions, *, due: bool) -> tuple[Counter[str], int]:
    """Return the instructions of a sync by file, and its requests."""
    async with (
        FlowMate(
            admin_token=ADMIN_TOKEN,
            base_url="http://127.0.0.1:1",
            transport=tenant(due=due),
            rate=None,
        ) as fm,
        open_store("memory:") as store,
    ):
        await fm.sync(store, ["warm-up"], options=options)
        before = sum(fm.stats().requests.values())
        with counted() as counts:
            report = await fm.sync(store, [f"user-{number}" for number in range(USERS)], options=options)
        assert (report.synced, report.secrets, report.health) == (USERS, USERS * len(SECRET_IDS), {})
        return counts, sum(fm.stats().requests.values()) - before


@pytest.mark.parametrize("due", [False, True])
async def test_health_is_at_most_three_percent_of_the_work_and_no_request(due):
    with_health, requests = await cost(SyncOptions(), due=due)
    without, requests_without = await cost(SyncOptions(health=None), due=due)
    assert requests == requests_without == USERS * (2 + len(SECRET_IDS))
    assert with_health.total() <= 1.03 * without.total()
    # Users are read the same way without health, so its share is what counts.
    share = sum(times for name, times in with_health.items() if "health" in name)
    assert 0 < share <= 0.03 * (with_health.total() - share)
