"""Wires what an application's processes share over Redis; a client takes it as its coordination."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from flowmate_async.clock import Clock, SystemClock
from flowmate_async.contract.freshness import FreshnessPolicy
from flowmate_async.distributed.agreement import Agreement, SharedSettings
from flowmate_async.distributed.budget import OnOutage, RedisBudget, emission_of
from flowmate_async.distributed.circuit import BEAT_SECONDS, Circuit, RedisAwayError
from flowmate_async.distributed.connection import RedisUrl, Trouble, connect, refused
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.locks import RefreshLocks
from flowmate_async.distributed.pubsub import Announcements
from flowmate_async.distributed.redis_clock import RedisClock
from flowmate_async.distributed.shared_cache import SharedCache
from flowmate_async.distributed.shared_credentials import RedisCredentials
from flowmate_async.engine.coordination import CoordinationStatistics, RateBudget, SharedCredentials
from flowmate_async.engine.leased_bucket import lease_terms
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import CoordinationDiffers, CoordinationLost, CoordinationRestored, Listener
from flowmate_async.health.records import Sighting
from flowmate_async.redaction import Redacted
from flowmate_async.stores.keys import StoreKey
from flowmate_async.system.finishing import cancel_and_wait

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = [
    "RedisCoordination",
    "SharingPolicy",
]


_MEANWHILE = "the lowest rate and burst hold for all of them until they agree"
_APART = "with different keys nothing is shared, and each keeps to its share of the rate"

_log = logging.getLogger("flowmate_async")


class SharingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How processes share over Redis.

    Attributes:
        processes: maximum number of processes that share the rate; sets each one's share without Redis.
        on_outage: ``share``, without Redis each process uses its share of the rate and fetches for itself;
            ``error``, it raises instead of sending anything that would have to be shared.
        namespace: separates applications that share key, Redis and upstream.
        freshness: how long credentials without an expiry are used.
        allow_plaintext: accept ``redis://`` to another machine, on a trusted network.
    """

    processes: int = 1
    on_outage: OnOutage = "share"
    namespace: str = ""
    freshness: FreshnessPolicy = FreshnessPolicy()
    allow_plaintext: bool = False


class RedisCoordination:
    """A :class:`~flowmate_async.Coordination` over Redis, for one client, which enters it.

    ``FlowMate(..., coordination=RedisCoordination(url, key=key))``

    Entering it fails if Redis rejects the login or lacks a permission. A Redis that cannot be reached is an
    outage: see :attr:`SharingPolicy.on_outage`.

    Args:
        url: ``rediss://user:password@host:port/0`` (TLS), ``redis://`` to this machine, or ``unix://``.
        key: seals the data in Redis and hashes its names; the same for all processes.
        policy: see :class:`SharingPolicy`.
        clock: tells the time.

    Raises:
        ConfigurationError: the URL is invalid, TLS is missing, or the extra ``redis`` is not installed.
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
        self._redis_clock = RedisClock()
        self._circuit = Circuit(
            clock=self._clock,
            on_lost=lambda reason: self._tell(CoordinationLost(reason)),
            on_back=lambda seconds: self._tell(CoordinationRestored(seconds)),
        )
        self._tell: Listener = lambda _event: None
        self._base_url: str | None = None
        self._limited = False
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as entered:
            entered.push_async_callback(self._redis.aclose)
            await self._circuit.begin(self._agreement.beat, needed=self._policy.on_outage == "error")
            entered.push_async_callback(self._leave)
            loop = asyncio.get_running_loop()
            first: asyncio.Future[Trouble | None] = loop.create_future()
            for work in (
                self._announcements.send(),
                self._announcements.listen(first),
                self._circuit.watch(self._agreement.beat),
            ):
                entered.push_async_callback(cancel_and_wait, loop.create_task(work))
            trouble = await first
            if trouble is not None and trouble.kind != "away":
                raise refused(trouble)
            if self._limited and not self._agreement.is_shared:
                # The others must know before this process uses any of the rate.
                await asyncio.sleep(2 * BEAT_SECONDS)
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
        self._keyspace = Keyspace(self._key, namespace=self._policy.namespace, base_url=base_url)
        self._agreement = Agreement(
            self._redis,
            self._keyspace,
            SharedSettings(key=self._key.key_id, processes=self._policy.processes),
            redis_clock=self._redis_clock,
            on_change=self._disagree,
        )
        self._announcements = Announcements(
            self._redis,
            self._circuit,
            redis_clock=self._redis_clock,
            keyspace=self._keyspace,
            sender=os.urandom(8).hex(),
        )

    def budget(self, *, rate: float, burst: int) -> RateBudget | None:
        """See :meth:`Coordination.budget`."""
        self._limited = True
        terms = lease_terms(rate, burst)
        self._agreement.limit(rate=rate, burst=burst, capacity=terms.capacity, emission=emission_of(terms))
        return RedisBudget(
            self._redis,
            self._circuit,
            self._keyspace.of("rate"),
            terms,
            agreement=self._agreement,
            on_outage=self._policy.on_outage,
            clock=self._clock,
        )

    def credentials(self) -> SharedCredentials | None:
        """See :meth:`Coordination.credentials`."""
        cache = SharedCache(
            self._redis,
            self._circuit,
            redis_clock=self._redis_clock,
            keyspace=self._keyspace,
            freshness=self._policy.freshness,
            wall=self._clock.wall,
        )
        return RedisCredentials(
            RefreshLocks(self._redis, self._circuit, self._redis_clock),
            cache,
            keyspace=self._keyspace,
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

    def share_sighting(self, sighting: Sighting) -> None:
        """Tell the other processes what was observed of a credential, sealed; see ``SharesHealth``.

        Args:
            sighting: what was observed.
        """
        self._announcements.seen(sighting)

    def on_sighting(self, listener: Callable[[Sighting], object]) -> None:
        """Register a listener for what another process observed.

        Args:
            listener: called on the event loop.
        """
        self._announcements.on_sighting(listener)

    def on_event(self, listener: Listener) -> None:
        """See :meth:`Coordination.on_event`."""
        self._tell = listener

    def statistics(self) -> CoordinationStatistics:
        """See :meth:`Coordination.statistics`."""
        return CoordinationStatistics(
            connected=not self._circuit.away,
            working=not self._circuit.away or self._policy.on_outage == "share",
            problem=self._circuit.problem,
            outages=self._circuit.outages,
            differing=self._agreement.differing,
            processes=self._agreement.members,
        )

    def _disagree(self, differing: tuple[str, ...]) -> None:
        if differing:
            _log.warning(
                "processes that share over Redis were told different things: %s; %s",
                ", ".join(differing),
                _MEANWHILE if self._agreement.is_shared else _APART,
            )
        self._tell(CoordinationDiffers(differing))

    async def _leave(self) -> None:
        with suppress(RedisAwayError, ConfigurationError):
            await self._circuit.call(self._agreement.leave)


class _Named(Redacted, frozen=True):
    """A URL as passed in, kept out of the locals of frames that raise."""

    url: str | RedisUrl

    def checked(self, *, allow_plaintext: bool) -> RedisUrl:
        return self.url if isinstance(self.url, RedisUrl) else RedisUrl(self.url, allow_plaintext)
