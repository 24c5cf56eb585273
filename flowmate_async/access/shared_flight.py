"""A flight that takes turns with other processes: one asks upstream, the others use its answer."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol

from flowmate_async.access.api import Api
from flowmate_async.access.single_flight import Flight
from flowmate_async.contract.ids import user_key
from flowmate_async.contract.known_secrets import KnownSecrets, SecretFacts
from flowmate_async.engine.awaiting import AwaitedCall
from flowmate_async.engine.contender import Ticket
from flowmate_async.engine.coordination import Acceptable, SharedCredentials, SharedSecret
from flowmate_async.engine.refresh import Refresh
from flowmate_async.engine.secret_turns import SecretTurns
from flowmate_async.errors import FlowMateError
from flowmate_async.values.secrets import Secret


class Fetcher(Protocol):
    """The part of the fetcher that a shared flight needs."""

    api: Api
    known: KnownSecrets
    turns: SecretTurns

    def succeeded(self, flight: Flight, answer: SharedSecret) -> None:
        """End a flight with an answer."""

    def failed(self, flight: Flight, error: Exception) -> None:
        """End a flight with an error."""

    def hurry(self, flight: Flight) -> None:
        """Give a flight the priority of an interactive caller."""


async def fetch_in_turn(
    fetcher: Fetcher, flight: Flight, shared: SharedCredentials, acceptable: Acceptable | None
) -> None:
    """Fetch the secret in one flight across all processes, or use another process's answer."""
    username, secret_id = flight.key
    try:
        answer = await shared.fetch(
            user_key(username), secret_id, _Ask(fetcher, flight), acceptable=acceptable
        )
        fetcher.succeeded(flight, answer)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the waiters'
        fetcher.failed(flight, error)


class _AskedCall(AwaitedCall, eq=False, kw_only=True):
    """The request of a flight that has the turn among all processes."""

    flight: Flight

    @property
    def is_wanted(self) -> bool:
        """Whether anything waits for the flight."""
        return self.flight.is_wanted and not self.future.done()


class _Ask:
    """The request of a shared flight; an :class:`~flowmate_async.engine.coordination.Ask`."""

    __slots__ = ("_fetcher", "_flight")

    def __init__(self, fetcher: Fetcher, flight: Flight) -> None:
        self._fetcher = fetcher
        self._flight = flight

    @property
    def forced(self) -> bool:
        return self._flight.forced

    @property
    def abandoned(self) -> bool:
        asked = self._flight.asked
        return asked is not None and asked.was_sent

    @property
    def may_refresh(self) -> bool:
        return self._flight.request.may_refresh and not self._fetcher.known.is_plain(self._secret_id)

    @property
    def facts(self) -> SecretFacts | None:
        return self._fetcher.known.facts(self._secret_id)

    def learn(self, facts: SecretFacts) -> None:
        self._fetcher.known.note(self._secret_id, facts)

    def turn(self) -> AbstractAsyncContextManager[bool]:
        return self._turn()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[bool]:
        if not self.may_refresh:
            yield False
            return
        flight, turns, engine = self._flight, self._fetcher.turns, self._fetcher.api.engine
        flight.ticket = ticket = Ticket(flight.priority, partial(self._fetcher.hurry, flight))
        await turns.wait(self._secret_id, ticket, engine.hurry_contender)
        try:
            if self.may_refresh:
                yield True
                return
        finally:
            flight.ticket = None
            following = turns.leave(self._secret_id, ticket)
            if following is not None:
                following.go_on()
        yield False  # another owner refreshed it meanwhile

    async def __call__(self, *, in_turn: bool = False) -> Secret:
        flight, api = self._flight, self._fetcher.api
        asked = _AskedCall(
            flight.request, flight.identity, flight.limits, flight.priority, flight.tally, flight=flight
        )
        if in_turn:
            asked.refresh = Refresh(in_turn=True)
        flight.asked = asked
        try:
            answer = await asked.answer(api.engine)
            return api.read_secret(answer, asked.request)
        except FlowMateError as error:
            raise error.about(username=flight.request.username, secret_id=flight.request.secret_id) from None
        finally:
            flight.is_pinned = True  # upstream has answered; dropping this flight would cause another request

    @property
    def _secret_id(self) -> str:
        return self._flight.key[1]
