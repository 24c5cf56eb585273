"""Fetching single secrets as their users, with one flight per user and secret.

GETs that may make upstream refresh take turns by secret, across all users; see
:class:`~flowmate_async.engine.secret_turns.SecretTurns`.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from flowmate_async.access.api import Api
from flowmate_async.access.shared_flight import fetch_in_turn
from flowmate_async.access.single_flight import Flight, FlightStatistics, Keep, Key, Waiter
from flowmate_async.access.user_tokens import UserIdentity, UserTokens
from flowmate_async.access.wait_limit import WaitLimit
from flowmate_async.clock import Clock
from flowmate_async.contract.ids import canonical_key, checked_id, checked_username, secret_key
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.contract.protocol import get_secret
from flowmate_async.engine.awaiting import mark_retrieved
from flowmate_async.engine.call import Outcome, Tally, closed_error
from flowmate_async.engine.coordination import Acceptable, SharedCredentials, SharedSecret
from flowmate_async.engine.priority import Priority, current_priority
from flowmate_async.engine.secret_turns import SecretTurns
from flowmate_async.engine.states import PARKED
from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.events import Emitter, FlightJoined


class SecretFetcher:
    """Fetches secrets, each one at most once at a time.

    Concurrent GETs of one secret cost provider logins and end in 500s (docs/contract/OBSERVED.md
    § Concurrent GETs of one secret), so single flight is needed for correctness, not only for speed. A secret
    may have several owners, each with their own flights, and upstream has one lock for all of them
    (§ Second look). So those GETs take turns until an answer shows that the next ones are plain reads.

    Args:
        api: reads answers.
        tokens: the users' tokens. The username is part of every key, so that no value reaches another user.
        emitter: told of joined flights.
        known: what is known about secrets.
        turns: the turns of secrets.
        clock: the client's clock.
        max_wait_seconds: how long interactive callers wait.
        shared: single flight and cache across processes, if there are any others.

    Attributes:
        api: reads answers.
        known: what is known about secrets.
        turns: the turns of secrets.
    """

    def __init__(  # noqa: PLR0913 - a collaborator each
        self,
        api: Api,
        *,
        tokens: UserTokens,
        emitter: Emitter,
        known: KnownSecrets,
        turns: SecretTurns,
        clock: Clock,
        max_wait_seconds: float = math.inf,
        shared: SharedCredentials | None = None,
    ) -> None:
        self.api: Api = api
        self.known: KnownSecrets = known
        self.turns: SecretTurns = turns
        self._tokens = tokens
        self._emitter = emitter
        self._shared = shared
        self._flights: dict[Key, Flight] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._flown = 0
        self._joined = 0
        self._closed = False
        self._wait_limit = WaitLimit(
            self._flights,
            seconds=max_wait_seconds,
            clock=clock,
            is_saturated=lambda: api.engine.is_saturated,
            drop_if_unwanted=self._drop_if_unwanted,
        )

    # Called by the layers above.

    def get(  # noqa: PLR0913 - each is an option of its own
        self,
        username: str,
        secret_id: str,
        *,
        may_refresh: bool = True,
        auth_client_id: str | None = None,
        forced: bool = False,
        limited: bool = True,
        keep: Keep | None = None,
        acceptable: Acceptable | None = None,
    ) -> Coroutine[Any, Any, SharedSecret]:
        """Return a coroutine for the secret's current value, or the value that another process fetched.

        Args:
            username: the user.
            secret_id: the secret.
            may_refresh: whether upstream may refresh it while answering; ``True`` if unknown.
            auth_client_id: the OAuth client that it would be refreshed with, if known.
            forced: whether the request must be sent after this call; an earlier flight is not joined.
            limited: whether the wait is limited by ``max_wait_seconds``.
            keep: called with the answer, even if no caller waits for it any more.
            acceptable: whether another process's value is acceptable; ``None`` accepts only one that was
                fetched while this call waited for its turn.

        Raises:
            InvalidIdError: the username or id may not be sent.
            ConfigurationError: the client is closed.
        """
        key = canonical_key(checked_username(username), secret_id)
        if type(secret_id) is not str:
            checked_id(secret_id)  # raises
        if forced:  # an app rejected the value, so what was known about it is in doubt as well
            self.known.doubt(secret_id)
        flight = self._flights.get(key)
        if flight is None:
            request = get_secret(
                secret_id,
                username=username,
                may_refresh=may_refresh and not self.known.is_plain(key[1]),
                auth_client_id=auth_client_id,
            )
            flight = Flight(
                request,
                self._tokens.identity(username, key[0]),
                self.api.secret_limits,
                current_priority(),
                key=key,
                table=self,
                forced=forced,
                keep=keep,
            )
            waiter = _future()
            if self._shared is not None and (may_refresh or acceptable is not None):
                self._depart_in_turn(flight, waiter, self._shared, acceptable)
            else:
                self._depart(flight, waiter)
            if limited and flight.priority is Priority.INTERACTIVE:
                self._wait_limit.begin(flight)
            return self._wait(flight, waiter)
        _require_in_time(flight)
        if flight.forced or not forced:
            return self._join(flight)
        again = partial(
            self.get,
            username,
            secret_id,
            may_refresh=may_refresh,
            auth_client_id=auth_client_id,
            forced=True,
            keep=keep,
            acceptable=acceptable,
        )
        return self._fly_after(flight, again)

    def request(  # noqa: PLR0917 - made once a request, so without keywords
        self,
        user: UserIdentity,
        secret_id: str,
        may_refresh: bool,  # noqa: FBT001
        auth_client_id: str | None,
        tally: Tally,
        waiter: Waiter,
    ) -> None:
        """Fetch a secret in the background for a waiter that is notified instead of awaiting.

        Args:
            user: the user.
            secret_id: the secret, as listed.
            may_refresh: see :meth:`get`.
            auth_client_id: see :meth:`get`.
            tally: counts the requests.
            waiter: receives the answer or the error.

        Raises:
            FlowMateError: the request cannot be made.
        """
        key = (user.key, secret_key(secret_id))
        flight = self._flights.get(key)
        if flight is not None:
            _require_in_time(flight)
            self._note_joined()
            flight.subscribe(waiter)
            return
        request = get_secret(
            secret_id,
            username=user.username,
            may_refresh=may_refresh and not self.known.is_plain(key[1]),
            auth_client_id=auth_client_id,
        )
        flight = Flight(
            request, user, self.api.secret_limits, Priority.BACKGROUND, tally, key=key, table=self
        )
        if self._shared is not None and may_refresh:
            self._depart_in_turn(flight, waiter, self._shared, None)
        else:
            self._depart(flight, waiter)

    def cancel(self, username: str, secret_id: str, waiter: Waiter) -> None:
        """Unsubscribe a waiter. A flight without waiters is dropped, unless its request was sent."""
        flight = self._flights.get(canonical_key(username, secret_id))
        if flight is not None:
            flight.unsubscribe(waiter)
            self._drop_if_unwanted(flight)

    def hurry(self, flight: Flight) -> None:
        """Give a flight the priority of an interactive caller."""
        engine, ticket = self.api.engine, flight.ticket
        if flight.task is None:
            engine.hurry(flight)
            return
        flight.priority = Priority.INTERACTIVE
        if flight.asked is not None:
            engine.hurry(flight.asked)
        if ticket is not None and ticket.priority is Priority.BACKGROUND:
            ticket.priority = Priority.INTERACTIVE
            if ticket.state == PARKED and not ticket.has_come:
                holder = self.turns.park(flight.key[1], ticket)
                if holder is not None:
                    engine.hurry_contender(holder)

    async def settled(self, username: str, secret_id: str) -> None:
        """Wait until no unforced fetch is in flight."""
        flight = self._in_time(canonical_key(username, secret_id))
        if flight is not None and not flight.forced:
            await self._end_of(flight)

    def join(self, username: str, secret_id: str) -> Coroutine[Any, Any, SharedSecret] | None:
        """Return a coroutine for the result of this secret's current flight; ``None`` if there is none."""
        flight = self._in_time(canonical_key(username, secret_id))
        return None if flight is None else self._join(flight)

    def statistics(self) -> FlightStatistics:
        """Return statistics of flights."""
        waiting = sum(flight.waiting for flight in self._flights.values())
        return FlightStatistics(
            under_way=len(self._flights), waiting=waiting, flown=self._flown, joined=self._joined
        )

    def close(self) -> None:
        """Drop flights that wait for other processes. The engine ends the rest."""
        self._closed = True
        for flight in list(self._flights.values()):
            if flight.task is not None and not flight.is_on_wire:
                self._drop(flight)

    async def aclose(self) -> None:
        """Drop every flight."""
        for flight in list(self._flights.values()):
            self._drop(flight)
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._wait_limit.close()

    # Start and end of a flight.

    def _depart(self, flight: Flight, waiter: Waiter) -> None:
        """Send a flight's request. A failure to do so is raised to the waiter."""
        self._enter(flight, waiter)
        try:
            self.api.engine.submit(flight)
        except Exception as error:  # noqa: BLE001 - the waiter's
            self.landed(flight, error)

    def _depart_in_turn(
        self, flight: Flight, waiter: Waiter, shared: SharedCredentials, acceptable: Acceptable | None
    ) -> None:
        """Start a task that takes turns with other processes."""
        self._enter(flight, waiter)
        work = fetch_in_turn(self, flight, shared, acceptable)
        flight.task = asyncio.get_running_loop().create_task(work)

    def _enter(self, flight: Flight, waiter: Waiter) -> None:
        if self._closed:
            raise ConfigurationError("the client is closed", advice="Use it inside its 'async with' block")
        flight.first = waiter
        self._flights[flight.key] = flight
        self._flown += 1

    def landed(self, flight: Flight, outcome: Outcome) -> None:
        """Give the outcome of a flight's request to every waiter."""
        if isinstance(outcome, Exception):
            self.failed(flight, outcome)
            return
        try:
            secret = self.api.read_secret(outcome, flight.request)
            self.succeeded(flight, SharedSecret(secret))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the waiters'
            self.failed(flight, error)

    def succeeded(self, flight: Flight, answer: SharedSecret) -> None:
        """End a flight with an answer."""
        if flight.keep is not None:
            flight.keep((flight.request.username or "", answer.secret.id), answer)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        flight.resolve(answer)

    def failed(self, flight: Flight, error: Exception) -> None:
        """End a flight with an error."""
        if isinstance(error, FlowMateError):
            error.about(username=flight.request.username, secret_id=flight.request.secret_id)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        flight.reject(error)

    def _drop_if_unwanted(self, flight: Flight) -> None:
        if not flight.is_wanted and not flight.is_on_wire:
            self._drop(flight)

    def _drop(self, flight: Flight) -> None:
        """End a flight without an outcome."""
        self.failed(flight, closed_error())
        if flight.task is None:
            self.api.engine.drop(flight)
        elif flight.task is not asyncio.current_task():
            self._ending.add(flight.task)
            flight.task.add_done_callback(self._ending.discard)
            flight.task.cancel()

    # Waiting callers.

    async def _wait(self, flight: Flight, waiter: "asyncio.Future[SharedSecret]") -> SharedSecret:
        """Wait for the answer. Cancelling this wait does not affect other waiters."""
        try:
            return await waiter
        except BaseException:
            flight.unsubscribe(waiter)
            mark_retrieved(waiter)
            if self._flights.get(flight.key) is flight:
                self._drop_if_unwanted(flight)
            raise

    def _join(self, flight: Flight) -> Coroutine[Any, Any, SharedSecret]:
        self._note_joined()
        return self._wait(flight, self._subscribed(flight))

    def _note_joined(self) -> None:
        self._joined += 1
        self._emitter.emit(FlightJoined("secret"))

    def _subscribed(self, flight: Flight) -> "asyncio.Future[SharedSecret]":
        waiter, priority = _future(), current_priority()
        flight.subscribe(waiter)
        if priority is Priority.INTERACTIVE:
            self._wait_limit.begin(flight)
            self.hurry(flight)
        return waiter

    async def _fly_after(
        self, flight: Flight, again: Callable[[], Coroutine[Any, Any, SharedSecret]]
    ) -> SharedSecret:
        """Start a forced flight once an unforced one has ended."""
        await self._end_of(flight)
        return await again()

    async def _end_of(self, flight: Flight) -> None:
        with suppress(Exception):
            await self._wait(flight, self._subscribed(flight))

    def _in_time(self, key: Key) -> Flight | None:
        """Return the flight under this key.

        Raises:
            FlowMateError: the flight is overdue.
        """
        flight = self._flights.get(key)
        if flight is not None:
            _require_in_time(flight)
        return flight


def _future() -> "asyncio.Future[SharedSecret]":
    return asyncio.get_running_loop().create_future()


def _require_in_time(flight: Flight) -> None:
    if flight.overdue is not None:
        raise flight.overdue.clone()
