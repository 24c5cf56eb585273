"""Single flight: concurrent calls for one secret share one request to upstream.

=============================  ===========================================================
event                          consequence
=============================  ===========================================================
a waiter is cancelled          the other waiters are not affected
the last waiter is cancelled   the flight is dropped if its request is not in flight
… while it is in flight        it finishes; its answer is kept, and callers may join until then
… and its attempt fails        the flight is dropped instead of being retried
… while it shares its answer   with other processes, it finishes as well
the flight fails               every waiter gets its own error; the next caller starts a new flight
an interactive caller joins    a flight queued in the background gets the caller's priority
a forced caller comes          it never joins an unforced flight: it starts its own after that one ends
the client is closed           queued flights fail; those in flight get a limited time to finish
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
"""User and secret, in canonical spelling."""

Keep = Callable[[tuple[str, str], SharedSecret], object]
"""Takes ``(username, secret id)`` and the secret."""


class FlightStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a table of flights.

    Attributes:
        under_way: current flights.
        waiting: callers that wait for them.
        flown: total number of flights.
        joined: callers that joined an existing flight.
    """

    under_way: int
    waiting: int
    flown: int
    joined: int


class Waiter(Protocol):
    """A waiter of a flight: an :class:`asyncio.Future`, or anything with the same methods."""

    def done(self) -> bool:
        """Return whether it has stopped waiting."""

    def set_result(self, result: SharedSecret, /) -> None:
        """Take the answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Take its own copy of the error."""


class Flights(Protocol):
    """The table of flights, as its flights see it."""

    def landed(self, flight: "Flight", outcome: Outcome) -> None:
        """Take the outcome of a flight's request."""


class Flight(Call, eq=False, kw_only=True):
    """One secret being fetched, and its waiters.

    Attributes:
        key: user and secret.
        table: told of the outcome.
        forced: whether it was forced.
        keep: called with the answer, even if no caller waits any more.
        task: takes turns with other processes, if there are any.
        asked: the request of that task.
        ticket: its ticket for the turn of the secret, while that task waits for the turn or has it.
        is_pinned: whether the answer is being shared with other processes.
        leave_at: until when callers wait, on the client's monotonic clock; ``inf`` without a limit.
        overdue: the error for callers that have waited too long, and for later ones.
        first: the first waiter. Nearly every flight has only one…
        others: …and a list for it would be one more object to collect.
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
        """How many callers wait for it."""
        return (self.first is not None) + len(self.others or ())

    @property
    def is_on_wire(self) -> bool:
        """Whether its request is in flight, or its answer is being shared with other processes."""
        return self.is_pinned or self._call_state == IN_FLIGHT

    def since_sent(self, now: float) -> float:
        """Return the seconds since it was first sent; 0 before that."""
        asked = self if self.task is None else self.asked
        sent_at = None if asked is None else asked.first_sent_at
        return 0.0 if sent_at is None else now - sent_at

    def subscribe(self, waiter: Waiter) -> None:
        """Add a waiter."""
        if self.first is None:
            self.first = waiter
        elif self.others is None:
            self.others = [waiter]
        else:
            self.others.append(waiter)

    def unsubscribe(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        if waiter is self.first:
            self.first = None
        elif self.others is not None and waiter in self.others:
            self.others.remove(waiter)

    def receive(self, outcome: Outcome) -> None:
        """Pass the outcome of the request to the table."""
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
        """Give every waiter its own copy of the error, since raising adds a traceback to it."""
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
