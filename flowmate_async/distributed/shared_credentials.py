"""Single flight across processes: one fetches a credential from upstream, the others use its answer."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import structs

from flowmate_async.clock import Clock
from flowmate_async.containers import LruDict
from flowmate_async.contract.known_secrets import SecretFacts
from flowmate_async.distributed.budget import OnOutage
from flowmate_async.distributed.circuit import RedisAwayError
from flowmate_async.distributed.connection import unreachable
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.locks import RefreshLock, RefreshLocks
from flowmate_async.distributed.pubsub import Announcements, Rejected
from flowmate_async.distributed.shared_cache import CachedAnswer, CachedAnswers, SharedCache
from flowmate_async.engine.coordination import Acceptable, Ask, Recognizes, SharedSecret
from flowmate_async.errors import (
    FlowMateError,
    RefreshFailedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.system.finishing import finish_despite_cancellation
from flowmate_async.values.secrets import Secret

_PERHAPS_UNDER_WAY = (RefreshFailedError, UpstreamTimeoutError, UpstreamUnavailableError)
"""Failures after which upstream may still hold its own lock of the secret."""

_NEVER_UNDER_WAY = (200, 429, 503)
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.05
_MAX_KNOWN = 100_000


class RedisCredentials:
    """A :class:`~flowmate_async.engine.coordination.SharedCredentials` in Redis.

    Args:
        locks: decide which process may fetch.
        cache: the other processes' answers.
        keyspace: names the keys.
        announcements: to every process.
        on_outage: without Redis, ``share`` lets each process fetch for itself; ``error`` lets none fetch.
        clock: tells the time.
    """

    def __init__(
        self,
        locks: RefreshLocks,
        cache: SharedCache,
        *,
        keyspace: Keyspace,
        announcements: Announcements,
        on_outage: OnOutage,
        clock: Clock,
    ) -> None:
        self._locks = locks
        self._cache = cache
        self._memory = _Memory()
        self._clock = clock
        self._keyspace = keyspace
        self._announcements = announcements
        self._on_outage = on_outage

    async def fetch(
        self,
        username: str,
        secret_id: str,
        ask: Ask,
        *,
        acceptable: Acceptable | None = None,
    ) -> SharedSecret:
        """See :meth:`SharedCredentials.fetch`."""
        flight = _Flight(self._cache, self._memory, username, secret_id, ask)
        try:
            return await self._in_turn(flight, acceptable)
        except RedisAwayError as error:
            away = error
        return await self._without_redis(flight, away)

    async def _in_turn(self, flight: "_Flight", acceptable: Acceptable | None) -> SharedSecret:
        """Return another process's answer, waiting for one in flight; otherwise fetch as the only one."""
        before = await self._answers(flight)
        if (shared := _usable(before, acceptable)) is not None:
            return shared
        async with flight.ask.turn():  # this process's own queue first, where interactive requests go first
            return await self._elected(flight, before, acceptable)

    async def _elected(
        self, flight: "_Flight", before: CachedAnswers, acceptable: Acceptable | None
    ) -> SharedSecret:
        """Wait until another process has an answer, or until this one may fetch.

        A plain read takes turns with the requests of its own user, whose answers it can use; a GET that may
        refresh with those of all owners of the secret as well. What others learn can change which of the two
        applies.
        """
        patience = _Patience(self._clock, before.facts)
        while True:
            refreshing = flight.ask.may_refresh
            async with self._lock(flight, refreshing=refreshing) as lock:
                while flight.ask.may_refresh is refreshing:
                    taken = await lock.acquire()
                    now = await self._answers(flight)
                    shared = _usable(now, acceptable) or _joined(now, before, forced=flight.ask.forced)
                    if shared is not None:
                        return shared
                    if flight.ask.may_refresh is not refreshing:
                        break
                    if taken:
                        return await flight.fly(lock, in_turn=refreshing)
                    if patience.is_over(now.facts):
                        raise _waited_in_vain(flight)
                    await self._clock.sleep(_LOOK_SECONDS)

    def _lock(self, flight: "_Flight", *, refreshing: bool) -> RefreshLock:
        secret_id = flight.secret_id.lower()
        names = [self._keyspace.of("turn", flight.username, secret_id)]
        if refreshing:  # upstream's lock belongs to the secret
            names.append(self._keyspace.of("turn", secret_id))
        return self._locks.lock(*names)

    async def _answers(self, flight: "_Flight") -> CachedAnswers:
        """Return the latest answers, without a credential that is known to be outdated or rejected.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        username, secret_id = flight.username, flight.secret_id
        answers = await self._cache.read(username, secret_id)
        if answers.facts is not None:
            flight.ask.learn(answers.facts)
        if answers.credential is None:
            return answers
        if self._memory.forbids(username, secret_id, answers.credential):
            return structs.replace(answers, credential=None)
        self._memory.landed(username, secret_id, answers.credential.landed)
        return answers

    async def reject(self, username: str, secret_id: str, rejected: Secret) -> bool:
        """See :meth:`SharedCredentials.reject`; without Redis, others find out by themselves."""
        news = self._announcements.rejection(username, secret_id, rejected)
        self._memory.rejected(news)
        try:
            known = await self._cache.take_back(username, secret_id, rejected)
        except RedisAwayError:
            known = False
        if not known:
            # Dropped first: other processes fetch as soon as they hear, and must not find it any more.
            self._announcements.rejected(news)
        return known

    async def confirm(self, username: str, secret_id: str, rejected: Secret, *, seconds: float) -> None:
        """See :meth:`SharedCredentials.confirm`."""
        try:
            await self._cache.confirm(username, secret_id, rejected, seconds=seconds)
        except RedisAwayError:
            return

    def on_rejected(self, listener: Callable[[str, str, Recognizes], object]) -> None:
        """See :meth:`SharedCredentials.on_rejected`."""

        def heard(rejected: Rejected) -> None:
            username, secret_id = rejected.username, rejected.secret_id
            self._memory.rejected(rejected)

            def recognizes(secret: Secret) -> bool:
                return self._keyspace.fingerprint(username, secret_id, secret) == rejected.fingerprint

            listener(username, secret_id, recognizes)

        self._announcements.on_rejected(heard)

    async def _without_redis(self, flight: "_Flight", away: RedisAwayError) -> SharedSecret:
        if flight.landed is not None:  # Redis became unavailable afterwards
            return SharedSecret(flight.landed)
        if self._on_outage == "error":
            raise unreachable(away.trouble)
        return SharedSecret(await flight.ask())


class _Known(msgspec.Struct):
    landed: int = 0
    rejected: Rejected | None = None


class _Memory:
    """What this process knows about each secret, to recognise old records that were put back."""

    def __init__(self) -> None:
        self._known: LruDict[tuple[str, str], _Known] = LruDict(_MAX_KNOWN)

    def rejected(self, news: Rejected) -> None:
        """Remember which credential was rejected last."""
        self._of(news.username, news.secret_id).rejected = news

    def landed(self, username: str, secret_id: str, moment: int) -> None:
        """Remember that an answer with this time was seen."""
        known = self._of(username, secret_id)
        known.landed = max(known.landed, moment)

    def forbids(self, username: str, secret_id: str, answer: CachedAnswer[SharedSecret]) -> bool:
        """Return whether a newer answer was already seen, or this one was rejected after it landed."""
        known = self._of(username, secret_id)
        news = known.rejected
        rejected = news is not None and answer.fingerprint == news.fingerprint and answer.landed < news.at
        return rejected or answer.landed < known.landed

    def _of(self, username: str, secret_id: str) -> _Known:
        known = self._known.get((username, secret_id)) or _Known()
        self._known.put((username, secret_id), known)
        return known


class _Flight:
    """One fetch from upstream, shared with the others; it is sent once, whatever Redis does."""

    def __init__(self, cache: SharedCache, memory: _Memory, username: str, secret_id: str, ask: Ask) -> None:
        self._cache = cache
        self._memory = memory
        self.username = username
        self.secret_id = secret_id
        self.ask = ask
        self.landed: Secret | None = None
        self._id = os.urandom(8).hex()

    async def fly(self, lock: RefreshLock, *, in_turn: bool) -> SharedSecret:
        """Fetch, and share the answer with waiting processes.

        Args:
            lock: held by this process.
            in_turn: whether it holds the secret's turn, not only the user's.

        Raises:
            FlowMateError: what fetching raised.
        """
        try:
            async with lock.renewed():
                self.landed = await self.ask(in_turn=in_turn)
        except FlowMateError as error:
            if isinstance(error, _PERHAPS_UNDER_WAY) and error.status not in _NEVER_UNDER_WAY:
                await lock.keep()
            with suppress(RedisAwayError):  # or it would seem that upstream has not been asked
                await self._cache.put_failure(self.username, self.secret_id, error, flight=self._id)
            raise
        except asyncio.CancelledError:
            if self.ask.abandoned:
                await finish_despite_cancellation(lock.keep())
            raise
        if (facts := self.ask.facts) is not None and in_turn:
            await self._cache.put_facts(self.secret_id, facts)
        moment = await self._cache.put(
            self.username, self.secret_id, self.landed, forced=self.ask.forced, flight=self._id
        )
        self._memory.landed(self.username, self.secret_id, moment)
        return SharedSecret(self.landed)


class _Patience:
    """How long a process waits for others; extended whenever another owner gets an answer."""

    def __init__(self, clock: Clock, facts: SecretFacts | None) -> None:
        self._clock = clock
        self._facts = facts
        self._until = clock.monotonic() + _PATIENCE_SECONDS

    def is_over(self, facts: SecretFacts | None) -> bool:
        """Return whether it is over, given what is known of the secret now."""
        if facts != self._facts:
            self._facts, self._until = facts, self._clock.monotonic() + _PATIENCE_SECONDS
        return self._clock.monotonic() >= self._until


def _waited_in_vain(flight: _Flight) -> RefreshFailedError:
    return RefreshFailedError(
        "another process has been asking upstream for this secret for a long time",
        advice="Try again later",
        username=flight.username,
        secret_id=flight.secret_id,
    )


def _usable(answers: CachedAnswers, acceptable: Acceptable | None) -> SharedSecret | None:
    """Return a credential that another process got, if it is good enough."""
    if answers.credential is None or acceptable is None or not acceptable(answers.credential.what):
        return None
    return answers.credential.what


def _joined(answers: CachedAnswers, before: CachedAnswers, *, forced: bool) -> SharedSecret | None:
    """Return the answer of a flight that ended during the wait; ``None`` if this process must fetch itself.

    Raises:
        FlowMateError: what that flight failed with.
    """
    failure, credential = answers.failure, answers.credential
    if failure is not None and _ended_since(before, failure, before.failure):
        raise failure.what
    if credential is None or (forced and not credential.forced):
        return None
    if not _ended_since(before, credential, before.credential):
        return None
    return SharedSecret(credential.what.secret)


def _ended_since(before: CachedAnswers, answer: CachedAnswer[Any], known: CachedAnswer[Any] | None) -> bool:
    """Return whether an answer is newer than the request; a record that was put back is older."""
    return answer.landed >= before.now and (known is None or answer.flight != known.flight)
