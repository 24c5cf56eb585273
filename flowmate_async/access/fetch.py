"""One secret from upstream: as its user, one flight per user and secret, its token replaced when rejected.

GETs that may make upstream refresh take turns by secret, whoever asks; see :class:`SecretTurns`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from msgspec import structs

from flowmate_async.access.api import Api
from flowmate_async.access.single_flight import Flight, FlightStatistics, SingleFlight, WaitLimit
from flowmate_async.access.user_tokens import Held, UserTokens
from flowmate_async.contract.failures import Failure
from flowmate_async.contract.known_secrets import KnownSecrets, SecretFacts
from flowmate_async.contract.protocol import (
    GET,
    Request,
    canonical_key,
    checked_username,
    get_secret,
    user_key,
)
from flowmate_async.errors import FlowMateError, UpstreamTimeoutError
from flowmate_async.events import Emitter, FlightJoined
from flowmate_async.redaction import Headers
from flowmate_async.traffic.call import Outcome
from flowmate_async.traffic.coordination import Acceptable, SharedCredentials, SharedSecret
from flowmate_async.traffic.priority import set_interactive
from flowmate_async.traffic.secret_turns import SecretTurns, Turn
from flowmate_async.values.secrets import Secret

_Key = tuple[str, str, str]

Keep = Callable[[tuple[str, str], SharedSecret], object]
"""Takes ``(username, secret id)`` and the secret."""


class SecretFetcher:
    """Fetches secrets, each at most once at a time.

    Concurrent GETs of one secret cost provider logins and end in 500s (docs/contract/OBSERVED.md
    § Concurrent GETs of one secret), so the single flight is correctness here, not speed. A secret may have
    several owners, each with flights of their own, and upstream has one lock for all of them (§ Second look):
    those GETs take turns, until an answer shows that the next ones are plain reads.

    Args:
        api: fetches.
        tokens: as whom.
        base_url: part of every key, as the user is, so that no value reaches another user.
        emitter: told of flights joined.
        known: what is known of secrets.
        list_user: lists a user's secrets, from which ``known`` learns.
        limit: how long interactive callers wait.
        shared: single flight and cache across processes, when there are others.
    """

    def __init__(  # noqa: PLR0913 - a collaborator each
        self,
        api: Api,
        *,
        tokens: UserTokens,
        base_url: str,
        emitter: Emitter,
        known: KnownSecrets,
        list_user: Callable[[str], Awaitable[object]],
        limit: WaitLimit | None = None,
        shared: SharedCredentials | None = None,
    ) -> None:
        self.api: Api = api
        self.tokens: UserTokens = tokens
        self.known: KnownSecrets = known
        self.turns: SecretTurns = SecretTurns()
        self._base_url = base_url
        self._shared = shared
        self._list_user = list_user
        self._lookups: SingleFlight[str, object] = SingleFlight()
        self._flights: SingleFlight[_Key, SharedSecret] = SingleFlight(
            on_join=partial(emitter.emit, FlightJoined("secret")),
            limit=limit,
        )

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
        """The wait for the secret as upstream has it now, or had it when another process asked.

        Args:
            username: the user.
            secret_id: the secret.
            may_refresh: whether upstream may refresh it while answering; ``True`` when that is not known.
            auth_client_id: the OAuth client that it would be refreshed with, as far as that is known.
            forced: it must be asked for after this call; an earlier flight is not joined.
            limited: whether its wait is limited, as that of a caller.
            keep: given the answer even when nobody waits for it any more.
            acceptable: whether one that another process fetched will do; ``None`` for those only that were
                fetched while this call waited for its turn.
        """
        key = self._key(checked_username(username), secret_id)
        if forced:  # an app rejected the value, so what was known of it is in doubt as well
            self.known.doubt(secret_id)
        request = get_secret(
            secret_id,
            username=username,
            may_refresh=may_refresh and not self.known.is_plain(key[2]),
            auth_client_id=auth_client_id,
        )
        fetch = _Fetch(self, username, key[2], request, keep)
        if self._shared is not None and (may_refresh or acceptable is not None):
            return self._flights.fly(
                key, partial(fetch.launch_in_turn, self._shared, acceptable), forced=forced, limited=limited
            )
        return self._flights.fly(key, fetch.launch, at_once=fetch.at_once, forced=forced, limited=limited)

    async def identify(self, username: str, secret_id: str) -> None:
        """Find out which OAuth client is behind a secret: one listing per user, however many ask.

        A listing that fails or does not show the secret tells nothing, and is not the caller's failure.
        """
        with suppress(FlowMateError):
            await self._lookups.fly(user_key(username), lambda _flight: self._listed(username))
            self.known.note_unlisted(secret_id)

    async def _listed(self, username: str) -> object:
        return await self._list_user(username)

    async def settled(self, username: str, secret_id: str) -> None:
        """Wait until nothing is being fetched that was not forced."""
        await self._flights.settled(self._key(username, secret_id))

    def join(self, username: str, secret_id: str) -> Coroutine[Any, Any, SharedSecret] | None:
        """The wait for this secret's flight that is under way, boarded already; ``None`` if there is none."""
        return self._flights.join(self._key(username, secret_id))

    def _key(self, username: str, secret_id: str) -> _Key:
        return (self._base_url, *canonical_key(username, secret_id))

    def statistics(self) -> FlightStatistics:
        """Return the flights of secrets."""
        return self._flights.statistics()

    async def aclose(self, *, drain_seconds: float) -> None:
        """See :meth:`SingleFlight.aclose`."""
        await self._flights.aclose(drain_seconds=drain_seconds)
        await self._lookups.aclose(drain_seconds=0.0)


def wait_limit(seconds: float, *, excused: Callable[[], bool]) -> WaitLimit:
    """Return how long a caller waits for one secret.

    Args:
        seconds: how long.
        excused: see :class:`WaitLimit`.
    """
    return WaitLimit(seconds=seconds, error=partial(_overdue, seconds), excused=excused)


def _overdue(seconds: float) -> UpstreamTimeoutError:
    return UpstreamTimeoutError(
        f"no answer within {seconds:g} s; what was sent goes on, and its answer will be kept",
        advice="Its provider or FlowMate may hang. Try again in a minute",
        endpoint=GET,
    )


class _Fetch:
    """How one flight is flown: at once where possible, otherwise by a task.

    Attributes:
        secret_id: the secret's id, in the spelling that all share.
    """

    __slots__ = (
        "_fetcher",
        "_flight",
        "_held",
        "_keep",
        "_request",
        "_sent",
        "_turn",
        "_username",
        "secret_id",
    )

    def __init__(
        self, fetcher: SecretFetcher, username: str, secret_id: str, request: Request, keep: Keep | None
    ) -> None:
        self._fetcher = fetcher
        self._username = username
        self.secret_id: str = secret_id
        self._request = request
        self._keep = keep
        # Of an attempt that is made at once:
        self._flight: Flight[SharedSecret]
        self._held: Held
        self._sent: Request
        self._turn: Turn | None = None

    async def launch(
        self,
        flight: Flight[SharedSecret],
        *,
        held: Held | None = None,
        failed: Failure | None = None,
        unattributed: bool = False,
        in_turn: bool = False,
    ) -> SharedSecret:
        """Ask for the secret.

        Args:
            flight: on the wire while this asks.
            held: the token of a first attempt, if one was made at once.
            failed: how that attempt ended.
            unattributed: whether the OAuth client was unknown then.
            in_turn: whether it is this secret's turn already.
        """
        first = [failed]  # taken by the first operation; one with a new token begins anew

        async def ask(user: Headers) -> Secret:
            failure = first.pop() if first else None
            if in_turn:
                return await self._ask(user, flight, failure, unattributed=unattributed)
            async with self.in_turn(flight):
                return await self._ask(user, flight, failure, unattributed=unattributed)

        try:
            secret = await self._fetcher.tokens.call(self._username, ask, held=held)
        except FlowMateError as error:
            error.about(secret_id=self._request.secret_id)
            raise
        return self._kept(SharedSecret(secret))

    async def _ask(
        self, user: Headers, flight: Flight[SharedSecret], failed: Failure | None, *, unattributed: bool
    ) -> Secret:
        return await self._fetcher.api.get_secret(
            user,
            self._request_now(),
            wire=flight,
            identify=partial(self._fetcher.identify, self._username, self.secret_id),
            failed=failed,
            unattributed=unattributed and failed is not None,
        )

    def _request_now(self) -> Request:
        """Return the request as a plain read, if that is what it would be by now."""
        if self._request.may_refresh and self._fetcher.known.is_plain(self.secret_id):
            return structs.replace(self._request, may_refresh=False)
        return self._request

    @asynccontextmanager
    async def in_turn(self, flight: Flight[SharedSecret]) -> AsyncIterator[bool]:
        """Wait for this secret's turn, unless its GET is a plain read. Yield whether the turn is held."""
        if not self._request_now().may_refresh:
            yield False
            return
        hurry = partial(copy_context().run, _hurry, flight)
        with await self._fetcher.turns.take(self.secret_id, hurry) as turn:
            plain = not self._request_now().may_refresh
            if plain:  # another owner has refreshed it meanwhile
                turn.release()
            yield not plain

    def at_once(self, flight: Flight[SharedSecret]) -> bool:
        """Ask without a task if nothing has to be waited for but the answer. Return whether it was asked."""
        held = self._fetcher.tokens.held(self._username)
        if held is None:
            return False
        request = self._request
        self._flight, self._held = flight, held
        self._sent = request if not request.may_refresh else self._request_now()
        if self._sent.may_refresh:
            self._turn = self._fetcher.turns.take_at_once(self.secret_id)
            if self._turn is None:
                return False
        sent = False
        try:
            sent = self._fetcher.api.get_secret_at_once(held.headers, self._sent, flight, self)
        finally:
            if not sent:
                self._end_turn()
        return sent

    def receive(self, outcome: Outcome | Exception) -> None:
        """Take the end of what was asked at once; where there is more to do, a task goes on."""
        flight, held = self._flight, self._held
        if isinstance(outcome, Failure):
            self._end_turn()
            flight.go_on(
                partial(self.launch, held=held, failed=outcome, unattributed=not self._is_client_known())
            )
            return
        try:
            if isinstance(outcome, Exception):
                raise outcome  # noqa: TRY301 - like any other fault
            secret = self._fetcher.api.read_secret(outcome, self._sent)
            self._fetcher.tokens.accepted(held)
            answer = self._kept(SharedSecret(secret))
        except Exception as error:  # noqa: BLE001 - there is no task to raise it in
            if isinstance(error, FlowMateError):
                error.about(username=self._username, secret_id=self._request.secret_id)
            flight.fail(error)
        else:
            flight.land(answer)
        finally:
            if self._turn is not None:
                self._end_turn()

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()

    def _is_client_known(self) -> bool:
        known = self._fetcher.known.client_of(self.secret_id)
        return known is not None or self._request.auth_client_id is not None

    async def launch_in_turn(
        self, shared: SharedCredentials, acceptable: Acceptable | None, flight: Flight[SharedSecret]
    ) -> SharedSecret:
        """Ask for the secret in one flight of all processes together, or take another process's answer."""
        try:
            ask = _Ask(self, flight, self._fetcher.known)
            answer = await shared.fetch(user_key(self._username), self.secret_id, ask, acceptable=acceptable)
        except FlowMateError as error:
            error.about(username=self._username, secret_id=self._request.secret_id)
            raise
        return self._kept(answer)

    @property
    def may_refresh(self) -> bool:
        """Whether a GET may make upstream refresh, as far as is known now."""
        return self._request_now().may_refresh

    def _kept(self, answer: SharedSecret) -> SharedSecret:
        if self._keep is not None:
            self._keep((self._username, answer.secret.id), answer)
        return answer


def _hurry(flight: Flight[SharedSecret]) -> None:
    set_interactive()  # of the context in which this runs, a copy of the flight's own
    flight.hurry()


class _Ask:
    """How a flight asks in its turn."""

    __slots__ = ("_fetch", "_flight", "_known")

    def __init__(self, fetch: _Fetch, flight: Flight[SharedSecret], known: KnownSecrets) -> None:
        self._fetch = fetch
        self._flight = flight
        self._known = known

    @property
    def forced(self) -> bool:
        return self._flight.forced

    @property
    def abandoned(self) -> bool:
        # A restarted flight continues in another task.
        return self._flight.sent and self._flight.task in {None, asyncio.current_task()}

    @property
    def may_refresh(self) -> bool:
        return self._fetch.may_refresh

    @property
    def facts(self) -> SecretFacts | None:
        return self._known.facts(self._fetch.secret_id)

    def learn(self, facts: SecretFacts) -> None:
        self._known.note(self._fetch.secret_id, facts)

    def turn(self) -> AbstractAsyncContextManager[bool]:
        return self._fetch.in_turn(self._flight)

    async def __call__(self, *, in_turn: bool = False) -> Secret:
        try:
            answer = await self._fetch.launch(self._flight, in_turn=in_turn)
        except FlowMateError:
            self._flight.hold()
            raise
        self._flight.hold()
        return answer.secret
