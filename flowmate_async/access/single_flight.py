"""Single flight: however many ask for the same thing at once, one request goes upstream.

=============================  ===========================================================
what happens                   what follows
=============================  ===========================================================
a waiter is cancelled          the others wait on; nothing else changes
the last waiter is cancelled   the flight is dropped, if it is not on the wire
… while it is on the wire      it is let finish; its answer is the flight's, for whoever joins
… and then leaves the wire     without an answer: it is dropped before it is sent again
… or tells others the answer   it is let finish as well, and not begun again for an interactive caller
the flight fails               every waiter gets an error of its own; the next caller flies anew
the flight is cancelled        newcomers never join it; they fly anew
an interactive caller joins    one that is queued in the background begins again, with the caller's priority
a forced caller comes          it never joins an unforced flight: it waits for that one to end, then flies
the table is closed            queued flights are dropped; those on the wire get a bounded time
=============================  ===========================================================
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Hashable, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.traffic.priority import Priority, current_priority

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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


class WaitLimit(msgspec.Struct, frozen=True, kw_only=True):
    """How long callers wait for a flight.

    Attributes:
        seconds: how long.
        error: makes the error for those who have waited so long.
        excused: whether requests wait for this client's own rate or concurrency. Then the time counts from
            when the request was first sent.
    """

    seconds: float
    error: Callable[[], FlowMateError]
    excused: Callable[[], bool] = lambda: False


class Flight(Generic[V]):
    """One request under way, and those who wait for it.

    Enter it (``with flight:``) for exactly as long as a request is on the wire.

    It and its table know each other only while it is in there: an ended flight is freed at once, and leaves
    nothing to the garbage collector, whose rounds would cost as much as the flights themselves.

    Attributes:
        launch: asks upstream, in a task.
        forced: whether it was asked for by force.
        on_wire: whether its request is on the wire, or what came of it is told to other processes.
        sent: whether a request was ever on the wire.
        priority: of the most urgent of its callers.
        task: the task that flies it; ``None`` while it waits for the answer to what was asked at once.
        leave_at: until when callers wait for it, in seconds of the loop's clock; ``inf`` without a limit.
        overdue: the error that callers get who have waited too long, and those who come after them.
    """

    __slots__ = (
        "_first",
        "_key",
        "_others",
        "_sent_at",
        "_table",
        "forced",
        "launch",
        "leave_at",
        "on_wire",
        "overdue",
        "priority",
        "sent",
        "task",
    )

    def __init__(
        self,
        launch: "Launch[V]",
        *,
        forced: bool,
        table: "SingleFlight[Any, V]",
        key: Hashable,
    ) -> None:
        self.launch: Launch[V] = launch
        self.forced: bool = forced
        self.on_wire: bool = False
        self.sent: bool = False
        self.priority: Priority = current_priority()
        self._table: SingleFlight[Any, V] | None = table
        self._key = key
        self.task: asyncio.Task[None] | None = None
        self.leave_at: float = math.inf
        self.overdue: FlowMateError | None = None
        self._sent_at = 0.0
        # Nearly every flight has one waiter; a set for it would be one more thing to collect.
        self._first: asyncio.Future[V] | None = None
        self._others: set[asyncio.Future[V]] | None = None

    def __enter__(self) -> Self:
        self.on_wire = True
        if not self.sent and self._table is not None:
            self.sent, self._sent_at = True, self._table.now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.on_wire = False
        if self._first is None and not self._others:
            # An answer ends the flight in this very step of the loop; only what goes on to another
            # attempt is still there in the next one, and nobody wants it.
            asyncio.get_running_loop().call_soon(self._drop_if_unwanted)

    def hold(self) -> None:
        """Count as on the wire until it ends: upstream has answered, and would be asked once more."""
        self.on_wire = True

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return (self._first is not None) + len(self._others or ())

    def board(self) -> asyncio.Future[V]:
        """Become one who waits; the answer may come at any moment from now on."""
        waiter: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        if self._first is None:
            self._first = waiter
        elif self._others is None:
            self._others = {waiter}
        else:
            self._others.add(waiter)
        return waiter

    async def wait(self, waiter: asyncio.Future[V]) -> V:
        """Wait for the answer. Cancelling this wait harms no other."""
        try:
            return await waiter
        except BaseException:
            if waiter is self._first:
                self._first = None
            elif self._others is not None:
                self._others.discard(waiter)
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # seen, also when a cancellation came in the same moment
            self._drop_if_unwanted()
            raise

    def end_wait(self, limit: "WaitLimit", now: float) -> None:
        """Send callers away who have waited too long; what is on the wire goes on without them."""
        since_sent = now - self._sent_at if self.sent else 0.0
        if since_sent < limit.seconds and limit.excused():
            self.leave_at = now + limit.seconds - since_sent
            return
        self.leave_at = math.inf
        self.overdue = limit.error()
        waiters = (self._first, *(self._others or ()))
        self._first = self._others = None
        for waiter in waiters:
            if waiter is not None and not waiter.done():
                waiter.set_exception(self.overdue.clone())
        self._drop_if_unwanted()

    def land(self, value: V) -> None:
        """Give every waiter the answer."""
        first, others = self._end()
        if first is not None and not first.done():
            first.set_result(value)
        for waiter in others:
            if not waiter.done():
                waiter.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Give every waiter the error; its own copy, since raising writes a traceback into it."""
        first, others = self._end()
        for waiter in (first, *others):
            if waiter is not None and not waiter.done():
                waiter.set_exception(error.clone() if isinstance(error, FlowMateError) else error)

    def go_on(self, launch: "Launch[V]") -> None:
        """Have a task go on with what was asked at once."""
        if self._table is not None:
            self._table.begin(self, launch)

    def hurry(self) -> None:
        """Begin again with interactive priority, unless that is its priority or it is on the wire.

        Call it in a context with that priority.
        """
        if self._table is not None and self.priority is Priority.BACKGROUND and not self.on_wire:
            # Its place in every queue is a background one; an interactive caller cannot wait there.
            self.priority = Priority.INTERACTIVE
            self._table.begin(self, self.launch)

    def drop(self) -> None:
        """Leave the table, so that nobody joins any more, and cancel the task that flies."""
        if self._table is not None:
            task, table = self.task, self._table
            # Told here, since a task that is cancelled before its first step never runs its own handlers.
            self.fail(ConfigurationError("the client was closed before the answer came"))
            if task is not None:
                table.see_off(task)

    def _end(self) -> tuple[asyncio.Future[V] | None, Iterable[asyncio.Future[V]]]:
        """Leave the table first: an ended flight is never joined. Returns who waited: the first; others."""
        if self._table is not None:
            self._table.forget(self._key, self)
            self._table = self.task = None
            del self.launch  # it may lead back here
        first, others = self._first, self._others
        self._first = self._others = None
        return first, others or ()

    def _drop_if_unwanted(self) -> None:
        if self._first is None and not self._others and not self.on_wire:
            self.drop()


Launch = Callable[[Flight[V]], Coroutine[Any, Any, V]]
"""Asks upstream; runs in a task of its own."""

AtOnce = Callable[[Flight[V]], bool]
"""Asks upstream without a task; ``False`` when it cannot."""


class SingleFlight(Generic[K, V]):
    """A table of flights by key. One loop, one table.

    Args:
        on_join: called whenever a caller joins a flight that is under way.
        limit: how long interactive callers wait; ``None`` for any time. A request that is on the wire then
            goes on, and callers who come meanwhile are told at once.
    """

    def __init__(
        self,
        *,
        on_join: Callable[[], object] = lambda: None,
        limit: WaitLimit | None = None,
    ) -> None:
        self._flights: dict[K, Flight[V]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._on_join = on_join
        self._limit = limit
        self._flown = 0
        self._joined = 0
        self._closed = False
        self._drained: asyncio.Future[None] | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self.now: Callable[[], float] = lambda: asyncio.get_running_loop().time()

    def fly(
        self,
        key: K,
        launch: Launch[V],
        *,
        at_once: AtOnce[V] | None = None,
        forced: bool = False,
        limited: bool = True,
    ) -> Coroutine[Any, Any, V]:
        """The wait for the flight under this key, boarded already: for the one under way, or a new one.

        Args:
            key: what is asked for.
            launch: asks upstream; entered flights are on the wire. Called once a flight, and once more when
                an interactive caller hurries it.
            at_once: asks upstream without a task, if that is possible, and lands the flight, fails it or has
                it go on. Tried first.
            limited: whether its wait is limited; that of a caller who joins always is.
            forced: the answer must come from a forced flight; an unforced one that is under way is waited
                for, and not joined.

        Raises:
            Exception: what ``launch`` raised; a :class:`~flowmate_async.FlowMateError` as a copy.
        """
        flight = self._flights.get(key)
        if flight is None:
            return self._departed(key, launch, at_once, forced=forced, limited=limited)
        self._require_in_time(flight)
        if flight.forced or not forced:
            return self._joined_wait(flight)
        return self._fly_after(key, launch, at_once, flight)

    async def _fly_after(self, key: K, launch: Launch[V], at_once: AtOnce[V] | None, flight: Flight[V]) -> V:
        """Fly by force, once an unforced flight has ended."""
        await self._end_of(flight)
        return await self.fly(key, launch, at_once=at_once, forced=True)

    def _departed(
        self, key: K, launch: Launch[V], at_once: AtOnce[V] | None, *, forced: bool, limited: bool
    ) -> Coroutine[Any, Any, V]:
        """The wait for a new flight."""
        if self._closed:
            raise ConfigurationError("the client is closed", advice="Use it inside its 'async with' block")
        if not self._flown:  # a table lives on one loop
            self.now = asyncio.get_running_loop().time
        departing: Flight[V] = Flight(launch, forced=forced, table=self, key=key)
        # Before the task exists: with an eager task factory the answer may be there when it does.
        waiter = departing.board()
        self._flights[key] = departing
        if limited and self._limit is not None:
            self._limit_wait(departing, departing.priority)
        self._flown += 1
        try:
            if at_once is None or not at_once(departing):
                self.begin(departing, launch)
        except Exception as error:  # noqa: BLE001 - the waiter's
            departing.fail(error)
        return departing.wait(waiter)

    async def settled(self, key: K) -> None:
        """Wait until no unforced flight is under way under this key."""
        flight = self._in_time(key)
        if flight is not None and not flight.forced:
            await self._end_of(flight)

    def _board(self, flight: Flight[V]) -> asyncio.Future[V]:
        waiter, priority = flight.board(), current_priority()
        self._limit_wait(flight, priority)
        if priority is Priority.INTERACTIVE:
            flight.hurry()
        return waiter

    async def _end_of(self, flight: Flight[V]) -> None:
        with contextlib.suppress(Exception):
            await flight.wait(self._board(flight))

    def join(self, key: K) -> Coroutine[Any, Any, V] | None:
        """The wait for the flight under this key, boarded already; ``None`` if there is none to join."""
        flight = self._in_time(key)
        return None if flight is None else self._joined_wait(flight)

    def _in_time(self, key: K) -> Flight[V] | None:
        """Return the flight under this key.

        Raises:
            FlowMateError: it takes too long to wait for.
        """
        flight = self._flights.get(key)
        if flight is not None:
            self._require_in_time(flight)
        return flight

    def _require_in_time(self, flight: Flight[V]) -> None:
        if flight.overdue is not None:
            raise flight.overdue.clone()

    def _limit_wait(self, flight: Flight[V], priority: Priority) -> None:
        if self._limit is None or priority is not Priority.INTERACTIVE or flight.leave_at < math.inf:
            return
        flight.leave_at = self.now() + self._limit.seconds
        if self._sweeping is None:
            self._sweep_at(flight.leave_at)

    def _sweep_at(self, moment: float) -> None:
        """Look for callers who have waited too long: one timer for all, since each has the same limit."""
        self._sweeping = asyncio.get_running_loop().call_at(moment, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.now()
        for flight in [flight for flight in self._flights.values() if flight.leave_at <= now]:
            flight.end_wait(self._limit, now)  # type: ignore[arg-type]
        earliest = min((flight.leave_at for flight in self._flights.values()), default=math.inf)
        if earliest < math.inf:
            self._sweep_at(earliest)

    def _joined_wait(self, flight: Flight[V]) -> Coroutine[Any, Any, V]:
        self._joined += 1
        self._on_join()
        return flight.wait(self._board(flight))

    def statistics(self) -> FlightStatistics:
        """The table as it stands."""
        waiting = sum(flight.waiting for flight in self._flights.values())
        return FlightStatistics(
            under_way=len(self._flights), waiting=waiting, flown=self._flown, joined=self._joined
        )

    async def aclose(self, *, drain_seconds: float) -> None:
        """Drop what is queued and let what is on the wire finish.

        Args:
            drain_seconds: for what is on the wire; then it is dropped too.
        """
        self._closed = True
        for flight in list(self._flights.values()):
            if not flight.on_wire:
                flight.drop()
        try:
            if self._flights:
                self._drained = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._drained], timeout=drain_seconds)
        finally:
            for flight in list(self._flights.values()):
                flight.drop()
            if self._sweeping is not None:
                self._sweeping.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    # What flights report.

    def begin(self, flight: Flight[V], launch: Launch[V]) -> None:
        """Fly it in a task of its own, which has the priority of whoever calls."""
        earlier, flight.task = flight.task, asyncio.get_running_loop().create_task(self._run(flight, launch))
        if earlier is not None:
            self.see_off(earlier)

    def forget(self, key: K, flight: Flight[V]) -> None:
        """It has ended."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if self._drained is not None and not self._flights and not self._drained.done():
            self._drained.set_result(None)

    def see_off(self, task: asyncio.Task[None]) -> None:
        """Cancel a task that flies no more; held until it has ended, since the loop holds no task."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()

    async def _run(self, flight: Flight[V], launch: Launch[V]) -> None:
        try:
            value = await launch(flight)
        except asyncio.CancelledError:
            if flight.task is asyncio.current_task():
                flight.drop()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the waiters'
            flight.fail(error)
        else:
            flight.land(value)
