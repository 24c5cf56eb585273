"""What comes in one turn of the event loop is handled together."""

import asyncio

import pytest

from flowmate_async.contract.protocol import USERS, Request
from flowmate_async.engine.awaiting import AwaitedCall
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
