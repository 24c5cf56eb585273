"""Impersonation tokens: one per user, used until upstream rejects it, and replaced once per rejection.

Tokens are opaque and have a sliding lifetime (docs/contract/OBSERVED.md § Impersonation), so they are kept
while they are in use. A 401 has many causes (§ Errors), so each rejected token is replaced once, never in a
loop.
"""

import asyncio
from weakref import WeakValueDictionary

from flowmate_async.access.api import Api
from flowmate_async.access.single_flight import FlightStatistics
from flowmate_async.clock import Clock
from flowmate_async.containers import LruDict
from flowmate_async.contract.answers import read_user_token
from flowmate_async.contract.ids import user_key
from flowmate_async.contract.protocol import impersonate
from flowmate_async.engine.awaiting import mark_retrieved
from flowmate_async.engine.call import Call, Identity, Outcome, Tally, Token
from flowmate_async.engine.engine import Engine
from flowmate_async.engine.priority import Priority, current_priority
from flowmate_async.engine.states import IN_FLIGHT
from flowmate_async.errors import FlowMateError
from flowmate_async.events import Emitter, FlightJoined, TokenMade
from flowmate_async.redaction import Headers
from flowmate_async.values.models import TOKEN_IDLE_SECONDS, KeptToken, UserToken

_REPLACEMENT_COOL_DOWN_SECONDS = 30.0


class CachedToken:
    """A cached user token. Its ``repr`` is the default one, without fields.

    ``replacement`` and ``proven`` distinguish a new token that was never accepted from one that has expired.
    Ages count on both clocks, since the monotonic one stands still while a machine sleeps. ``looked_at_wall``
    is when the token was last taken for a request.
    """

    __slots__ = (
        "headers",
        "looked_at_wall",
        "made_at",
        "made_at_wall",
        "proven",
        "replacement",
        "token",
        "used_at",
        "used_at_wall",
    )

    def __init__(self, token: UserToken, *, replacement: bool, now: float, wall: float) -> None:
        self.token: UserToken = token
        self.headers: Headers = token.headers()
        self.replacement: bool = replacement
        self.made_at: float = now
        self.made_at_wall: float = wall
        self.used_at: float = now
        self.used_at_wall: float = wall
        self.looked_at_wall: float = wall
        self.proven: bool = False

    def idle_seconds(self, *, now: float, wall: float) -> float:
        """Return how long it has been idle, by the clock that shows more."""
        return max(now - self.used_at, wall - self.used_at_wall)

    def age_seconds(self, *, now: float, wall: float) -> float:
        """Return its age, by the clock that shows more."""
        return max(now - self.made_at, wall - self.made_at_wall)


class _Impersonation(Call, eq=False, kw_only=True):
    """The call that creates a token for a user."""

    user: "UserIdentity"

    @property
    def is_wanted(self) -> bool:
        """Whether anything waits for the token."""
        return self.user.is_wanted

    def receive(self, outcome: Outcome) -> None:
        """Pass on the outcome."""
        self.user.impersonated(outcome)


class UserIdentity:
    """One user, with the cached token. Everything that needs a token shares one impersonation.

    Args:
        username: the user.
        tokens: the table that the user belongs to.

    Attributes:
        username: the user.
        key: the canonical spelling of the username.
        cached: the token.
        was_rejected: whether upstream rejected the previous token.
    """

    __slots__ = (
        "__weakref__",
        "_futures",
        "_impersonation",
        "_tokens",
        "_waiting",
        "cached",
        "key",
        "username",
        "was_rejected",
    )

    def __init__(self, username: str, tokens: "UserTokens") -> None:
        self.username: str = username
        self.key: str = user_key(username)
        self.cached: CachedToken | None = None
        self.was_rejected: bool = False
        self._tokens = tokens
        self._impersonation: _Impersonation | None = None
        self._waiting: list[Call] = []
        self._futures: list[asyncio.Future[CachedToken]] = []

    @property
    def is_busy(self) -> bool:
        """Whether an impersonation is in flight."""
        return self._impersonation is not None

    @property
    def is_wanted(self) -> bool:
        """Whether anything waits for the token."""
        return bool(self._waiting or self._futures)

    @property
    def waiting(self) -> int:
        """How many callers wait for the token."""
        return len(self._waiting) + len(self._futures)

    async def token(self) -> CachedToken:
        """Return the user's token: the cached one, or a new one.

        Raises:
            FlowMateError: the impersonation failed.
        """
        cached = self.current(self._tokens.clock.monotonic(), self._tokens.clock.wall())
        if cached is not None:
            return cached
        future: asyncio.Future[CachedToken] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            self._impersonate(current_priority(), None)
            return await future
        except BaseException:
            if future in self._futures:
                self._futures.remove(future)
            mark_retrieved(future)
            self._drop_if_unwanted()
            raise

    # Called by the engine; see :class:`~flowmate_async.engine.call.Identity`.

    def current(self, now: float, wall: float) -> CachedToken | None:
        """Return the cached token, unless it has been idle for too long by either clock."""
        cached = self.cached
        if cached is None or now - cached.used_at >= TOKEN_IDLE_SECONDS:
            return None
        cached.looked_at_wall = wall
        return None if wall - cached.used_at_wall >= TOKEN_IDLE_SECONDS else cached

    def obtain(self, call: Call) -> None:
        """Impersonate the user, or join the impersonation in flight."""
        self._waiting.append(call)
        try:
            self._impersonate(call.priority, call.tally)
        except FlowMateError as error:
            self._waiting.remove(call)
            call.fail(error.about(username=self.username))

    def abandon(self, call: Call) -> None:
        """Stop waiting on behalf of this call."""
        if call in self._waiting:
            self._waiting.remove(call)
        self._drop_if_unwanted()

    def hurry(self, call: Call) -> None:
        """Give the impersonation the priority of this call."""
        if self._impersonation is not None and call.priority < self._impersonation.priority:
            self._tokens.engine.hurry(self._impersonation)

    def accepted(self, token: Token | None, now: float) -> None:
        """Note that upstream accepted this token."""
        if type(token) is CachedToken:
            token.proven = True
            token.used_at = now
            token.used_at_wall = token.looked_at_wall

    def reject(self, token: Token, now: float) -> bool:
        """Drop a rejected token. Return ``False`` if it was a replacement that was created just now."""
        if not isinstance(token, CachedToken) or self.cached not in (token, None):
            return True  # another call replaced it meanwhile
        age = token.age_seconds(now=now, wall=self._tokens.clock.wall())
        if token.replacement and not token.proven and age < _REPLACEMENT_COOL_DOWN_SECONDS:
            return False
        self.cached, self.was_rejected = None, True
        return True

    # Called by the impersonation.

    def impersonated(self, outcome: Outcome) -> None:
        """Cache the token and resume everything that waits for it."""
        self._impersonation = None
        waiting, futures = self._waiting, self._futures
        self._waiting, self._futures = [], []
        cached = self._read(outcome)
        self._tokens.ended(self)
        if isinstance(cached, Exception):
            for each in waiting:
                each.fail(_copy(cached))
            for future in futures:
                if not future.done():
                    future.set_exception(_copy(cached))
        else:
            for future in futures:
                if not future.done():
                    future.set_result(cached)
            self._tokens.engine.resume(*waiting)

    def _read(self, outcome: Outcome) -> CachedToken | Exception:
        """Cache the token of an answer and return it, or return the error."""
        if not isinstance(outcome, Exception):
            try:
                return self._tokens.made(self, read_user_token(outcome))
            except FlowMateError as error:
                outcome = error
        return outcome.about(username=self.username) if isinstance(outcome, FlowMateError) else outcome

    def _impersonate(self, priority: Priority, tally: Tally | None) -> None:
        call = self._impersonation
        if call is not None:
            self._tokens.joined()
            if priority < call.priority:
                self._tokens.engine.hurry(call)
            return
        self._impersonation = call = self._tokens.begun(self, priority, tally)
        try:
            self._tokens.engine.submit(call)
        except FlowMateError:
            self._impersonation = None
            self._tokens.ended(self)
            raise

    def _drop_if_unwanted(self) -> None:
        call = self._impersonation
        if call is not None and not self.is_wanted and call.state != IN_FLIGHT:
            self._impersonation = None
            self._tokens.engine.drop(call)
            self._tokens.ended(self)


class UserTokens:
    """LRU cache of the user tokens of one client, by case-insensitive username.

    Args:
        api: bounds of the exchanges.
        admin: the identity that creates tokens.
        clock: the client's clock.
        emitter: told of new tokens and joined flights.
        capacity: maximum number of users whose token is cached.

    Attributes:
        engine: sends calls.
        clock: the client's clock.
    """

    def __init__(
        self, api: Api, *, admin: Identity, clock: Clock, emitter: Emitter, capacity: int = 10_000
    ) -> None:
        self.engine: Engine = api.engine
        self.clock: Clock = clock
        self._api = api
        self._admin = admin
        self._emitter = emitter
        # One object per user for as long as anything uses it, so that there is one impersonation at a time.
        self._alive: WeakValueDictionary[str, UserIdentity] = WeakValueDictionary()
        # The most recently used ones.
        self._recent: LruDict[str, UserIdentity] = LruDict(capacity)
        self._busy: set[UserIdentity] = set()
        self._begun = 0
        self._joined = 0

    def identity(self, username: str, key: str | None = None) -> UserIdentity:
        """Return the identity for a user's calls.

        Args:
            username: the user.
            key: the canonical spelling of the username, if the caller has it.
        """
        if key is None:
            key = user_key(username)
        identity = self._recent.get(key)
        if identity is not None:
            self._recent.move_to_end(key)
            return identity
        identity = self._alive.get(key)
        if identity is None:
            identity = self._alive[key] = UserIdentity(username, self)
        self._recent.put(key, identity)
        return identity

    async def token(self, username: str) -> UserToken:
        """Return the user's token: the cached one, or a new one."""
        return (await self.identity(username).token()).token

    def holds(self, username: str) -> bool:
        """Return whether a token of this user is cached or being created."""
        identity = self._alive.get(user_key(username))
        return identity is not None and (identity.cached is not None or identity.is_busy)

    def forget(self, username: str) -> None:
        """Drop the user's token. The next call creates a new one."""
        key = user_key(username)
        identity = self._alive.get(key)
        if identity is not None:
            identity.cached = None
            self._recent.pop(key, None)

    def adopt(self, username: str, kept: KeptToken) -> None:
        """Cache a token kept by an earlier run, unless it is too old. It is not proven yet."""
        wall = self.clock.wall()
        idle = kept.idle_seconds(now=wall)
        if idle is not None:
            self.identity(username).cached = CachedToken(
                kept.token, replacement=False, now=self.clock.monotonic() - idle, wall=wall - idle
            )

    def kept(self, username: str) -> KeptToken | None:
        """Return the user's token for a later run; ``None`` without a token, or if a new one was rejected."""
        identity = self._alive.get(user_key(username))
        cached = None if identity is None else identity.cached
        if cached is None or (cached.replacement and not cached.proven):
            return None
        wall = self.clock.wall()
        idle = cached.idle_seconds(now=self.clock.monotonic(), wall=wall)
        return KeptToken(cached.token, wall - idle)

    def statistics(self) -> FlightStatistics:
        """Return statistics of impersonations."""
        return FlightStatistics(
            under_way=len(self._busy),
            waiting=sum(identity.waiting for identity in self._busy),
            flown=self._begun,
            joined=self._joined,
        )

    def clear(self) -> None:
        """Forget every token."""
        for identity in list(self._alive.values()):
            identity.cached = None
        self._recent.clear()

    # Called by the users' identities.

    def begun(self, identity: UserIdentity, priority: Priority, tally: Tally | None) -> _Impersonation:
        """Return the call of a new impersonation.

        Raises:
            InvalidIdError: the username may not be sent.
        """
        request, limits = impersonate(identity.username), self._api.plain_limits
        call = _Impersonation(request, self._admin, limits, priority, tally, user=identity)
        self._begun += 1
        self._busy.add(identity)
        return call

    def ended(self, identity: UserIdentity) -> None:
        """Note that an impersonation has ended."""
        self._busy.discard(identity)

    def joined(self) -> None:
        """Note that something joined an impersonation in flight."""
        self._joined += 1
        self._emitter.emit(FlightJoined("impersonation"))

    def made(self, identity: UserIdentity, token: UserToken) -> CachedToken:
        """Cache a new token."""
        replaced, identity.was_rejected = identity.was_rejected, False
        cached = CachedToken(token, replacement=replaced, now=self.clock.monotonic(), wall=self.clock.wall())
        identity.cached = cached
        self._emitter.emit(TokenMade(identity.username, replaced))
        return cached


def _copy(error: Exception) -> Exception:
    return error.clone() if isinstance(error, FlowMateError) else error
