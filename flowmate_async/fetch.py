"""One secret from upstream: as its user, one flight a secret, its token replaced when rejected."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from flowmate_async.api import Api
from flowmate_async.coordination import Acceptable, SharedCredentials, SharedSecret
from flowmate_async.errors import FlowMateError
from flowmate_async.events import Emitter, FlightJoined
from flowmate_async.failures import Failure
from flowmate_async.flight import Flight, FlightStatistics, SingleFlight
from flowmate_async.protocol import Request, checked_username, get_secret
from flowmate_async.secrets import Secret
from flowmate_async.tokens import Held, UserTokens
from flowmate_async.traffic.errand import Outcome

_Key = tuple[str, str, str]

Keep = Callable[[tuple[str, str], SharedSecret], object]
"""Takes ``(username, secret id)`` and the secret."""


class SecretFetcher:
    """Fetches secrets, each at most once at a time.

    Concurrent GETs of one secret cost provider logins and end in 500s (docs/contract/OBSERVED.md
    § Concurrent GETs of one secret), so the single flight is correctness here, not speed.

    Args:
        api: fetches.
        tokens: as whom.
        base_url: part of every key, as the user is, so that no value reaches another user.
        emitter: told of flights joined.
        shared: single flight and cache across processes, when there are others.
    """

    def __init__(
        self,
        api: Api,
        *,
        tokens: UserTokens,
        base_url: str,
        emitter: Emitter,
        shared: SharedCredentials | None = None,
    ) -> None:
        self._api = api
        self._tokens = tokens
        self._base_url = base_url
        self._shared = shared
        self._flights: SingleFlight[_Key, SharedSecret] = SingleFlight(
            on_join=partial(emitter.emit, FlightJoined("secret"))
        )

    def get(
        self,
        username: str,
        secret_id: str,
        *,
        may_refresh: bool = True,
        auth_client_id: str | None = None,
        forced: bool = False,
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
            keep: given the answer even when nobody waits for it any more.
            acceptable: whether one that another process fetched will do; ``None`` for those only that were
                fetched while this call waited for its turn.
        """
        key = (self._base_url, checked_username(username), secret_id)
        request = get_secret(
            secret_id, username=username, may_refresh=may_refresh, auth_client_id=auth_client_id
        )
        fetch = _Fetch(self._api, self._tokens, username, request, keep)
        if self._shared is not None and (may_refresh or acceptable is not None):
            return self._flights.fly(
                key, partial(fetch.launch_in_turn, self._shared, acceptable), forced=forced
            )
        return self._flights.fly(key, fetch.launch, at_once=fetch.at_once, forced=forced)

    async def settled(self, username: str, secret_id: str) -> None:
        """Wait until nothing is being fetched that was not forced."""
        await self._flights.settled((self._base_url, username, secret_id))

    def join(self, username: str, secret_id: str) -> Coroutine[Any, Any, SharedSecret] | None:
        """The wait for this secret's flight that is under way, boarded already; ``None`` if there is none."""
        return self._flights.join((self._base_url, username, secret_id))

    def statistics(self) -> FlightStatistics:
        """The flights of secrets."""
        return self._flights.statistics()

    async def aclose(self, *, drain_seconds: float) -> None:
        """See :meth:`SingleFlight.aclose`."""
        await self._flights.aclose(drain_seconds=drain_seconds)


class _Fetch:
    """How one flight is flown: at once where possible, otherwise by a task."""

    __slots__ = ("_api", "_flight", "_held", "_keep", "_request", "_tokens", "_username")

    def __init__(
        self, api: Api, tokens: UserTokens, username: str, request: Request, keep: Keep | None
    ) -> None:
        self._api = api
        self._tokens = tokens
        self._username = username
        self._request = request
        self._keep = keep
        self._flight: Flight[SharedSecret]
        self._held: Held

    async def launch(
        self, flight: Flight[SharedSecret], *, held: Held | None = None, failed: Failure | None = None
    ) -> SharedSecret:
        """Ask for the secret; ``held`` and ``failed`` tell of a first attempt, if one was made at once."""
        first = [failed]  # taken by the first operation; one with a new token begins anew
        try:
            secret = await self._tokens.call(
                self._username,
                lambda user: self._api.get_secret(
                    user, self._request, wire=flight, failed=first.pop() if first else None
                ),
                held=held,
            )
        except FlowMateError as error:
            error.about(secret_id=self._request.secret_id)
            raise
        return self._kept(SharedSecret(secret))

    def at_once(self, flight: Flight[SharedSecret]) -> bool:
        """Ask for it without a task, if nothing has to be waited for but the answer; whether it was asked."""
        held = self._tokens.held(self._username)
        if held is None:
            return False
        self._flight, self._held = flight, held
        return self._api.get_secret_at_once(held.headers, self._request, flight, self)

    def receive(self, outcome: Outcome | Exception) -> None:
        """The end of what was asked at once; where there is more to do, a task goes on."""
        flight, held = self._flight, self._held
        if isinstance(outcome, Failure):
            flight.go_on(partial(self.launch, held=held, failed=outcome))
            return
        try:
            if isinstance(outcome, Exception):
                raise outcome  # noqa: TRY301 - like any other fault
            secret = self._api.read_secret(outcome, self._request)
            self._tokens.accepted(held)
            answer = self._kept(SharedSecret(secret))
        except Exception as error:  # noqa: BLE001 - there is no task to raise it in
            if isinstance(error, FlowMateError):
                error.about(username=self._username, secret_id=self._request.secret_id)
            flight.fail(error)
        else:
            flight.land(answer)

    async def launch_in_turn(
        self, shared: SharedCredentials, acceptable: Acceptable | None, flight: Flight[SharedSecret]
    ) -> SharedSecret:
        """Ask for the secret in one flight of all processes together, or take what another was answered."""
        try:
            answer = await shared.fetch(
                self._username,
                self._request.secret_id or "",
                _Ask(flight, partial(self.launch, flight)),
                acceptable=acceptable,
            )
        except FlowMateError as error:
            error.about(username=self._username, secret_id=self._request.secret_id)
            raise
        return self._kept(answer)

    def _kept(self, answer: SharedSecret) -> SharedSecret:
        if self._keep is not None:
            self._keep((self._username, answer.secret.id), answer)
        return answer


class _Ask:
    """How a flight asks in its turn."""

    __slots__ = ("_flight", "_launch")

    def __init__(
        self, flight: Flight[SharedSecret], launch: Callable[[], Coroutine[Any, Any, SharedSecret]]
    ) -> None:
        self._flight = flight
        self._launch = launch

    @property
    def forced(self) -> bool:
        return self._flight.forced

    @property
    def abandoned(self) -> bool:
        # Of one that is hurried another task goes on.
        return self._flight.sent and self._flight.task in {None, asyncio.current_task()}

    async def __call__(self) -> Secret:
        try:
            answer = await self._launch()
        except FlowMateError:
            self._flight.hold()
            raise
        self._flight.hold()
        return answer.secret
