"""Single flight: however many ask for one secret at once, one request goes upstream.

=============================  ===========================================================
what happens                   what follows
=============================  ===========================================================
a waiter is cancelled          the others wait on; nothing else changes
the last waiter is cancelled   the flight is dropped, if it is not on the wire
… while it is on the wire      it is let finish; its answer is kept, and is for whoever joins before it comes
… and then leaves the wire     without an answer: it is dropped before it is sent again
… or tells others the answer   it is let finish as well
the flight fails               every waiter gets an error of its own; the next caller flies anew
an interactive caller joins    one that is queued in the background goes on with the caller's priority
a forced caller comes          it never joins an unforced flight: it waits for that one to end, then flies
the client is closed           queued flights fail; those on the wire get a bounded time
=============================  ===========================================================
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from flowmate_async.engine.call import Call, Outcome
from flowmate_async.engine.contender import Ticket
from flowmate_async.engine.coordination import SharedSecret
from flowmate_async.engine.states import IN_FLIGHT
from flowmate_async.errors import FlowMateError

if TYPE_CHECKING:
    import asyncio

Key = tuple[str, str]
"""User and secret, in the spelling that all share."""

Keep = Callable[[tuple[str, str], SharedSecret], object]
"""Takes ``(username, secret id)`` and the secret."""


class FlightStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A table of flights as it stands, and what it did so far.

    Attributes:
        under_way: flights under way.
        waiting: callers that wait for them.
        flown: flights so far.
        joined: callers that joined one that was under way.
    """

    under_way: int
    waiting: int
    flown: int
    joined: int


class Waiter(Protocol):
    """What waits for a flight: an :class:`asyncio.Future`, or anything that is told like one."""

    def done(self) -> bool:
        """Return whether it waits no more."""

    def set_result(self, result: SharedSecret, /) -> None:
        """Take the answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Take an error of its own."""


class Flights(Protocol):
    """The table of flights, as its flights know it."""

    def landed(self, flight: "Flight", outcome: Outcome) -> None:
        """Take how the request of a flight ended."""


class Flight(Call, eq=False, kw_only=True):
    """One secret under way, and those who wait for it.

    Attributes:
        key: user and secret.
        table: told how it ended.
        forced: whether it was asked for by force.
        keep: given the answer, also when nobody waits any more.
        task: takes turns with other processes, if there are any.
        asked: the request of that task.
        ticket: its place in the queue for the turn of the secret, while that task waits or has it.
        is_pinned: whether other processes are told what came.
        leave_at: until when callers wait, on the client's monotonic clock; ``inf`` without a limit.
        overdue: the error that callers get who have waited too long, and those who come after them.
        first: one who waits. Nearly every flight has one…
        others: …and a list for it would be one more thing to collect.
    """

    key: Key
    table: Flights
    forced: bool = False
    keep: Keep | None = None
    task: "asyncio.Task[None] | None" = None
    asked: Call | None = None
    ticket: Ticket | None = None
    is_pinned: bool = False
    leave_at: float = math.inf
    overdue: FlowMateError | None = None
    first: Waiter | None = None
    others: list[Waiter] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anything waits for the answer."""
        return self.first is not None or bool(self.others)

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return (self.first is not None) + len(self.others or ())

    @property
    def is_on_wire(self) -> bool:
        """Whether its request is on the wire, or what came of it is told to other processes."""
        return self.is_pinned or self._call_state == IN_FLIGHT

    def since_sent(self, now: float) -> float:
        """Return for how many seconds it has been sent; 0 before."""
        asked = self if self.task is None else self.asked
        sent_at = None if asked is None else asked.first_sent_at
        return 0.0 if sent_at is None else now - sent_at

    def subscribe(self, waiter: Waiter) -> None:
        """Tell this one how it ended."""
        if self.first is None:
            self.first = waiter
        elif self.others is None:
            self.others = [waiter]
        else:
            self.others.append(waiter)

    def unsubscribe(self, waiter: Waiter) -> None:
        """Tell this one nothing."""
        if waiter is self.first:
            self.first = None
        elif self.others is not None and waiter in self.others:
            self.others.remove(waiter)

    def receive(self, outcome: Outcome) -> None:
        """Hand the outcome of the request over."""
        self.table.landed(self, outcome)

    def resolve(self, answer: SharedSecret) -> None:
        """Give every waiter the answer."""
        first, others = self.first, self.others
        self.first = self.others = None
        if first is not None and not first.done():
            first.set_result(answer)
        if others is not None:
            for waiter in others:
                if not waiter.done():
                    waiter.set_result(answer)

    def reject(self, error: BaseException) -> None:
        """Give every waiter the error; its own copy, since raising writes a traceback into it."""
        waiters = (self.first, *(self.others or ()))
        self.first = self.others = None
        for waiter in waiters:
            if waiter is not None and not waiter.done():
                waiter.set_exception(error.clone() if isinstance(error, FlowMateError) else error)

    @property
    def _call_state(self) -> int:
        if self.task is None:
            return self.state
        return self.state if self.asked is None else self.asked.state
