"""The settings of a client, and the components that they are wired into. It contains no rules."""

import inspect
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from msgspec import UNSET, UnsetType

from flowmate_async.access.admin import AdminToken, TokenProvider
from flowmate_async.access.api import Api, ApiLimits, checked_limits
from flowmate_async.access.cache import Credentials
from flowmate_async.access.fetch import SecretFetcher
from flowmate_async.access.health_watch import HealthWatch, OnSighting
from flowmate_async.access.listing import Lister
from flowmate_async.access.oauth_clients import OAuthClients
from flowmate_async.access.user_tokens import UserTokens
from flowmate_async.clock import Clock, LoopClock, SystemClock
from flowmate_async.configuration.connection import connection_from_environment
from flowmate_async.contract.freshness import FreshnessPolicy
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.engine.breaker import BreakerPolicy
from flowmate_async.engine.bulkheads import BulkheadPolicy
from flowmate_async.engine.coordination import Coordination, SharesHealth
from flowmate_async.engine.pacer import FlowPolicy
from flowmate_async.engine.retry import RetryPolicy
from flowmate_async.engine.wiring import Traffic, TrafficLimits, TrafficPolicies
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import Emitter, Listener
from flowmate_async.health.policy import DEFAULT_POLICY, HealthPolicy
from flowmate_async.redaction import Redacted
from flowmate_async.stats import Stats, StatsListener
from flowmate_async.stores.base import Store
from flowmate_async.stores.health import require_health_keeper
from flowmate_async.sync.health_sink import HealthSink
from flowmate_async.sync.jobs import Jobs
from flowmate_async.sync.reader import UserReader
from flowmate_async.sync.sweep import SweepLimits
from flowmate_async.system.loop_binding import LoopBinding
from flowmate_async.transport.base import Transport
from flowmate_async.transport.factory import chosen_transport, transport_by_name
from flowmate_async.values.settings import DEFAULT_BASE_URL, check_rate, checked_base_url, proxy_problem

P = ParamSpec("P")
T = TypeVar("T")


class Settings(Redacted, frozen=True, kw_only=True, gc=True):
    """The arguments of :class:`~flowmate_async.FlowMate`, which describes them."""

    admin_token: str | os.PathLike[str] | TokenProvider
    base_url: str = DEFAULT_BASE_URL
    rate: float | None = 200.0
    burst: int = 20
    concurrency: int = 64
    transport: str | Transport = "auto"
    limits: ApiLimits | None = None
    retry: RetryPolicy | None = None
    breaker: BreakerPolicy | None = None
    bulkhead: BulkheadPolicy | None = None
    flow: FlowPolicy | None = None
    freshness: FreshnessPolicy | None = None
    cache_capacity: int = 100_000
    cache_max_bytes: int = 256 * 1024 * 1024
    page_size: int = 100
    ca_file: str | Path | None = None
    proxy: str | None = None
    trust_env: bool = False
    keep_refresh_fields: bool = False
    on_event: Listener | None = None
    coordination: Coordination | None = None
    health: HealthPolicy | None = DEFAULT_POLICY
    health_store: Store | None = None
    clock: Clock | None = None

    __shown__: ClassVar[tuple[str, ...]] = ("rate", "burst", "concurrency")


class FromEnvironment(Settings, frozen=True, kw_only=True, gc=True):
    """The arguments of :meth:`FlowMate.from_env`. Those that are left out are looked up."""

    admin_token: str | os.PathLike[str] | TokenProvider | UnsetType = UNSET  # type: ignore[assignment]
    config: str | os.PathLike[str] | None = None


def with_parameters_of(
    other: Callable[P, object],
) -> Callable[[Callable[..., T]], Callable[Concatenate[Any, P], T]]:
    """Give a method the parameters of a struct, for type checkers and ``help``."""

    def adopt(method: Callable[..., T]) -> Callable[Concatenate[Any, P], T]:
        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        arguments = inspect.signature(other).parameters.values()
        method.__signature__ = inspect.Signature([itself, *arguments])  # type: ignore[attr-defined]
        return method

    return adopt


def consumed(made: Callable[..., T], options: dict[str, Any]) -> T:
    """Call with these arguments and clear them: the admin token must not stay in a frame that may raise."""
    try:
        return made(**options)
    finally:
        options.clear()


def from_environment(client: Callable[..., T], options: dict[str, Any]) -> T:
    """Return a client; what is not among the arguments comes from the environment. Clear the arguments.

    Raises:
        ConfigurationError: a value or the file is invalid, or the admin token is missing.
    """
    config = options.pop("config", None)
    try:
        connection_from_environment(options, config=None if config is None else Path(config))
        return client(**options)
    finally:
        options.clear()


class Parts:
    """The components of one client, made in the order in which data flows.

    Args:
        settings: the client's arguments.
        binding: where the client may be used.

    Raises:
        ConfigurationError: a setting is invalid.
    """

    def __init__(self, settings: Settings, *, binding: LoopBinding) -> None:
        self._entered = AsyncExitStack()
        self.admin: AdminToken = AdminToken(settings.admin_token)
        self.admin.check()
        check_rate(settings.rate, settings.burst, settings.concurrency)
        self.base_url: str = checked_base_url(settings.base_url)
        _check_proxy(settings, self.base_url)
        limits = checked_limits(settings.limits or ApiLimits())
        bulkhead = settings.bulkhead or BulkheadPolicy()
        self.clock: LoopClock = LoopClock(settings.clock or SystemClock())
        self._counters = StatsListener()
        self.emitter: Emitter = Emitter(
            *([settings.on_event] if settings.on_event else []),
            counters=self._counters,
            count_answers=self._counters.count_answers,
        )
        self._transport_name, self.transport = _transport(settings, self.base_url)
        self.coordination: Coordination | None = settings.coordination
        if self.coordination is not None:
            self.coordination.join(self.base_url)
            self.coordination.on_event(self.emitter.emit)
        shared = None if self.coordination is None else self.coordination.credentials()
        known = KnownSecrets(clock=self.clock)
        self.traffic: Traffic = Traffic(
            self.transport,
            limits=TrafficLimits(rate=settings.rate, burst=settings.burst, concurrency=settings.concurrency),
            policies=TrafficPolicies(
                flow=settings.flow or FlowPolicy(),
                retry=settings.retry or RetryPolicy(),
                breaker=settings.breaker or BreakerPolicy(),
                bulkhead=bulkhead,
            ),
            clock=self.clock,
            emitter=self.emitter,
            admin_headers=self.admin.latest,
            known=known,
            coordination=self.coordination,
        )
        self.api: Api = Api(
            self.traffic.engine, limits=limits, keep_refresh_fields=settings.keep_refresh_fields, known=known
        )
        self.tokens: UserTokens = UserTokens(
            self.api, admin=self.admin, clock=self.clock, emitter=self.emitter
        )
        self.lister: Lister = Lister(
            self.api,
            tokens=self.tokens,
            emitter=self.emitter,
            page_size=settings.page_size,
            limits=limits,
            clock=self.clock,
        )
        self.fetcher: SecretFetcher = SecretFetcher(
            self.api,
            tokens=self.tokens,
            emitter=self.emitter,
            known=known,
            turns=self.traffic.turns,
            clock=self.clock,
            max_wait_seconds=limits.max_wait_seconds,
            shared=shared,
        )
        self._oauth_clients = OAuthClients(self.lister, known)
        self.traffic.engine.identify_with(self._oauth_clients.identify)
        self._observe_health(settings, known)
        self.credentials: Credentials = Credentials(
            self.fetcher,
            shared=shared,
            watch=self._watch,
            policy=settings.freshness or FreshnessPolicy(),
            capacity=settings.cache_capacity,
            max_bytes=settings.cache_max_bytes,
            clock=self.clock,
            emitter=self.emitter,
            binding=binding,
        )
        self.jobs: Jobs = Jobs(
            UserReader(lister=self.lister, fetcher=self.fetcher, tokens=self.tokens, clock=self.clock),
            accounts=lambda: self.api.users(self.admin),
            limits=SweepLimits(tasks=settings.concurrency, refreshes=bulkhead.refreshes),
            clock=self.clock,
            emitter=self.emitter,
            base_url=self.base_url,
        )

    def _observe_health(self, settings: Settings, known: KnownSecrets) -> None:
        """Make what observes the health of cached credentials, and what records it in a store."""
        self._sink: HealthSink | None = None
        self._watch: HealthWatch | None = None
        if (policy := settings.health) is None:
            return
        if settings.health_store is not None:
            keeper = require_health_keeper(settings.health_store)
            self._sink = HealthSink(keeper, policy=policy, clock=self.clock)
        self._watch = HealthWatch(
            policy=policy,
            known=known,
            clock=self.clock,
            emitter=self.emitter,
            capacity=settings.cache_capacity,
            on_sighting=self._told_of_sightings(),
        )
        if isinstance(self.coordination, SharesHealth):
            self.coordination.on_sighting(self._watch.heard)

    def _told_of_sightings(self) -> OnSighting | None:
        """Return what passes on observations: to the store, and to the other processes."""
        told: list[OnSighting] = [] if self._sink is None else [self._sink.add]
        if isinstance(self.coordination, SharesHealth):
            told.append(self.coordination.share_sighting)
        if not told:
            return None
        return lambda sighting: [tell(sighting) for tell in told]

    def statistics(self) -> Stats:
        """Return counters and latencies since the client was created."""
        return self._counters.snapshot(
            transport=self._transport_name,
            traffic=self.traffic.statistics(),
            cache=self.credentials.statistics(),
            flights={"impersonation": self.tokens.statistics(), "secret": self.fetcher.statistics()},
            coordination=None if self.coordination is None else self.coordination.statistics(),
            health=self._health_counts(),
        )

    def _health_counts(self) -> dict[tuple[str, str], int] | None:
        """Return what is known to all processes, not only to this one; ``None`` without that."""
        if self._sink is not None:
            return self._sink.counts
        if self._watch is not None and isinstance(self.coordination, SharesHealth):
            return self._watch.counts()
        return None

    async def open(self) -> None:
        """Open the transport and what is shared with other processes."""
        async with AsyncExitStack() as entered:
            if self.coordination is not None:
                await entered.enter_async_context(self.coordination)
            await entered.enter_async_context(self.transport)
            self.clock.bind()
            if self._sink is not None:
                self._sink.start()
            self._entered = entered.pop_all()

    async def drain(self, *, seconds: float) -> None:
        """Finish what is in flight within these seconds, then forget all tokens."""
        try:
            await self.credentials.aclose()
            self.fetcher.close()
            await self.traffic.engine.aclose(drain_seconds=seconds)
            await self.fetcher.aclose()
            await self._oauth_clients.aclose()
            if self._sink is not None:
                await self._sink.aclose()
        finally:
            if self._watch is not None:
                self._watch.close()
            self.tokens.clear()
            await self.admin.aclose()
            self.admin.forget()

    async def close(self) -> None:
        """Close what :meth:`open` opened."""
        await self._entered.aclose()


def _check_proxy(settings: Settings, base_url: str) -> None:
    problem = "" if settings.proxy is None else proxy_problem(settings.proxy, base_url=base_url)
    if problem:
        raise ConfigurationError(
            problem, advice="Leave passwords out, or set trust_env for the system's proxy"
        )


def _transport(settings: Settings, base_url: str) -> tuple[str, Transport]:
    """Return the transport and its name."""
    if not isinstance(settings.transport, str):
        return type(settings.transport).__name__, settings.transport
    proxy, trust_env = settings.proxy, settings.trust_env
    name = chosen_transport(settings.transport, base_url, proxy=proxy, trust_env=trust_env)
    return name, transport_by_name(name, base_url, ca_file=settings.ca_file, proxy=proxy, trust_env=trust_env)
