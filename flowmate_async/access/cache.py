"""The cache of valid credentials, by expiry. Concurrent refreshes and rejections are merged into one.

``freshness.py`` decides what may be served when. ``fetch.py`` fetches each secret at most once at a time.
``cache_entries.py`` holds the entries. This module decides what is kept and what a failure means for it.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowmate_async.access.cache_entries import CacheStatistics, Entry, EntryTable, Key, RecentFailures
from flowmate_async.access.fetch import SecretFetcher
from flowmate_async.access.health_watch import HealthWatch
from flowmate_async.access.rejection import Rejections
from flowmate_async.access.validity import Validity
from flowmate_async.clock import Clock
from flowmate_async.contract.freshness import FreshnessPolicy, State, Timeline, never_refreshed
from flowmate_async.contract.ids import canonical_key
from flowmate_async.contract.known_secrets import auth_client_of
from flowmate_async.contract.protocol import GET
from flowmate_async.engine.coordination import Acceptable, SharedCredentials, SharedSecret
from flowmate_async.errors import (
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
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserNotFoundError,
)
from flowmate_async.events import Emitter, Refreshed, ServedStale
from flowmate_async.system.loop_binding import LoopBinding
from flowmate_async.values.secrets import Secret, presented

_TRANSIENT = (
    CredentialMissingError,
    InvalidIdError,
    MaskedSecretError,
    ProtocolError,
    RateLimitedError,
    RefreshFailedError,
    UpstreamUnavailableError,
)
"""Failures that say nothing about the cached value. It is served while it is valid."""

_NEGATIVE = (PermissionDeniedError, SecretNotFoundError, UserNotFoundError)
"""Answers that end the right to the cached value. A masked answer is a subclass, but does not."""

_COOLED_DOWN = (CredentialMissingError, RefreshFailedError)
"""Failures remembered for the cool-down, because another request may cost a provider login."""


class Credentials:
    """The credential cache of one client, and the leases on its entries.

    The least recently used entries are evicted first. Flights are not in this table, so eviction never
    affects them.

    Args:
        fetcher: fetches, each secret at most once at a time.
        policy: see :class:`FreshnessPolicy`.
        capacity: maximum number of cached credentials, and of remembered failures.
        max_bytes: maximum bytes of memory for credentials.
        clock: wall time for ``expires``, monotonic time for ages.
        emitter: told of refreshes and of stale values served.
        shared: what other processes fetched and rejected, if there are any.
        watch: told what is observed about the health of credentials.
        uniform: the source of jitter.
        binding: the event loop on which the cache may be used.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        fetcher: SecretFetcher,
        *,
        policy: FreshnessPolicy,
        capacity: int,
        max_bytes: int = 256 * 1024 * 1024,
        clock: Clock,
        emitter: Emitter,
        shared: SharedCredentials | None = None,
        watch: HealthWatch | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        binding: LoopBinding,
    ) -> None:
        self.require_own_loop: Callable[[], None] = binding.require
        self._fetcher = fetcher
        self._shared = shared
        self._policy = policy
        self._clock = clock
        self._emitter = emitter
        self._watch = watch
        self._validity = Validity(policy, clock=clock, uniform=uniform)
        self._entries = EntryTable(capacity=capacity, max_bytes=max_bytes)
        self._failures = RecentFailures(capacity=capacity, clock=clock)
        self._rejections = Rejections(self, validity=self._validity, clock=clock, shared=shared)
        self._generations = itertools.count(1)
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False
        self._hits = self._misses = self._refreshes = self._stale_served = 0

    async def credential(self, username: str, secret_id: str, min_valid: float) -> Secret:
        """Return a credential that is valid for ``min_valid`` seconds; see :meth:`FlowMate.credential`."""
        key = (username, secret_id)
        entry = self._entries.get(key)
        if entry is not None:
            # The hot path: State.FRESH by the rule of Timeline.state, inlined. It does not need a loop, and
            # checking which one runs would cost a third of it.
            when, wall, monotonic = entry.timeline, self._clock.wall(), self._clock.monotonic()
            if (
                wall < when.refresh_at_wall
                and monotonic < when.refresh_at_monotonic
                and (
                    min_valid <= when.margin_seconds
                    or when.state(wall=wall, monotonic=monotonic, min_valid_seconds=min_valid) is State.FRESH
                )
            ):
                self._hits += 1
                self._entries.move_to_end(key)
                return entry.secret
        elif (canonical := canonical_key(username, secret_id)) != key:
            with _spelled(key):
                return await self.credential(*canonical, min_valid)
        elif (joined := self._fetcher.join(username, secret_id)) is not None:
            # Thousands of callers may wait for one flight, so this path is short.
            self.require_own_loop()
            self._misses += 1
            try:
                answer = await joined
            except FlowMateError as error:
                self._note_failure(key, error)
                raise
            return (await self.arrived(key, self._keep(key, answer), min_valid)).secret
        return (await self.entry(key, min_valid)).secret

    async def entry(self, key: Key, min_valid: float) -> Entry:
        """Return the entry to serve: immediately if it may be served, otherwise after one refresh."""
        self.require_own_loop()
        if (canonical := canonical_key(*key)) != key:
            with _spelled(key):
                return await self.entry(canonical, min_valid)
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
        """Return the successor of an entry that the app rejected; see :meth:`Rejections.replaced`."""
        self.require_own_loop()
        with _spelled(key):
            try:
                return await self._rejections.replaced(canonical_key(*key), rejected, min_valid)
            except CredentialRejectedError as error:
                if self._watch is not None:
                    self._watch.failed(canonical_key(*key), error, rejected.secret)
                raise

    def get(self, key: Key) -> Entry | None:
        """Return the cached entry, even an expired one."""
        return self._entries.get(key)

    async def settled(self, key: Key) -> None:
        """Wait until no unforced fetch is in flight."""
        await self._fetcher.settled(*key)

    def raise_recent_failure(self, key: Key) -> None:
        """Raise the error of a recent failure to fetch it, if any."""
        self._failures.raise_if_any(key)

    def forget(self, username: str, secret_id: str) -> None:
        """Drop everything cached for a secret."""
        key = canonical_key(username, secret_id)
        self._entries.drop(key)
        self._failures.forget(key)

    async def refresh_if_due(self, key: Key) -> None:
        """Fetch a credential if it is not cached or its early refresh is due."""
        key = canonical_key(*key)
        if key not in self._entries:
            await self._first(key, 0.0)
        elif (seconds := self.refresh_due_in(key)) is not None and seconds <= 0:
            await self.fetch(key, acceptable=self._validity.is_fresh)

    def holds(self, key: Key) -> bool:
        """Return whether the credential is cached."""
        return canonical_key(*key) in self._entries

    def refresh_due_in(self, key: Key) -> float | None:
        """Return the seconds until an early refresh is due; ``None`` for never.

        A credential that is not cached is due now.
        """
        entry = self._entries.get(canonical_key(*key))
        return 0.0 if entry is None else self._validity.refresh_due_in(entry)

    def statistics(self) -> CacheStatistics:
        """Return the cache's statistics."""
        return CacheStatistics(
            entries=len(self._entries),
            failures=len(self._failures),
            hits=self._hits,
            misses=self._misses,
            refreshes=self._refreshes,
            stale_served=self._stale_served,
        )

    async def aclose(self) -> None:
        """Cancel background refreshes, forget every credential and store no more."""
        self._closed = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._entries.clear()
        self._failures.clear()

    async def _first(self, key: Key, min_valid: float) -> Entry:
        """Fetch a credential that is not cached, unless that failed a moment ago."""
        self._failures.raise_if_any(key)
        fetched = await self.fetch(key, acceptable=self._validity.lasting(min_valid))
        return await self.arrived(key, fetched, min_valid)

    async def arrived(self, key: Key, entry: Entry, min_valid: float) -> Entry:
        """Return the result of a flight, or something newer.

        It is newer if an app rejected the result before this caller resumed, or if the flight was started for
        a shorter validity and so accepted another process's value.
        """
        while entry.is_revoked or not (entry.newest or self._validity.lasts(entry, min_valid)):
            entry = await self.fetch(key, acceptable=self._validity.lasting(min_valid))
        return self._long_enough(key, entry, min_valid)

    async def _renewed(self, key: Key, entry: Entry, min_valid: float) -> Entry:
        """Wait for a newer value than one that has expired or expires too soon."""
        if not entry.retry_at.passed(self._clock):
            if entry.failure is None:
                return self._long_enough(key, entry, min_valid)
            return self._despite(entry.failure.clone(), key, entry)
        try:
            renewed = await self.fetch(key, acceptable=self._validity.lasting(min_valid))
        except FlowMateError as error:
            failure = error
        else:
            return await self.arrived(key, renewed, min_valid)
        return self._despite(failure, key, entry)

    def _despite(self, failure: FlowMateError, key: Key, entry: Entry) -> Entry:
        """Return the old value if the failure says nothing about it and it is still valid; else raise."""
        if not isinstance(failure, _TRANSIENT) or self._validity.remaining(entry) <= 0:
            raise failure
        self._stale_served += 1
        self._emitter.emit(ServedStale(*key, failure.kind))
        return entry

    async def fetch(
        self, key: Key, *, acceptable: Acceptable, forced: bool = False, limited: bool = True
    ) -> Entry:
        """Fetch the secret and record the outcome."""
        entry = self._entries.get(key)
        try:
            answer = await self._fetcher.get(
                *key,
                may_refresh=entry is None or not never_refreshed(entry.secret.kind),
                auth_client_id=None if entry is None else auth_client_of(entry.secret),
                forced=forced,
                limited=limited,
                keep=self._keep,
                acceptable=None if self._shared is None else acceptable,
            )
        except FlowMateError as error:
            self._note_failure(key, error)
            raise
        # The flight has stored it already, unless another caller's flight was joined.
        return self._keep(key, answer)

    def _keep(self, key: Key, answer: SharedSecret) -> Entry:
        """Store the result of a flight. Called once by the flight and again by every waiter."""
        entry, secret = self._entries.get(key), answer.secret
        if entry is not None and entry.secret is secret:
            return entry
        when = self._validity.timeline(answer)
        changed = entry is not None  # unknown if nothing was cached
        if entry is not None and presented(entry.secret) == presented(secret):
            self._keep_unchanged(key, entry, answer, when)
            changed = False
        else:
            entry = Entry(answer, when, next(self._generations))
            self._insert(key, entry)
            self._refreshes += 1
            self._emitter.emit(Refreshed(*key))
        if self._watch is not None:
            self._watch.fetched(key, secret, changed=changed)
        if entry.newest and self._validity.remaining(entry) <= 0:
            entry.retry_at = self._validity.after_cool_down()
        self._failures.forget(key)
        return entry

    def _keep_unchanged(self, key: Key, entry: Entry, answer: SharedSecret, when: Timeline) -> None:
        """Store the same value again. If its expiry is unchanged, too, another request now is useless."""
        secret = answer.secret
        if answer.newest and secret.expires_at is not None and secret.expires_at == entry.secret.expires_at:
            entry.retry_at = self._validity.after_cool_down()
        self._entries.replace_secret(key, entry, secret)
        entry.newest = answer.newest
        entry.timeline = when
        entry.failure = None

    def _insert(self, key: Key, entry: Entry) -> None:
        if not self._closed:
            self._entries.insert(key, entry)

    def _note_failure(self, key: Key, error: FlowMateError) -> None:
        """Apply a failure to the cached entry. Idempotent: every waiter of the flight calls it."""
        entry = self._entries.get(key)
        if self._watch is not None:
            self._watch.failed(key, error, None if entry is None else entry.secret)
        if isinstance(error, _NEGATIVE) and not (entry is not None and isinstance(error, MaskedSecretError)):
            self._entries.drop(key)
            self._failures.add(key, error, seconds=self._policy.negative_ttl_seconds)
        elif entry is not None:
            if entry.retry_at.passed(self._clock):
                entry.retry_at = self._validity.after_cool_down()
                entry.failure = error.clone()
        elif isinstance(error, InvalidIdError) and error.status is not None:
            self._failures.add(key, error, seconds=self._policy.negative_ttl_seconds)
        elif isinstance(error, _COOLED_DOWN) or _hung(error):
            self._failures.add(key, error, seconds=self._validity.cool_down())

    def _refresh_in_background(self, key: Key, entry: Entry) -> None:
        """Start one early refresh unless one is in flight. Its failure only affects the entry."""
        if entry.refreshing or not entry.retry_at.passed(self._clock):
            return
        entry.refreshing = True
        task = asyncio.get_running_loop().create_task(self._refresh_early(key, entry))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _refresh_early(self, key: Key, entry: Entry) -> None:
        try:
            await self.fetch(key, acceptable=self._validity.is_fresh, limited=False)  # no caller waits for it
        except FlowMateError:
            pass  # recorded; the old value is still valid
        finally:
            entry.refreshing = False

    def _long_enough(self, key: Key, entry: Entry, min_valid: float) -> Entry:
        """Return the entry if it is valid for as long as the caller needs it.

        Raises:
            CredentialExpiredError: it is not, and upstream has nothing newer.
        """
        if self._validity.lasts(entry, min_valid):
            return entry
        if entry.retry_at.passed(self._clock):
            # Another request now would not bring a longer validity, and may cost a login.
            entry.retry_at, entry.failure = self._validity.after_cool_down(), None
        raise self._validity.too_short(key, entry, min_valid)


def _hung(error: FlowMateError) -> bool:
    """Return whether the GET of one secret timed out, as with a hanging provider."""
    return isinstance(error, UpstreamTimeoutError) and error.endpoint == GET


@contextmanager
def _spelled(key: Key) -> Iterator[None]:
    """Make errors name user and secret as the caller spelled them."""
    try:
        yield
    except FlowMateError as error:
        error.username, error.secret_id = key
        raise
