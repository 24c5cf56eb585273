"""Rounds: what comes in one turn of the event loop is handled together, stage by stage.

Each stage is a short loop over code and data that stay in the processor's caches. The same answers, handled
one by one from the socket to the caller and back, take a third more CPU time.
"""

import asyncio
from collections.abc import Callable

from flowmate_async.engine.call import Call
from flowmate_async.transport.base import Response

Answered = list[tuple[Call, Response | Exception]]
"""Calls and the outcomes of their exchanges."""


class Rounds:
    """Collects answers and new calls, and starts a round for them in the next turn of the loop.

    Args:
        handle: handles the answers of a round.
        send: sends what is ready, then takes the new calls from :attr:`new`.

    Attributes:
        new: calls that were submitted since the last round.
        handling: whether answers are being handled.
    """

    __slots__ = ("_after", "_answers", "_handle", "_is_due", "_send", "handling", "new")

    def __init__(self, handle: Callable[[Answered], object], send: Callable[[], object]) -> None:
        self._handle = handle
        self._send = send
        self._answers: Answered = []
        self._after: list[Callable[[], object]] = []
        self._is_due = False
        self.new: list[Call] = []
        self.handling: bool = False

    def answered(self, call: Call, answer: Response | Exception) -> None:
        """Take the outcome of a call's exchange. A bad one is handled immediately: it may begin a pause."""
        self._answers.append((call, answer))
        if not self._is_due:
            self.expect()
        if type(answer) is not Response or answer.status != 200:
            self.handle()

    def expect(self) -> None:
        """Start a round in the next turn of the loop."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._round)

    def when_handled(self, then: Callable[[], object]) -> None:
        """Call a function when the answers of this round are handled, before the next calls are sent."""
        if self.handling:
            self._after.append(then)
        else:
            then()

    def handle(self) -> None:
        """Handle the answers that have come."""
        while self._answers and not self.handling:
            answers, self._answers = self._answers, []
            self.handling = True
            try:
                self._handle(answers)
                while self._after:
                    self._after.pop()()
            finally:
                self.handling = False

    def _round(self) -> None:
        self._is_due = False
        try:
            self.handle()
        finally:
            self._send()


def report_bug(error: Exception) -> None:
    """Report a bug in the handling of one call, so that the other calls of the round are not lost."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": "flowmate_async: a call could not be handled", "exception": error}
    )
