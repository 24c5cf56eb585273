"""Impersonation tokens: made once a user, used until upstream rejects them, replaced once a rejection.

Tokens are opaque and have a sliding life (docs/contract/OBSERVED.md § Impersonation), so they are kept
while they are used. A 401 has many causes (§ Errors); one replacement is tried for each rejected token,
never a loop.
"""

import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from flowmate_async.access.admin import AdminToken
from flowmate_async.access.api import Api
from flowmate_async.access.single_flight import Flight, FlightStatistics, SingleFlight
from flowmate_async.clock import Clock, Moment
from flowmate_async.contract.protocol import checked_username, user_key
from flowmate_async.errors import FlowMateError, UpstreamUnavailableError
from flowmate_async.events import Emitter, FlightJoined, TokenMade
from flowmate_async.redaction import Headers
from flowmate_async.traffic.breaker import Breaker
from flowmate_async.traffic.dispatch import TokenRejected
from flowmate_async.values.models import TOKEN_IDLE_SECONDS, KeptToken, UserToken

T = TypeVar("T")

_REPLACEMENT_COOL_DOWN_SECONDS = 30.0


class Held:
    """A user's token as it is kept; its ``repr`` is the default one, without fields.

    ``generation`` orders all tokens ever made by this table. ``replacement`` and ``proven`` tell a fresh
    token that was never accepted from one that died of age.
    """

    __slots__ = ("generation", "headers", "made_at", "proven", "replacement", "token", "used_at")

    def __init__(self, token: UserToken, *, generation: int, replacement: bool, made_at: Moment) -> None:
        self.token: UserToken = token
        self.headers: Headers = token.headers()
        self.generation: int = generation
        self.replacement: bool = replacement
        self.made_at: Moment = made_at
        self.used_at: Moment = made_at
        self.proven: bool = False


class UserTokens:
    """The table of user tokens of one client, by username without its case; least recently used out first.

    Args:
        api: makes tokens.
        admin: the token that they are made with.
        clock: the time they are kept by.
        emitter: told of tokens made and flights joined.
        breaker: told of fresh tokens that are rejected.
        capacity: most tokens kept.
    """

    def __init__(
        self,
        api: Api,
        *,
        admin: AdminToken,
        clock: Clock,
        emitter: Emitter,
        breaker: Breaker,
        capacity: int = 10_000,
    ) -> None:
        self._api = api
        self._admin = admin
        self._clock = clock
        self._emitter = emitter
        self._breaker = breaker
        self._capacity = capacity
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._generations = itertools.count(1)
        self._flights: SingleFlight[str, Held] = SingleFlight(
            on_join=lambda: emitter.emit(FlightJoined("impersonation"))
        )

    async def token(self, username: str) -> UserToken:
        """The user's token: the one that is held, or a new one."""
        return (self.held(username) or await self._make(username, replacement=False)).token

    def holds(self, username: str) -> bool:
        """Whether a token of this user is held."""
        return user_key(username) in self._held

    def forget(self, username: str) -> None:
        """Drop the user's token; the next call makes a new one."""
        self._held.pop(user_key(username), None)

    def adopt(self, username: str, kept: KeptToken) -> None:
        """Hold a token that an earlier run has kept, unless it is too old; nothing proves it yet."""
        idle = kept.idle_seconds(now=self._clock.wall())
        if idle is None:
            return
        used_at = Moment.after(-idle, self._clock)
        generation = next(self._generations)
        self._keep(username, Held(kept.token, generation=generation, replacement=False, made_at=used_at))

    def kept(self, username: str) -> KeptToken | None:
        """Return the user's token for a later run; ``None`` without one, or if a new one was rejected."""
        held = self._held.get(user_key(username))
        if held is None or (held.replacement and not held.proven):
            return None
        return KeptToken(held.token, self._clock.wall() - held.used_at.elapsed_seconds(self._clock))

    async def call(
        self, username: str, operation: Callable[[Headers], Awaitable[T]], *, held: Held | None = None
    ) -> T:
        """Run an operation as a user; once more, with a new token, when the token is rejected.

        Args:
            username: the user.
            operation: is given the header with the user's token.
            held: the token that it was begun with, if it was begun already.

        Raises:
            FlowMateError: what the operation raised, with the user named; or the rejection, when the new
                token was rejected as well.
        """
        try:
            held = held or self.held(username) or await self._make(username, replacement=False)
            try:
                result = await operation(held.headers)
            except TokenRejected as rejected:
                error = rejected.error
            else:
                self.accepted(held)
                return result
            return await self._call_anew(username, operation, held, error)
        except FlowMateError as failure:
            failure.about(username=username)
            raise

    def held(self, username: str) -> Held | None:
        """Return the token that is held, unless it has idled too long by either clock."""
        key = user_key(username)
        held = self._held.get(key)
        if held is None:
            return None
        used_at = held.used_at  # by the rule of Moment.elapsed_seconds, without the calls
        if (
            self._clock.monotonic() - used_at.monotonic >= TOKEN_IDLE_SECONDS
            or self._clock.wall() - used_at.wall >= TOKEN_IDLE_SECONDS
        ):
            return None
        self._held.move_to_end(key)
        return held

    def accepted(self, held: Held) -> None:
        """Note that upstream has accepted this token."""
        held.proven = True
        held.used_at = Moment(self._clock.wall(), self._clock.monotonic())

    def statistics(self) -> FlightStatistics:
        """The flights of impersonation."""
        return self._flights.statistics()

    async def aclose(self, *, drain_seconds: float) -> None:
        """Forget every token; see :meth:`SingleFlight.aclose`."""
        await self._flights.aclose(drain_seconds=drain_seconds)
        self._held.clear()

    async def _call_anew(
        self,
        username: str,
        operation: Callable[[Headers], Awaitable[T]],
        rejected: Held,
        error: FlowMateError,
    ) -> T:
        """Run the operation with the token after a rejected one."""
        held = await self._replaced(username, rejected, error)
        epoch = self._breaker.epoch
        try:
            result = await operation(held.headers)
        except TokenRejected as again:
            error = again.error
        else:
            self.accepted(held)
            return result
        if not isinstance(error, UpstreamUnavailableError):  # that one the breaker was told already
            # A fresh token is never dead: this 401 is upstream's own trouble.
            self._breaker.note(subject=username, failed=True, epoch=epoch)
        raise error

    async def _replaced(self, username: str, rejected: Held, error: FlowMateError) -> Held:
        """The token after a rejected one: compare-and-swap, so that many rejections make one token."""
        current = self._held.get(user_key(username))
        if current is not None and current.generation != rejected.generation:
            return current
        age = rejected.made_at.elapsed_seconds(self._clock)
        if rejected.replacement and not rejected.proven and age < _REPLACEMENT_COOL_DOWN_SECONDS:
            raise error
        self.forget(username)
        return await self._make(username, replacement=True)

    async def _make(self, username: str, *, replacement: bool) -> Held:
        checked_username(username)
        return await self._flights.fly(
            user_key(username), lambda flight: self._impersonate(username, flight, replacement=replacement)
        )

    async def _impersonate(self, username: str, flight: Flight[Held], *, replacement: bool) -> Held:
        try:
            token = await self._admin.call(lambda admin: self._api.impersonate(admin, username, wire=flight))
        except FlowMateError as error:
            error.about(username=username)
            raise
        held = Held(
            token,
            generation=next(self._generations),
            replacement=replacement,
            made_at=Moment.now(self._clock),
        )
        self._keep(username, held)
        self._emitter.emit(TokenMade(username, replacement))
        return held

    def _keep(self, username: str, held: Held) -> None:
        key = user_key(username)
        self._held[key] = held
        self._held.move_to_end(key)
        while len(self._held) > self._capacity:
            self._held.popitem(last=False)
