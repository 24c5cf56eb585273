"""Single flight of credentials across processes: one asks upstream, the others take what it was answered."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from flowmate_async.clock import Clock
from flowmate_async.coordination import Acceptable, Ask, Recognizes, SharedSecret
from flowmate_async.distributed.announcements import Announcements, Rejected
from flowmate_async.distributed.budget import OnOutage
from flowmate_async.distributed.connection import redis_errors, unreachable
from flowmate_async.distributed.names import Names
from flowmate_async.distributed.shared_cache import Answers, SharedCache
from flowmate_async.distributed.turns import Turn
from flowmate_async.errors import (
    FlowMateError,
    RefreshFailedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.secrets import Secret
from flowmate_async.stores.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from redis.asyncio import Redis

_PERHAPS_UNDER_WAY = (RefreshFailedError, UpstreamTimeoutError, UpstreamUnavailableError)
"""Failures after which upstream may still hold its own lock of the secret."""

_NEVER_UNDER_WAY = (200, 429, 503)
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.05


class RedisCredentials:
    """A :class:`~flowmate_async.coordination.SharedCredentials` in Redis.

    Args:
        redis: the connection.
        cache: what others were answered.
        names: what things are called.
        announcements: to every process.
        on_outage: without Redis, ``share`` lets each process ask alone; ``error`` lets none ask.
        clock: the time it keeps.
    """

    def __init__(
        self,
        redis: "Redis",
        cache: SharedCache,
        *,
        names: Names,
        announcements: Announcements,
        on_outage: OnOutage,
        clock: Clock,
    ) -> None:
        self._redis = redis
        self._cache = cache
        self._clock = clock
        self._names = names
        self._announcements = announcements
        self._on_outage = on_outage
        self._errors = redis_errors()

    async def fetch(
        self,
        username: str,
        secret_id: str,
        ask: Ask,
        *,
        acceptable: Acceptable | None = None,
    ) -> SharedSecret:
        """See :meth:`SharedCredentials.fetch`."""
        flight = _Flight(self._cache, username, secret_id, ask)
        try:
            return await self._in_turn(flight, acceptable)
        except self._errors as error:
            return await self._without_redis(flight, error)

    async def _in_turn(self, flight: "_Flight", acceptable: Acceptable | None) -> SharedSecret:
        """What another process was answered, or will be while this one waits; else ask, alone."""
        before = await flight.answered()
        if (shared := _usable(before, acceptable)) is not None:
            return shared
        give_up_at = self._clock.monotonic() + _PATIENCE_SECONDS
        async with Turn(self._redis, self._names.of("turn", flight.username, flight.secret_id)) as turn:
            while self._clock.monotonic() < give_up_at:
                taken = await turn.take()
                now = await flight.answered()
                if (
                    shared := _usable(now, acceptable) or _joined(now, before, forced=flight.ask.forced)
                ) is not None:
                    return shared
                if taken:
                    return await flight.fly(turn)
                await self._clock.sleep(_LOOK_SECONDS)
        raise RefreshFailedError(
            "another process has been asking upstream for this secret for a long time",
            advice="Try again later",
            username=flight.username,
            secret_id=flight.secret_id,
        )

    async def reject(self, username: str, secret_id: str, rejected: Secret) -> bool:
        """See :meth:`SharedCredentials.reject`; when Redis is away, others find out for themselves."""
        try:
            known = await self._cache.take_back(username, secret_id, rejected)
        except self._errors:
            known = False
        if not known:
            # Taken back first: whoever hears of it asks at once, and must not find it there any more.
            self._announcements.rejected(username, secret_id, rejected)
        return known

    async def confirm(self, username: str, secret_id: str, rejected: Secret, *, seconds: float) -> None:
        """See :meth:`SharedCredentials.confirm`."""
        try:
            await self._cache.confirm(username, secret_id, rejected, seconds=seconds)
        except self._errors:
            return

    def on_rejected(self, listener: Callable[[str, str, Recognizes], object]) -> None:
        """See :meth:`SharedCredentials.on_rejected`."""

        def heard(rejected: Rejected) -> None:
            username, secret_id = rejected.username, rejected.secret_id

            def recognizes(secret: Secret) -> bool:
                return self._names.fingerprint(username, secret_id, secret) == rejected.fingerprint

            listener(username, secret_id, recognizes)

        self._announcements.on_rejected(heard)

    async def _without_redis(self, flight: "_Flight", error: Exception) -> SharedSecret:
        if flight.landed is not None:  # Redis went away afterwards
            return SharedSecret(flight.landed)
        if self._on_outage == "error":
            raise unreachable(error)
        return SharedSecret(await flight.ask())


class _Flight:
    """One asking of upstream, and telling the others; upstream is asked once, whatever Redis does."""

    def __init__(self, cache: SharedCache, username: str, secret_id: str, ask: Ask) -> None:
        self._cache = cache
        self.username = username
        self.secret_id = secret_id
        self.ask = ask
        self.landed: Secret | None = None

    async def answered(self) -> Answers:
        """What processes were answered last.

        Raises:
            RedisError: Redis is away.
        """
        return await self._cache.read(self.username, self.secret_id)

    async def fly(self, turn: Turn) -> SharedSecret:
        """Ask, and let those who wait have the answer.

        Raises:
            FlowMateError: what asking raised.
        """
        try:
            async with turn.renewed():
                self.landed = await self.ask()
        except FlowMateError as error:
            if isinstance(error, _PERHAPS_UNDER_WAY) and error.status not in _NEVER_UNDER_WAY:
                await turn.keep()
            with suppress(*redis_errors()):  # or it would seem that upstream has not been asked
                await self._cache.put_failure(self.username, self.secret_id, error)
            raise
        except asyncio.CancelledError:
            if self.ask.abandoned:
                await uninterrupted(turn.keep())
            raise
        await self._cache.put(self.username, self.secret_id, self.landed, forced=self.ask.forced)
        return SharedSecret(self.landed)


def _usable(answers: Answers, acceptable: Acceptable | None) -> SharedSecret | None:
    """A credential that another process was answered, if it will do."""
    if answers.secret is None or acceptable is None:
        return None
    return answers.secret if acceptable(answers.secret) else None


def _joined(answers: Answers, before: Answers, *, forced: bool) -> SharedSecret | None:
    """The answer of a flight that ended while this process waited; ``None`` when it has to ask for itself.

    Raises:
        FlowMateError: what that flight failed with.
    """
    if answers.error is not None and answers.failure != before.failure:
        raise answers.error
    if answers.secret is None or answers.credential == before.credential or (forced and not answers.forced):
        return None
    return SharedSecret(answers.secret.secret)
