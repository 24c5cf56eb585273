"""Credentials that are valid when they are handed out: a cache by expiry, refreshed once, rejected once.

What may be served when is decided in ``freshness.py``; that one secret is fetched once however many ask is
``fetch.py``'s; how it is held is ``entries.py``'s. Here: what is kept, and what a failure means for it.
"""

import asyncio
import itertools
import random
from collections import OrderedDict
from collections.abc import Callable

from flowmate_async.clock import Clock
from flowmate_async.coordination import Acceptable, Recognizes, SharedCredentials, SharedSecret
from flowmate_async.entries import CacheStatistics, Entry, Key, RecentFailures
from flowmate_async.errors import (
    CredentialExpiredError,
    CredentialMissingError,
    CredentialRejectedError,
    FlowMateError,
    InvalidIdError,
    MaskedSecretError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    SecretNotFoundError,
    UpstreamUnavailableError,
    UserNotFoundError,
)
from flowmate_async.events import Emitter, Refreshed, ServedStale
from flowmate_async.fetch import SecretFetcher
from flowmate_async.freshness import FreshnessPolicy, State, Timeline, never_refreshed, timeline
from flowmate_async.known_secrets import auth_client_of
from flowmate_async.loop_binding import LoopBinding
from flowmate_async.secrets import Secret, presented

_TRANSIENT = (
    CredentialMissingError,
    InvalidIdError,
    MaskedSecretError,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    UpstreamUnavailableError,
)
"""Failures that say nothing about the cached value: it is served while it is valid."""

_NEGATIVE = (PermissionDeniedError, SecretNotFoundError, UserNotFoundError)
"""Answers that end the right to the cached value; a masked one, which is a subclass, does not."""

_COOLED_DOWN = (CredentialMissingError, RefreshFailedError)
"""Failures that are remembered for the cool-down, because asking again may cost a provider login."""


class Credentials:
    """The cache of credentials of one client, and the leases on them.

    Least recently used entries go first when there are too many. Flights are not in this table, so eviction
    never touches one.

    Args:
        fetcher: fetches, each secret at most once at a time.
        policy: see :class:`FreshnessPolicy`.
        capacity: most credentials held, and most failures remembered.
        clock: wall time for ``expires``, monotonic time for ages.
        emitter: told of refreshes and of stale values served.
        shared: what other processes fetched and rejected, when there are others.
        uniform: the source of jitter.
        binding: the event loop on which it may be used.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        fetcher: SecretFetcher,
        *,
        policy: FreshnessPolicy,
        capacity: int,
        clock: Clock,
        emitter: Emitter,
        shared: SharedCredentials | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        binding: LoopBinding | None = None,
    ) -> None:
        self.require_own_loop: Callable[[], None] = binding.require if binding is not None else _any_loop
        self._fetcher = fetcher
        self._shared = shared
        if shared is not None:
            shared.on_rejected(self._rejected_elsewhere)
        self._policy = policy
        self._capacity = capacity
        self._clock = clock
        self._emitter = emitter
        self._uniform = uniform
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._failures = RecentFailures(capacity=capacity, clock=clock)
        self._generations = itertools.count(1)
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False
        self._hits = self._misses = self._refreshes = self._stale_served = 0

    async def credential(self, username: str, secret_id: str, min_valid: float) -> Secret:
        """Return a credential that is valid for ``min_valid`` seconds; see :meth:`FlowMate.credential`."""
        self.require_own_loop()
        key = (username, secret_id)
        entry = self._entries.get(key)
        if entry is not None:
            # The hot path: State.FRESH, by the rule of Timeline.state, without the calls.
            when, wall, monotonic = entry.timeline, self._clock.wall(), self._clock.monotonic()
            if (
                wall < when.refresh_at_wall
                and monotonic < when.refresh_at_monotonic
                and wall + min_valid <= when.valid_until_wall
                and monotonic + min_valid <= when.valid_until_monotonic
                and monotonic < when.valid_until_monotonic
            ):
                self._hits += 1
                self._entries.move_to_end(key)
                return entry.secret
        elif (joined := self._fetcher.join(username, secret_id)) is not None:
            # The crowd's path: thousands may wait for one flight, so each goes the shortest way.
            self._misses += 1
            try:
                answer = await joined
            except FlowMateError as error:
                self._note_failure(key, error)
                raise
            return (await self._arrived(key, self._keep(key, answer), min_valid)).secret
        return (await self.entry(key, min_valid)).secret

    async def entry(self, key: Key, min_valid: float) -> Entry:
        """Return the entry to serve: at once if it may be served, otherwise after one refresh."""
        self.require_own_loop()
        entry = self._entries.get(key)
        if entry is None:
            self._misses += 1
            return await self._first(key, min_valid)
        self._entries.move_to_end(key)
        state = entry.timeline.state(
            wall=self._clock.wall(), monotonic=self._clock.monotonic(), min_valid_seconds=min_valid
        )
        if state is State.EXPIRED:
            self._misses += 1
            return await self._renewed(key, entry, min_valid)
        self._hits += 1
        if state is State.STALE:
            self._refresh_in_background(key, entry)
        return entry

    async def replaced(self, key: Key, rejected: Entry, min_valid: float) -> Entry:
        """The entry after one that the app rejected: compare-and-swap, so that many rejections fetch once.

        What is compared is the credential itself: evicted and fetched again, it is in another entry.

        Raises:
            CredentialRejectedError: upstream still has the same value, or had it within the cool-down.
        """
        self.require_own_loop()
        # A renewal that is under way may bring the newer one; asking again would cost that one its life.
        await self._fetcher.settled(*key)
        current = self._entries.get(key)
        if current is not None and presented(current.secret) != presented(rejected.secret):
            await self._tell(key, rejected)
            return await self.entry(key, min_valid)
        known = rejected if current is None else current
        if self._clock.monotonic() < max(known.rejected_until, rejected.rejected_until):
            raise _rejected(key)
        self._failures.raise_if_any(key)
        if known.failure is not None and self._clock.monotonic() < known.retry_at:
            raise known.failure.clone()
        if self._shared is not None and await self._shared.reject(*key, rejected.secret):
            rejected.rejected_until = known.rejected_until = self._clock.monotonic() + self._cool_down()
            raise _rejected(key)
        fetched = await self._fetch_instead_of(known, key, min_valid)
        if presented(fetched.secret) == presented(rejected.secret):
            seconds = self._cool_down()
            rejected.rejected_until = fetched.rejected_until = self._clock.monotonic() + seconds
            if self._shared is not None:
                await self._shared.confirm(*key, rejected.secret, seconds=seconds)
            raise _rejected(key)
        # Again, for those who were being answered with it when they heard: now there is something else.
        await self._tell(key, rejected)
        return await self._arrived(key, fetched, min_valid)

    async def _tell(self, key: Key, rejected: Entry) -> None:
        """Have other processes hand out no more what was rejected, since there is something newer; once."""
        if self._shared is None or rejected.told:
            return
        rejected.told = True
        try:
            await self._shared.reject(*key, rejected.secret)
        except BaseException:
            rejected.told = False
            raise

    async def _fetch_instead_of(self, rejected: Entry, key: Key, min_valid: float) -> Entry:
        """Fetch by force; meanwhile nobody is handed the rejected value."""
        old = rejected.secret
        if not rejected.rejecters:
            rejected.unrejected = rejected.timeline
        rejected.rejecters += 1
        lasts = self._is_valid_for(min_valid)
        rejected.call_in()
        try:
            return await self._fetch(
                key,
                forced=True,
                acceptable=lambda answer: presented(answer.secret) != presented(old) and lasts(answer),
            )
        finally:
            rejected.rejecters -= 1
            if rejected.called_in and not rejected.rejecters:
                rejected.timeline = rejected.unrejected

    def _rejected_elsewhere(self, username: str, secret_id: str, recognizes: Recognizes) -> None:
        """Hand out no more what the app rejected when another process presented it."""
        entry = self._entries.get((username, secret_id))
        if entry is not None and recognizes(entry.secret):
            entry.call_in()

    def forget(self, username: str, secret_id: str) -> None:
        """Drop what is held of a secret."""
        self._entries.pop((username, secret_id), None)
        self._failures.forget((username, secret_id))

    async def refresh_if_due(self, key: Key) -> None:
        """Fetch a credential that is not held, or whose early refresh is due; otherwise do nothing."""
        entry = self._entries.get(key)
        if entry is None:
            await self._first(key, 0.0)
        elif (due := self.refresh_at(key)) is not None and due <= self._clock.monotonic():
            await self._fetch(key, acceptable=self._is_fresh)

    def refresh_at(self, key: Key) -> float | None:
        """When an early refresh is due, in monotonic seconds; ``None`` for never.

        A credential that is not held is due now.
        """
        entry = self._entries.get(key)
        if entry is None:
            return self._clock.monotonic()
        due = entry.timeline.refresh_at_monotonic
        return None if due == float("inf") else max(due, entry.retry_at)

    def statistics(self) -> CacheStatistics:
        """The cache as it stands."""
        return CacheStatistics(
            entries=len(self._entries),
            failures=len(self._failures),
            hits=self._hits,
            misses=self._misses,
            refreshes=self._refreshes,
            stale_served=self._stale_served,
        )

    async def aclose(self) -> None:
        """Give up background refreshes, forget every credential and keep no more."""
        self._closed = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._entries.clear()
        self._failures.clear()

    async def _first(self, key: Key, min_valid: float) -> Entry:
        """Fetch what is not held, unless that failed a moment ago."""
        self._failures.raise_if_any(key)
        fetched = await self._fetch(key, acceptable=self._is_valid_for(min_valid))
        return await self._arrived(key, fetched, min_valid)

    async def _arrived(self, key: Key, entry: Entry, min_valid: float) -> Entry:
        """What a flight brought, or a newer one.

        If an app rejected it before the caller's turn came; or if whoever began the flight needed it for less
        time, and so did with what another process had.
        """
        while entry.called_in or not (entry.newest or self._lasts(entry, min_valid)):
            entry = await self._fetch(key, acceptable=self._is_valid_for(min_valid))
        return self._long_enough(key, entry, min_valid)

    async def _renewed(self, key: Key, entry: Entry, min_valid: float) -> Entry:
        """Wait for a newer value than one that has ended or ends too soon."""
        if self._clock.monotonic() < entry.retry_at:
            if entry.failure is None:
                return self._long_enough(key, entry, min_valid)
            return self._despite(entry.failure.clone(), key, entry)
        try:
            renewed = await self._fetch(key, acceptable=self._is_valid_for(min_valid))
        except FlowMateError as error:
            failure = error
        else:
            return await self._arrived(key, renewed, min_valid)
        return self._despite(failure, key, entry)

    def _despite(self, failure: FlowMateError, key: Key, entry: Entry) -> Entry:
        """The old value, if the failure says nothing about it and it is still valid; else the failure."""
        if not isinstance(failure, _TRANSIENT) or self._remaining(entry) <= 0:
            raise failure
        self._stale_served += 1
        self._emitter.emit(ServedStale(*key, failure.kind))
        return entry

    async def _fetch(self, key: Key, *, acceptable: Acceptable, forced: bool = False) -> Entry:
        entry = self._entries.get(key)
        try:
            answer = await self._fetcher.get(
                *key,
                may_refresh=entry is None or not never_refreshed(entry.secret.type),
                auth_client_id=None if entry is None else auth_client_of(entry.secret),
                forced=forced,
                keep=self._keep,
                acceptable=None if self._shared is None else acceptable,
            )
        except FlowMateError as error:
            self._note_failure(key, error)
            raise
        # The flight has kept it already, unless somebody else's flight was joined.
        return self._keep(key, answer)

    def _timeline(self, answer: SharedSecret) -> Timeline:
        """The timeline of an answer, which another process may have got a while ago."""
        return timeline(
            answer.secret,
            wall=self._clock.wall() - answer.age_seconds,
            monotonic=self._clock.monotonic() - answer.age_seconds,
            jitter=self._uniform(0.0, 1.0),
            policy=self._policy,
        )

    def _state(self, answer: SharedSecret, min_valid: float) -> State:
        return self._timeline(answer).state(
            wall=self._clock.wall(), monotonic=self._clock.monotonic(), min_valid_seconds=min_valid
        )

    def _is_fresh(self, answer: SharedSecret) -> bool:
        return self._state(answer, 0.0) is State.FRESH

    def _is_valid_for(self, min_valid: float) -> Acceptable:
        return lambda answer: self._state(answer, min_valid) is not State.EXPIRED

    def _keep(self, key: Key, answer: SharedSecret) -> Entry:
        """Hold what a flight brought; called once by the flight and again by everyone who waited for it."""
        entry, secret = self._entries.get(key), answer.secret
        if entry is not None and entry.secret is secret:
            return entry
        when = self._timeline(answer)
        if entry is not None and presented(entry.secret) == presented(secret):
            self._keep_unchanged(entry, answer, when)
        else:
            entry = Entry(answer, when, next(self._generations))
            self._insert(key, entry)
            self._refreshes += 1
            self._emitter.emit(Refreshed(*key))
        if entry.newest and self._remaining(entry) <= 0:
            entry.retry_at = self._clock.monotonic() + self._cool_down()
        self._failures.forget(key)
        return entry

    def _keep_unchanged(self, entry: Entry, answer: SharedSecret, when: Timeline) -> None:
        """The same value again. If it also ends when it did, asking again at once would bring no more."""
        secret = answer.secret
        if answer.newest and secret.expires_at is not None and secret.expires_at == entry.secret.expires_at:
            entry.retry_at = self._clock.monotonic() + self._cool_down()
        entry.secret = secret
        entry.newest = answer.newest
        entry.timeline = when
        entry.failure = None

    def _insert(self, key: Key, entry: Entry) -> None:
        if self._closed:
            return
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def _note_failure(self, key: Key, error: FlowMateError) -> None:
        """What a failure means for what is held. Idempotent: everyone who waited for the flight calls it."""
        entry = self._entries.get(key)
        now = self._clock.monotonic()
        if isinstance(error, _NEGATIVE) and not (entry is not None and isinstance(error, MaskedSecretError)):
            self._entries.pop(key, None)
            self._failures.add(key, error, until=now + self._policy.negative_ttl_seconds)
        elif entry is not None:
            if entry.retry_at <= now:
                entry.retry_at = now + self._cool_down()
                entry.failure = error.clone()
        elif isinstance(error, InvalidIdError) and error.status is not None:
            self._failures.add(key, error, until=now + self._policy.negative_ttl_seconds)
        elif isinstance(error, _COOLED_DOWN):
            self._failures.add(key, error, until=now + self._cool_down())

    def _refresh_in_background(self, key: Key, entry: Entry) -> None:
        """Start one early refresh, if none is under way; its failure is nobody's but the entry's."""
        if entry.refreshing or self._clock.monotonic() < entry.retry_at:
            return
        entry.refreshing = True
        task = asyncio.get_running_loop().create_task(self._refresh_early(key, entry))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _refresh_early(self, key: Key, entry: Entry) -> None:
        try:
            await self._fetch(key, acceptable=self._is_fresh)
        except FlowMateError:
            pass  # noted; the old value is still good
        finally:
            entry.refreshing = False

    def _long_enough(self, key: Key, entry: Entry, min_valid: float) -> Entry:
        """The entry, if it is valid for as long as the caller needs it.

        Raises:
            CredentialExpiredError: it is not, though upstream has nothing newer.
        """
        if self._lasts(entry, min_valid):
            return entry
        remaining = self._remaining(entry)
        if self._clock.monotonic() >= entry.retry_at:
            # Asking again at once would bring nothing that lasts longer, and may cost a login.
            entry.retry_at, entry.failure = self._clock.monotonic() + self._cool_down(), None
        username, secret_id = key
        if remaining <= 0:
            what = "upstream's newest credential has expired"
            advice = "The user must connect the app again, unless the clock of this machine is wrong"
        else:
            what = f"upstream's newest credential is valid for {remaining:.0f} s, not for {min_valid:.0f} s"
            advice = "Ask for less: upstream makes a new one only when less than 15 minutes are left"
        raise CredentialExpiredError(what, advice=advice, username=username, secret_id=secret_id)

    def _lasts(self, entry: Entry, min_valid: float) -> bool:
        remaining = self._remaining(entry)
        return remaining > 0 and remaining >= min_valid

    def _remaining(self, entry: Entry) -> float:
        return entry.timeline.remaining_seconds(wall=self._clock.wall(), monotonic=self._clock.monotonic())

    def _cool_down(self) -> float:
        return self._policy.cool_down_seconds * self._uniform(1.0, 1.5)


def _rejected(key: Key) -> CredentialRejectedError:
    username, secret_id = key
    return CredentialRejectedError(
        "the app rejected the credential, and upstream has no other",
        advice="Check that it is for this app; the user may have to connect the app again",
        username=username,
        secret_id=secret_id,
    )


def _any_loop() -> None:
    """Accept every event loop."""
