"""The limit on how long interactive callers wait for a flight."""

import asyncio
import math
from collections.abc import Callable, Mapping

from flowmate_async.access.single_flight import Flight, Key
from flowmate_async.clock import Clock
from flowmate_async.contract.protocol import GET
from flowmate_async.errors import UpstreamTimeoutError


class WaitLimit:
    """Fails callers that have waited too long. A request in flight continues without them.

    One timer serves all flights, since they have the same limit. While requests wait for this client's own
    rate or concurrency, the time counts from when the request was first sent.

    Args:
        flights: all flights.
        seconds: the limit; ``inf`` for none.
        clock: the client's clock.
        is_saturated: returns whether requests wait for this client's own rate or concurrency.
        drop_if_unwanted: drops a flight for which nothing waits any longer, unless its request was sent.
    """

    def __init__(
        self,
        flights: Mapping[Key, Flight],
        *,
        seconds: float,
        clock: Clock,
        is_saturated: Callable[[], bool],
        drop_if_unwanted: Callable[[Flight], object],
    ) -> None:
        self._flights = flights
        self._seconds = seconds
        self._clock = clock
        self._is_saturated = is_saturated
        self._drop_if_unwanted = drop_if_unwanted
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, flight: Flight) -> None:
        """Limit the wait for a flight from now on, unless it is limited already."""
        if flight.leave_at < math.inf:
            return
        flight.leave_at = self._clock.monotonic() + self._seconds
        if self._timer is None and flight.leave_at < math.inf:
            self._check_in(self._seconds)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _check_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        for flight in [flight for flight in self._flights.values() if flight.leave_at <= now]:
            self._end_wait(flight, now)
        earliest = min((flight.leave_at for flight in self._flights.values()), default=math.inf)
        if earliest < math.inf:
            self._check_in(max(0.0, earliest - now))

    def _end_wait(self, flight: Flight, now: float) -> None:
        since_sent = flight.since_sent(now)
        if since_sent < self._seconds and self._is_saturated():
            flight.leave_at = now + self._seconds - since_sent
            return
        flight.leave_at = math.inf
        flight.overdue = _overdue(self._seconds)
        flight.reject(flight.overdue)
        self._drop_if_unwanted(flight)


def _overdue(seconds: float) -> UpstreamTimeoutError:
    return UpstreamTimeoutError(
        f"no answer within {seconds:g} s; what was sent goes on, and its answer will be kept",
        advice="Its provider or FlowMate may hang. Try again in a minute",
        endpoint=GET,
    )
