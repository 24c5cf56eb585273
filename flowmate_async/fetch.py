"""One secret from upstream: as its user, one flight a secret, its token replaced when rejected."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from flowmate_async.api import Api
from flowmate_async.errors import FlowMateError
from flowmate_async.events import Emitter, FlightJoined
from flowmate_async.flight import Flight, FlightStatistics, SingleFlight
from flowmate_async.protocol import Request, checked_username, get_secret
from flowmate_async.secrets import Secret
from flowmate_async.tokens import UserTokens

_Key = tuple[str, str, str]

Keep = Callable[[tuple[str, str], Secret], object]
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
    """

    def __init__(self, api: Api, *, tokens: UserTokens, base_url: str, emitter: Emitter) -> None:
        self._api = api
        self._tokens = tokens
        self._base_url = base_url
        self._flights: SingleFlight[_Key, Secret] = SingleFlight(
            on_join=partial(emitter.emit, FlightJoined("secret"))
        )

    async def get(
        self,
        username: str,
        secret_id: str,
        *,
        may_refresh: bool = True,
        auth_client_id: str | None = None,
        forced: bool = False,
        keep: Keep | None = None,
    ) -> Secret:
        """The secret as upstream has it now.

        Args:
            username: the user.
            secret_id: the secret.
            may_refresh: whether upstream may refresh it while answering; ``True`` when that is not known.
            auth_client_id: the OAuth client that it would be refreshed with, as far as that is known.
            forced: it must be asked for after this call; an earlier flight is not joined.
            keep: given the answer even when nobody waits for it any more.
        """
        key = (self._base_url, checked_username(username), secret_id)
        request = get_secret(secret_id, may_refresh=may_refresh)
        return await self._flights.fly(
            key, partial(self._fetch, key, request, auth_client_id, keep), forced=forced
        )

    async def settled(self, username: str, secret_id: str) -> None:
        """Wait until nothing is being fetched that was not forced."""
        await self._flights.settled((self._base_url, username, secret_id))

    def join(self, username: str, secret_id: str) -> Coroutine[Any, Any, Secret] | None:
        """The wait for this secret's flight that is under way, boarded already; ``None`` if there is none."""
        return self._flights.join((self._base_url, username, secret_id))

    def statistics(self) -> FlightStatistics:
        """The flights of secrets."""
        return self._flights.statistics()

    async def aclose(self, *, drain_seconds: float) -> None:
        """See :meth:`SingleFlight.aclose`."""
        await self._flights.aclose(drain_seconds=drain_seconds)

    async def _fetch(
        self,
        key: _Key,
        request: Request,
        auth_client_id: str | None,
        keep: Keep | None,
        flight: Flight[Secret],
    ) -> Secret:
        _, username, secret_id = key
        try:
            secret = await self._tokens.call(
                username,
                lambda user: self._api.get_secret(
                    user, request, username=username, auth_client_id=auth_client_id, wire=flight
                ),
            )
        except FlowMateError as error:
            error.about(secret_id=secret_id)
            raise
        if keep is not None:
            keep((username, secret_id), secret)
        return secret
