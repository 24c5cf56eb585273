"""What comes in one turn of the event loop is handled together."""

import asyncio
import json
from contextlib import asynccontextmanager
from contextvars import ContextVar

import pytest

from flowmate_async.contract.protocol import USERS, Request
from flowmate_async.engine.awaiting import AwaitedCall
from flowmate_async.engine.bulkheads import BulkheadPolicy
from flowmate_async.engine.priority import Priority
from flowmate_async.testing.memory_transport import ImmediateMemoryTransport, json_response
from flowmate_async.transport.base import Limits

pytestmark = pytest.mark.anyio
OK = json_response(b"{}")


class Turns(ImmediateMemoryTransport):
    """Answers everything that was sent when :meth:`answer` is called, in one turn of the loop."""

    def __init__(self, _answer):
        super().__init__(_answer)
        self.sent = []

    def send_at_once(self, *request, then):
        self.sent.append(then)
        return True

    def answer(self, answer=OK):
        sent, self.sent = self.sent, []
        for then in sent:
            then(answer)


class Broken(AwaitedCall, eq=False, kw_only=True):
    """A call with a bug."""

    def receive(self, outcome):
        raise LookupError("a bug")


def broken(made):
    request = Request(endpoint=USERS, method="GET", path="/", username="u")
    limits = Limits(timeout_seconds=30.0, max_body_bytes=1024)
    return Broken(request, made.somebody, limits, Priority.INTERACTIVE)


@pytest.mark.parametrize("answer", [OK, json_response(b'{"message":"no"}', 403)])
async def test_a_bug_with_one_answer_loses_no_other(lab, answer):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    async with lab(None, carrier=Turns) as made:
        calls = [made.call(), broken(made), made.call()]
        for call in calls:
            made.engine.submit(call)
        await asyncio.sleep(1)
        made.transport.answer(answer)
        await asyncio.sleep(1)
        assert calls[0].future.done()
        assert calls[2].future.done()
        assert made.pacer.taken == 0
        for call in (calls[0], calls[2]):
            call.future.exception()
    assert [type(context["exception"]) for context in reported] == [LookupError]


async def test_calls_are_sent_after_the_answers_of_a_turn_are_handled(lab):
    """All slots are free by then, and all of them are used."""
    async with lab(None, carrier=Turns, concurrency=3) as made:
        waiting = [asyncio.create_task(made.send()) for _ in range(9)]
        sizes = []
        while not all(task.done() for task in waiting):
            await asyncio.sleep(1)
            sizes.append(len(made.transport.sent))
            made.transport.answer()
        assert sizes[:3] == [3, 3, 3]


async def test_all_answers_of_a_turn_are_handled_before_the_next_calls_are_sent(lab):
    """A sweep starts its next steps in between, so that they are part of the same round."""
    order = []

    class Watched(Turns):
        def send_at_once(self, *request, then):
            order.append("sent")
            return super().send_at_once(*request, then=then)

    class Telling(AwaitedCall, eq=False, kw_only=True):
        def receive(self, outcome):
            order.append("received")
            self.engine.when_handled(lambda: order.append("handled"))
            self.engine.submit(others.pop())
            self.engine.resume()  # sends what is ready, but not within a round
            super().receive(outcome)

    async with lab(None, carrier=Watched) as made:
        others = [made.call() for _ in range(2)]
        for call in others.copy():
            made.engine.submit(Telling(call.request, call.identity, call.limits, call.priority))
        await asyncio.sleep(1)
        made.transport.answer()
        await asyncio.sleep(1)
        made.transport.answer()
        await asyncio.sleep(1)
    assert order == ["sent", "sent", "received", "received", "handled", "handled", "sent", "sent"]


async def test_outside_a_round_nothing_waits(lab):
    told = []
    async with lab(None, carrier=Turns) as made:
        made.engine.when_handled(lambda: told.append(True))
    assert told == [True]


async def turns(made, count=5):
    """Answer all that is sent, for some turns."""
    for _ in range(count):
        await asyncio.sleep(1)
        made.transport.answer()
    await asyncio.sleep(1)


class Faulty:
    """Raises instead of doing its work, the first time."""

    def __init__(self, work):
        self.work = work
        self.is_broken = True

    def __call__(self, *args):
        if self.is_broken:
            self.is_broken = False
            raise LookupError("a bug")
        return self.work(*args)


@pytest.fixture
async def reported():
    """The faults that were reported to the loop."""
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    return faults


@pytest.mark.parametrize("step", ["current", "accepted"])
async def test_a_bug_with_one_call_loses_neither_it_nor_the_others(lab, reported, step):
    async with lab(None, carrier=Turns) as made:
        setattr(made.somebody, step, Faulty(getattr(made.somebody, step)))
        calls = [made.refresh(f"secret-{number}") for number in range(4)]
        for call in calls:
            made.engine.submit(call)
        await turns(made)
        assert [type(call.future.exception()) for call in calls] == [LookupError, *[type(None)] * 3]
        assert (made.pacer.taken, len(made.traffic.turns)) == (0, 0)
    assert [type(context["exception"]) for context in reported] == [LookupError]


async def test_a_bug_when_a_call_is_sent_is_its_callers(lab, reported):
    async with lab(None, carrier=Turns, concurrency=2) as made:
        calls = [made.call() for _ in range(4)]
        calls[0].tally = object()  # nothing can be counted there
        for call in calls:
            made.engine.submit(call)
        await turns(made)
        assert [type(call.future.exception()) for call in calls] == [AttributeError, *[type(None)] * 3]
        assert made.pacer.taken == 0
    assert reported == []


async def test_a_bug_after_a_round_holds_up_no_new_call(lab, reported):
    class Telling(AwaitedCall, eq=False, kw_only=True):
        def receive(self, outcome):
            self.engine.when_handled(Faulty(None))
            self.engine.submit(new)
            super().receive(outcome)

    async with lab(None, carrier=Turns) as made:
        new = made.call()
        made.engine.submit(Telling(new.request, new.identity, new.limits, new.priority))
        await turns(made)
        assert new.future.done()
    assert [type(context["exception"]) for context in reported] == [LookupError]


async def test_a_new_call_that_is_hurried_keeps_its_place(lab):
    async with lab(None, carrier=Turns, concurrency=1) as made:
        first, hurried = made.call("/first"), made.call("/hurried", priority=Priority.BACKGROUND)
        ended = []
        for call in (first, hurried):
            call.future.add_done_callback(lambda _, path=call.request.path: ended.append(path))
        made.engine.submit(made.call())
        await asyncio.sleep(1)
        made.engine.submit(first)
        made.engine.submit(hurried)
        made.engine.hurry(hurried)
        await asyncio.sleep(1)
        assert made.engine.waiting == 2
        await turns(made)
        assert ended == ["/first", "/hurried"]


async def test_what_a_round_does_for_a_call_is_in_its_callers_context(client):
    """A trace shows the impersonation under the request that needed it, not under another of that turn."""
    caller, seen = ContextVar("caller"), []

    async def upstream(method, _path, _headers, body):
        await asyncio.sleep(0.01)
        token = json.loads(body)["username"] if method == "POST" else ""
        return json_response(json.dumps({"data": [], "meta": {"total": 0}, "token": token}).encode())

    async def listed(fm, username):
        caller.set(username)
        await fm.list_secrets(username)

    def listen(event):
        seen.append((type(event).__name__, event.username, caller.get()))

    async with client(upstream, on_event=listen) as fm:
        await asyncio.gather(*(listed(fm, f"user-{number}") for number in range(3)))
    assert len(seen) == 9
    assert [event for event in seen if event[1] != event[2]] == []


class Others:
    """A coordination whose processes share the refresh slots."""

    def __init__(self):
        self.is_free = asyncio.Event()
        self.lent = 0

    def pause(self, _seconds):
        """Nothing is paused."""

    def on_pause(self, _listener):
        """Nothing is paused."""

    def refreshes(self, _limit):
        return self

    @asynccontextmanager
    async def slot(self, _client, _secret_id):
        await self.is_free.wait()
        self.lent += 1
        try:
            yield
        finally:
            self.lent -= 1


async def test_a_call_hurried_as_its_slot_comes_still_borrows_from_others(lab):
    """Its slot of this process is passed on a turn after the failure of the call before it."""
    others = Others()
    others.is_free.set()
    options = {"coordination": others, "bulkhead": BulkheadPolicy(refreshes=1)}
    async with lab(None, carrier=Turns, **options) as made:
        calls = [
            made.refresh(f"secret-{number}", client="client", priority=Priority.BACKGROUND)
            for number in range(2)
        ]
        for call in calls:
            made.engine.submit(call)
        await asyncio.sleep(1)
        others.is_free.clear()
        made.transport.answer(json_response(b'{"message":"no"}', 403))
        asyncio.get_running_loop().call_soon(made.engine.hurry, calls[1])  # right after that round
        await asyncio.sleep(1)
        assert (made.transport.sent, others.lent) == ([], 0)
        others.is_free.set()
        await asyncio.sleep(1)
        assert (len(made.transport.sent), others.lent) == (1, 1)
        await turns(made)
        assert calls[0].future.exception() is not None
        assert calls[1].future.result() is OK
