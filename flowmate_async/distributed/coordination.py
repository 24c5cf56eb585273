"""What the processes of one application share over Redis, wired; handed to a client as its coordination."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from flowmate_async.clock import Clock, SystemClock
from flowmate_async.coordination import RateBudget, SharedCredentials
from flowmate_async.distributed.announcements import Announcements
from flowmate_async.distributed.budget import OnOutage, RedisBudget
from flowmate_async.distributed.connection import RedisUrl, connect, redis_errors, unreachable
from flowmate_async.distributed.names import Names
from flowmate_async.distributed.shared_cache import SharedCache
from flowmate_async.distributed.shared_credentials import RedisCredentials
from flowmate_async.errors import ConfigurationError
from flowmate_async.freshness import FreshnessPolicy
from flowmate_async.redaction import Redacted
from flowmate_async.stores.keys import StoreKey
from flowmate_async.traffic.leased_bucket import lease_terms

if TYPE_CHECKING:
    from redis.asyncio import Redis

_ENDING_SECONDS = 0.2


class SharingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How processes share over Redis.

    Attributes:
        processes: how many share the rate at most; what each of them has without Redis.
        on_outage: ``share``, without Redis each process keeps to its share of the rate and asks upstream for
            itself; ``error``, it sends nothing that would have to be shared, and raises.
        namespace: tells applications apart that share key, Redis and upstream.
        freshness: how long credentials without an expiry are used.
        allow_plaintext: accept ``redis://`` to another machine, on a network that is trusted.
    """

    processes: int = 1
    on_outage: OnOutage = "share"
    namespace: str = ""
    freshness: FreshnessPolicy = FreshnessPolicy()
    allow_plaintext: bool = False


class RedisCoordination:
    """A :class:`~flowmate_async.Coordination` over Redis, for one client, which enters it.

    ``FlowMate(..., coordination=RedisCoordination(url, key=key))``

    Args:
        url: ``rediss://user:password@host:port/0`` (TLS), ``redis://`` to this machine, or ``unix://``.
        key: seals what is kept in Redis, and hashes what it is called; the same for all processes.
        policy: see :class:`SharingPolicy`.
        clock: the time it keeps.

    Raises:
        ConfigurationError: the URL cannot work, TLS is missing, or the extra ``redis`` is not installed.
    """

    def __init__(
        self,
        url: str | RedisUrl,
        *,
        key: StoreKey,
        policy: SharingPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._policy = policy or SharingPolicy()
        named, url = _Named(url), ""
        self._url = named.checked(allow_plaintext=self._policy.allow_plaintext)
        self._key = key
        if self._policy.processes < 1:
            raise ConfigurationError("processes must be at least 1")
        self._clock = clock or SystemClock()
        self._redis: Redis = connect(self._url)
        self._base_url: str | None = None
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entered:
            entered.push_async_callback(self._redis.aclose)
            await self._require_redis()
            heard = asyncio.Event()
            loop = asyncio.get_running_loop()
            for work in (self._announcements.send(), self._announcements.listen(heard)):
                entered.push_async_callback(_end, loop.create_task(work))
            await heard.wait()
            self._entered = entered.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._entered.aclose()

    def join(self, base_url: str) -> None:
        """See :meth:`Coordination.join`."""
        if self._base_url is not None:
            raise ConfigurationError(
                "this coordination serves another client already", advice="Make one each"
            )
        self._base_url = base_url
        self._names = Names(self._key, namespace=self._policy.namespace, base_url=base_url)
        self._announcements = Announcements(self._redis, self._names, sender=os.urandom(8).hex())

    def budget(self, *, rate: float, burst: int) -> RateBudget | None:
        """See :meth:`Coordination.budget`."""
        return RedisBudget(
            self._redis,
            self._names.of("rate"),
            lease_terms(rate, burst),
            processes=self._policy.processes,
            on_outage=self._policy.on_outage,
            clock=self._clock,
        )

    def credentials(self) -> SharedCredentials | None:
        """See :meth:`Coordination.credentials`."""
        cache = SharedCache(
            self._redis,
            self._names,
            key=self._key,
            base_url=self._base_url or "",
            freshness=self._policy.freshness,
            wall=self._clock.wall,
        )
        return RedisCredentials(
            self._redis,
            cache,
            names=self._names,
            announcements=self._announcements,
            on_outage=self._policy.on_outage,
            clock=self._clock,
        )

    def pause(self, seconds: float) -> None:
        """See :meth:`Coordination.pause`."""
        self._announcements.paused(seconds)

    def on_pause(self, listener: Callable[[float], object]) -> None:
        """See :meth:`Coordination.on_pause`."""
        self._announcements.on_pause(listener)

    async def _require_redis(self) -> None:
        """Find out at once that Redis cannot be used, where nothing can be done without it."""
        try:
            await self._redis.ping()
        except redis_errors() as error:
            if self._policy.on_outage == "error":
                raise unreachable(error) from None


class _Named(Redacted, frozen=True):
    """A URL as it was passed in, kept out of the locals of frames that raise."""

    url: str | RedisUrl

    def checked(self, *, allow_plaintext: bool) -> RedisUrl:
        return self.url if isinstance(self.url, RedisUrl) else RedisUrl(self.url, allow_plaintext)


async def _end(task: asyncio.Task[None]) -> None:
    # Again and again: a driver may take a cancellation for its own timeout's.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_ENDING_SECONDS)
