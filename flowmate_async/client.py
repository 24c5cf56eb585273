"""FlowMate: the client. It wires the layers below in the order data flows, and has no logic of its own."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from flowmate_async.access.admin import AdminToken, TokenProvider
from flowmate_async.access.api import Api, ApiLimits, checked_limits
from flowmate_async.access.cache import Credentials
from flowmate_async.access.fetch import SecretFetcher
from flowmate_async.access.health_watch import HealthWatch
from flowmate_async.access.leases import Lease
from flowmate_async.access.listing import Lister
from flowmate_async.access.prefetch import Prefetch
from flowmate_async.access.user_tokens import UserTokens
from flowmate_async.clock import Clock, LoopClock, SystemClock
from flowmate_async.contract.freshness import FreshnessPolicy
from flowmate_async.contract.known_secrets import KnownSecrets
from flowmate_async.engine.breaker import BreakerPolicy
from flowmate_async.engine.bulkheads import BulkheadPolicy
from flowmate_async.engine.coordination import Coordination
from flowmate_async.engine.pacer import FlowPolicy
from flowmate_async.engine.retry import RetryPolicy
from flowmate_async.engine.wiring import Traffic, TrafficLimits, TrafficPolicies
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import Emitter, Listener
from flowmate_async.health.policy import DEFAULT_POLICY, HealthPolicy
from flowmate_async.stats import Stats, StatsListener
from flowmate_async.stores.base import Store, require_store
from flowmate_async.stores.health import require_health_keeper
from flowmate_async.stores.kept_tokens import require_keeper
from flowmate_async.sync.delivery import Delivery, Notifier, deliver
from flowmate_async.sync.dry_run import DryRun, SyncPlan
from flowmate_async.sync.engine import SyncEngine, SyncOptions
from flowmate_async.sync.health_sink import HealthSink
from flowmate_async.sync.live_health import LiveHealth, UserHealth
from flowmate_async.sync.local_executor import LocalExecutor
from flowmate_async.sync.outcomes import Outcome
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.reader import UserReader
from flowmate_async.sync.report import LeftOut, SyncReport, select
from flowmate_async.sync.results import Executor
from flowmate_async.sync.source import Usernames, require_many
from flowmate_async.sync.sweep import SweepLimits, sweep_in_batches
from flowmate_async.system.loop_binding import LoopBinding, require_asyncio
from flowmate_async.transport.base import Transport
from flowmate_async.transport.factory import chosen_transport, transport_by_name
from flowmate_async.values.models import SecretSummary, User, UserToken
from flowmate_async.values.secrets import Secret
from flowmate_async.values.settings import DEFAULT_BASE_URL, check_rate, checked_base_url, proxy_problem

_DRAIN_SECONDS = 5.0


class FlowMate:
    """An asyncio client of one FlowMate tenant. Use it as ``async with FlowMate(...) as fm``.

    A client is entered once, and belongs to the event loop and the process in which it is entered. Other
    loops, threads and forked processes need their own client; threads can share a
    :class:`~flowmate_async.FlowMateSync`. It cannot be copied or pickled.

    Besides the errors that each method lists, every method that sends requests may raise
    ``AuthenticationError`` (the admin token is rejected), ``RateLimitedError``, ``UpstreamUnavailableError``,
    ``UpstreamTimeoutError`` and ``ProtocolError``, after the retries that
    :class:`~flowmate_async.RetryPolicy` allows. All are :class:`~flowmate_async.FlowMateError`.

    Args:
        admin_token: the tenant's admin token; or the path of a private file that contains it, which is read
            again after a 401; or an async provider of it.
        base_url: the URL of FlowMate's API; https, or http to this machine.
        rate: maximum requests/s; ``None`` for no limit.
        burst: requests that upstream accepts at once. At most half of it is reserved as slack, since requests
            that are sent apart may arrive together.
        concurrency: maximum requests in flight.
        transport: ``"auto"``, which is wire, or aiohttp if a proxy is configured; ``"wire"``, which has no
            proxies; ``"aiohttp"``; or any :class:`~flowmate_async.Transport`.
        limits: deadlines in seconds and body sizes in bytes.
        retry: bounds of retrying.
        breaker: when the circuit breaker opens because upstream fails for many users.
        bulkhead: how many refreshes of one OAuth client may run at once, and when they are paused.
        flow: whether rate and concurrency adapt to upstream.
        freshness: how long credentials are served from the cache.
        cache_capacity: maximum number of credentials in the cache.
        cache_max_bytes: estimated maximum bytes of memory that they may take.
        page_size: secrets per page when listing.
        ca_file: certificate authorities (PEM) to trust instead of the system's.
        proxy: an explicit ``http://`` proxy.
        trust_env: take proxies from the environment.
        keep_refresh_fields: keep ``refreshToken`` and ``inputFields`` of secrets, dropped otherwise.
        on_event: called with every :class:`~flowmate_async.events.Event`; see :meth:`listening`.
        coordination: what the client shares with other processes: rate, pauses, refreshes; entered with it.
        health: how much evidence it takes to call a cached credential broken; ``None`` disables the watch.
        health_store: an entered store that records what is observed of cached credentials, so that the next
            sync into it judges the observations of all processes. It must stay open longer than the client.
        clock: the client's clock.

    Raises:
        ConfigurationError: an argument is invalid.
    """

    def __init__(
        self,
        *,
        admin_token: str | os.PathLike[str] | TokenProvider,
        base_url: str = DEFAULT_BASE_URL,
        rate: float | None = 200.0,
        burst: int = 20,
        concurrency: int = 64,
        transport: str | Transport = "auto",
        limits: ApiLimits | None = None,
        retry: RetryPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        bulkhead: BulkheadPolicy | None = None,
        flow: FlowPolicy | None = None,
        freshness: FreshnessPolicy | None = None,
        cache_capacity: int = 100_000,
        cache_max_bytes: int = 256 * 1024 * 1024,
        page_size: int = 100,
        ca_file: str | Path | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        keep_refresh_fields: bool = False,
        on_event: Listener | None = None,
        coordination: Coordination | None = None,
        health: HealthPolicy | None = DEFAULT_POLICY,
        health_store: Store | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._binding = LoopBinding()
        # This comes first: the token must not be a local of a frame that may raise.
        admin, admin_token = AdminToken(admin_token), ""
        admin.check()
        check_rate(rate, burst, concurrency)
        # Values that may contain a password are checked in parts and leave this frame before it raises.
        if isinstance(base_url, str) and "@" in base_url:
            base_url = "https://user:password@"
        self._base_url = checked_base_url(base_url)
        if proxy is not None and (problem := proxy_problem(proxy, base_url=self._base_url)):
            proxy = None
            raise ConfigurationError(
                problem, advice="Leave passwords out, or set trust_env for the system's proxy"
            )
        bulkhead = bulkhead or BulkheadPolicy()
        self._sweep_limits = SweepLimits(tasks=concurrency, refreshes=bulkhead.refreshes)
        self._clock = LoopClock(clock or SystemClock())
        self._stats = StatsListener()
        self._emitter = Emitter(
            *([on_event] if on_event else []), counters=self._stats, count_answer=self._stats.count_answer
        )
        if isinstance(transport, str):
            transport = chosen_transport(transport, self._base_url, proxy=proxy, trust_env=trust_env)
            self._transport_name = transport
            self._transport = transport_by_name(
                transport, self._base_url, ca_file=ca_file, proxy=proxy, trust_env=trust_env
            )
        else:
            self._transport_name, self._transport = type(transport).__name__, transport
        self._coordination = coordination
        if coordination is not None:
            coordination.join(self._base_url)
            coordination.on_event(self._emitter.emit)
        shared = None if coordination is None else coordination.credentials()
        known = KnownSecrets(clock=self._clock)
        self._traffic = Traffic(
            self._transport,
            limits=TrafficLimits(rate=rate, burst=burst, concurrency=concurrency),
            policies=TrafficPolicies(
                flow=flow or FlowPolicy(),
                retry=retry or RetryPolicy(),
                breaker=breaker or BreakerPolicy(),
                bulkhead=bulkhead,
            ),
            clock=self._clock,
            emitter=self._emitter,
            admin_headers=admin.latest,
            known=known,
            coordination=coordination,
        )
        limits = checked_limits(limits or ApiLimits())
        self._api = Api(
            self._traffic.engine,
            limits=limits,
            keep_refresh_fields=keep_refresh_fields,
            known=known,
        )
        self._admin = admin
        self._tokens = UserTokens(self._api, admin=admin, clock=self._clock, emitter=self._emitter)
        self._lister = Lister(
            self._api,
            tokens=self._tokens,
            emitter=self._emitter,
            page_size=page_size,
            limits=limits,
            clock=self._clock,
        )
        self._fetcher = SecretFetcher(
            self._api,
            tokens=self._tokens,
            emitter=self._emitter,
            known=known,
            lister=self._lister,
            turns=self._traffic.turns,
            clock=self._clock,
            max_wait_seconds=limits.max_wait_seconds,
            shared=shared,
        )
        self._traffic.engine.identify_with(self._fetcher.identify)
        self._sink = None
        if health is not None and health_store is not None:
            keeper = require_health_keeper(health_store)
            self._sink = HealthSink(keeper, policy=health, clock=self._clock)
        self._watch = None
        if health is not None:
            self._watch = HealthWatch(
                policy=health,
                known=known,
                clock=self._clock,
                emitter=self._emitter,
                capacity=cache_capacity,
                on_sighting=None if self._sink is None else self._sink.add,
            )
        self._credentials = Credentials(
            self._fetcher,
            shared=shared,
            watch=self._watch,
            policy=freshness or FreshnessPolicy(),
            capacity=cache_capacity,
            max_bytes=cache_max_bytes,
            clock=self._clock,
            emitter=self._emitter,
            binding=self._binding,
        )
        self._entered: AsyncExitStack | None = None
        self._reader = UserReader(
            lister=self._lister, fetcher=self._fetcher, tokens=self._tokens, clock=self._clock
        )

    async def __aenter__(self) -> Self:
        if self._entered is not None:
            raise ConfigurationError("the client was entered before", advice="Make a new one")
        require_asyncio()
        async with AsyncExitStack() as entered:
            if self._coordination is not None:
                await entered.enter_async_context(self._coordination)
            await entered.enter_async_context(self._transport)
            self._clock.bind()
            self._entered = entered.pop_all()
            self._binding.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._binding.may_close():
            return
        try:
            await self._credentials.aclose()
            self._fetcher.close()
            await self._traffic.engine.aclose(drain_seconds=_DRAIN_SECONDS)
            await self._fetcher.aclose()
            if self._sink is not None:
                await self._sink.aclose()
        finally:
            if self._watch is not None:
                self._watch.close()
            self._tokens.clear()
            await self._admin.aclose()
            self._admin.forget()
            self._binding.unbind()
            if self._entered is not None:
                await self._entered.__aexit__(kind, error, trace)

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: both would share connections and copy the admin token.

        Raises:
            TypeError: always.
        """
        raise TypeError("FlowMate cannot be copied or pickled; make a client in each process")

    @property
    def base_url(self) -> str:
        """The URL of FlowMate's API, validated."""
        return self._base_url

    async def users(self) -> AsyncIterator[User]:
        """Yield every account of the tenant, including administrators and service accounts.

        Raises:
            AuthenticationError: the admin token is rejected.
            PermissionDeniedError: the token is not an admin token.
        """
        self._binding.require()
        for user in await self._api.users(self._admin):
            yield user

    async def impersonate(self, username: str) -> UserToken:
        """Return a token for one user: the cached one, or a new one; single-flight.

        Args:
            username: the user; upstream may create a user it does not know (docs/contract/OBSERVED.md
                § Impersonation).

        Raises:
            InvalidIdError: the username may not be sent.
            UserNotFoundError: no such user, or a disabled one.
        """
        self._binding.require()
        return await self._tokens.token(username)

    async def list_secrets(self, username: str) -> list[SecretSummary]:
        """Return every secret of a user, without credentials (docs/contract/OBSERVED.md § Listing).

        Fetches all pages and checks them against upstream's total, within the bounds of ``ApiLimits``. If
        FlowMate hangs, it fails after the retries of one page: about two minutes by default.

        Args:
            username: the user.

        Raises:
            InvalidIdError: the username may not be sent.
            UserNotFoundError: no such user, or a disabled one.
            IncompleteListingError: the listing kept disagreeing with its own total.
        """
        self._binding.require()
        return list((await self._lister.list(username)).secrets)

    async def get_secret(self, username: str, secret_id: str) -> Secret:
        """Return one secret with its credential, from upstream; single-flight.

        Ends within ``ApiLimits.max_wait_seconds``, as :meth:`credential` does. It never uses the cache, nor
        sends two requests at once (docs/contract/OBSERVED.md § Concurrent GETs of one secret that needs a
        refresh).

        Args:
            username: the user.
            secret_id: the secret.

        Raises:
            InvalidIdError: the username or id may not be sent.
            SecretNotFoundError: no such secret.
            PermissionDeniedError: the user does not own it.
            MaskedSecretError: the raw-read permission is missing.
            RefreshFailedError: upstream could not refresh it with its provider.
        """
        self._binding.require()
        return (await self._fetcher.get(username, secret_id)).secret

    def credential(
        self, username: str, secret_id: str, *, min_valid: float = 60.0
    ) -> Coroutine[Any, Any, Secret]:
        """Return a valid credential: from the cache, or from one shared refresh. Refreshes happen early.

        Args:
            username: the user.
            secret_id: the secret.
            min_valid: seconds for which it must be valid. While upstream is failing, a value that is valid
                for a shorter time is served.

        Raises:
            InvalidIdError: the username or id may not be sent.
            CredentialExpiredError: upstream's newest value has expired, or expires sooner.
            UserNotFoundError: no such user, or a disabled one.
            SecretNotFoundError: no such secret.
            PermissionDeniedError: the user does not own it, or it comes masked.
            RefreshFailedError: upstream could not refresh it, and no valid value is cached.
            UpstreamTimeoutError: no answer within ``ApiLimits.max_wait_seconds``, or a provider hung a moment
                ago, and no valid value is cached.
            UpstreamUnavailableError: FlowMate is unavailable, and no valid value is cached.
        """
        return self._credentials.credential(username, secret_id, min_valid)

    def lease(self, username: str, secret_id: str, *, min_valid: float = 60.0) -> Lease:
        """Return a lease on a credential, for code that can tell when the app rejects it.

        Use it as ``async with fm.lease(user, secret_id, min_valid=300) as lease``. Entering raises the errors
        of :meth:`credential`. ``await lease.reject()`` reports a 401 of the app and gets a newer credential.

        Args:
            username: the user.
            secret_id: the secret.
            min_valid: seconds for which it must be valid when the lease begins.
        """
        return Lease(self._credentials, username, secret_id, min_valid=min_valid)

    def keep_fresh(self, pairs: Iterable[tuple[str, str]]) -> Prefetch:
        """Keep a working set of credentials fresh in the background, behind interactive requests.

        Use it as ``async with fm.keep_fresh(pairs)``. Refreshes are spread by jitter. Sessions without an
        expiry are skipped, since fetching one logs in. A failure is raised to the next caller.

        Args:
            pairs: ``(username, secret id)`` pairs.

        Raises:
            ConfigurationError: ``pairs`` contains something other than pairs.
        """
        return Prefetch(self._credentials, pairs, clock=self._clock)

    async def sweep(self, usernames: Usernames) -> AsyncGenerator[Outcome, None]:
        """Yield all credentials of many users as they come, with back-pressure, in bounded memory.

        A user's failure is an outcome, not an exception.

        Args:
            usernames: any iterable or async iterable.

        Raises:
            ConfigurationError: ``usernames`` is a single username.
        """
        self._binding.require()
        require_many(usernames)
        batches = sweep_in_batches(self._reader.read, usernames, limits=self._sweep_limits)
        async with aclosing(batches):
            async for batch in batches:
                for outcome in batch:
                    yield outcome

    async def health(
        self, users: Usernames | None = None, *, store: Store | None = None
    ) -> AsyncGenerator[UserHealth, None]:
        """Yield the health of credentials as listings show it now. No credential is fetched.

        A listing can show that a token is good, but never that one is broken. Records that syncs have written
        to a store take precedence.

        Args:
            users: any iterable or async iterable of usernames; ``None`` for all active users of the tenant.
            store: an entered store whose records are used; it is only read.

        Raises:
            ConfigurationError: ``users`` is a single username, or the store keeps no health.
            AuthenticationError: the admin token was rejected.
        """
        self._binding.require()
        keeper = None if store is None else require_health_keeper(store)
        usernames, _, _ = await self._selected(users)
        live = LiveHealth(self._reader, limits=self._sweep_limits, clock=self._clock, store=keeper)
        async with aclosing(live.of(usernames)) as found:
            async for user in found:
                yield user

    async def notify(self, store: Store, notifier: Notifier, *, digest: bool = False) -> Delivery:
        """Deliver the notices that syncs have put into a store's outbox, in order and at least once.

        Undelivered notices stay there for the next call.

        Args:
            store: an entered store.
            notifier: an entered :class:`~flowmate_async.integrations.webhook.Webhook`, or anything else with
                its ``send`` method.
            digest: send one message about all changes.

        Raises:
            ConfigurationError: the store keeps no health.
            StoreError: the store cannot be read or written.
        """
        self._binding.require()
        return await deliver(require_health_keeper(store), notifier, clock=self._clock, digest=digest)

    async def sync(
        self,
        store: Store,
        users: Usernames | None = None,
        *,
        options: SyncOptions | None = None,
        on_event: Listener | None = None,
        stop: asyncio.Event | None = None,
        executor: Executor | None = None,
    ) -> SyncReport:
        """Copy the credentials of many users into a store: a resumable batch job in one call.

        Args:
            store: an entered store.
            users: any iterable or async iterable of usernames; ``None`` for all active users of the tenant.
            options: whether and what to resume, how many users may fail, what happens to removed credentials.
            on_event: called with every event during the sync.
            stop: when set, no further user is started; the run stays incomplete and the next sync resumes it.
            executor: reads and stores the users; by default this client does.

        Raises:
            RunInProgressError: another run holds the store.
            StoreError: the store belongs to another upstream, or cannot be written.
            ConfigurationError: ``options.delta`` requires a store that keeps tokens, and this one does not;
                or ``users`` is a single username, or ``store`` a URL.
            AuthenticationError: the admin token was rejected; the run can be resumed.
            MaskedSecretError: all secrets were masked.
            UpstreamUnavailableError: upstream was unavailable for too many users in a row.
            TooManyFailuresError: more users failed than ``options.max_failures``.
        """
        self._binding.require()
        options = options or SyncOptions()
        require_store(store)
        if options.delta.keep_tokens:
            require_keeper(store)
        with self.listening(on_event):
            async with store.exclusive_run():
                await store.bind(self._base_url)
                usernames, left_out, accounts = await self._selected(users)
                selection = "all" if users is None else None
                engine = SyncEngine(
                    executor or self.executor(store, delta=options.delta, health=options.health),
                    store,
                    # Not all in flight: during an outage, some wait to probe while others give up.
                    max_consecutive_failures=max(10, self._sweep_limits.tasks * 3 // 4),
                    options=options,
                    clock=self._clock,
                    emitter=self._emitter,
                )
                return await engine.sync(
                    usernames, selection=selection, stop=stop, left_out=left_out, accounts=accounts
                )

    @contextmanager
    def listening(self, *listeners: Listener | None) -> Iterator[None]:
        """Call additional listeners with every event within a block: ``with fm.listening(print): ...``.

        Args:
            listeners: plain callables, called on the event loop where an event happens; they must be quick.
                An exception of a listener is logged. ``None`` is ignored.
        """
        present = [listener for listener in listeners if listener is not None]
        for listener in present:
            self._emitter.add(listener)
        try:
            yield
        finally:
            for listener in present:
                self._emitter.remove(listener)

    async def plan_sync(
        self, store: Store, users: Usernames | None = None, *, delta: DeltaPolicy | None = None
    ) -> SyncPlan:
        """Return what :meth:`sync` would fetch. Lists every user, fetches no credential and writes nothing.

        Args:
            store: an entered store.
            users: any iterable or async iterable of usernames; ``None`` for all active users of the tenant.
            delta: what would be fetched again.

        Raises:
            ConfigurationError: ``delta`` requires a store that keeps tokens, and this one does not; or
                ``users`` is a single username, or ``store`` a URL.
            AuthenticationError: the admin token was rejected.
            StoreError: the store cannot be read.
        """
        self._binding.require()
        require_store(store)
        dry_run = DryRun(self._reader, store, delta=delta or DeltaPolicy(), limits=self._sweep_limits)
        usernames, left_out, _ = await self._selected(users)
        return await dry_run.plan(usernames, left_out=left_out)

    def executor(
        self, store: Store, *, delta: DeltaPolicy | None = None, health: HealthPolicy | None = DEFAULT_POLICY
    ) -> Executor:
        """Return an executor that reads and stores users of a run coordinated elsewhere.

        Args:
            store: an entered store, bound to this client's base URL.
            delta: which stored credentials are fetched again; by default all.
            health: how much evidence it takes to call a credential broken; ``None`` records no health.

        Raises:
            ConfigurationError: ``delta`` requires a store that keeps tokens, and this one does not.
        """
        return LocalExecutor(
            self._reader, store, limits=self._sweep_limits, clock=self._clock, delta=delta, health=health
        )

    async def _selected(
        self, users: Usernames | None
    ) -> tuple[Usernames, tuple[LeftOut, ...], list[str] | None]:
        """Return the selected users, the accounts left out and, for the whole tenant, all its accounts."""
        if users is not None:
            require_many(users)
            return users, (), None
        chosen, left_out = select(await self._api.users(self._admin))
        return chosen, left_out, [*chosen, *(account.username for account in left_out)]

    def stats(self) -> Stats:
        """Return counters and latencies since the client was created."""
        return self._stats.snapshot(
            transport=self._transport_name,
            traffic=self._traffic.statistics(),
            cache=self._credentials.statistics(),
            flights={"impersonation": self._tokens.statistics(), "secret": self._fetcher.statistics()},
            coordination=None if self._coordination is None else self._coordination.statistics(),
        )
