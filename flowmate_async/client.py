"""FlowMate: the client. ``wiring.py`` makes its components; it has no logic of its own."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Self

from flowmate_async import wiring
from flowmate_async.access.leases import Lease
from flowmate_async.access.prefetch import Prefetch
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import Listener
from flowmate_async.health.policy import DEFAULT_POLICY, HealthPolicy
from flowmate_async.stats import Stats
from flowmate_async.stores.base import Store
from flowmate_async.stores.health import require_health_keeper
from flowmate_async.sync.delivery import Delivery, Notifier, deliver
from flowmate_async.sync.dry_run import SyncPlan
from flowmate_async.sync.engine import SyncOptions
from flowmate_async.sync.live_health import UserHealth
from flowmate_async.sync.outcomes import Outcome
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.report import SyncReport, with_throttling
from flowmate_async.sync.results import Executor
from flowmate_async.sync.source import Usernames
from flowmate_async.sync.verification import Verification, Verified, Verifier
from flowmate_async.system.loop_binding import LoopBinding, require_asyncio
from flowmate_async.values.models import SecretSummary, User, UserToken
from flowmate_async.values.secrets import Secret

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

    @wiring.with_parameters_of(wiring.Settings)
    def __init__(self, **options: Any) -> None:
        self._binding = LoopBinding()
        self._parts = wiring.Parts(wiring.consumed(wiring.Settings, options), binding=self._binding)
        self._is_entered = False

    @classmethod
    @wiring.with_parameters_of(wiring.FromEnvironment)
    def from_env(cls, **options: Any) -> Self:
        """Return a client configured as the ``flowmate`` command is: see docs/reference/options.md.

        Args:
            config: the configuration file; by default ``FLOWMATE_CONFIG``, or the user's ``config.toml``.
            options: the arguments of :class:`FlowMate`, which take precedence.

        Raises:
            ConfigurationError: a value or the file is invalid, or the admin token is missing.
        """
        return wiring.from_environment(cls, options)

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise ConfigurationError("the client was entered before", advice="Make a new one")
        require_asyncio()
        await self._parts.open()
        self._is_entered = True
        self._binding.bind()
        return self

    async def __aexit__(self, *failure: object) -> None:
        if self._binding.may_close():
            try:
                await self._parts.drain(seconds=_DRAIN_SECONDS)
            finally:
                self._binding.unbind()
                await self._parts.close()

    def __reduce__(self) -> NoReturn:
        """Raise ``TypeError``: a copy would share connections, and a pickle contain the admin token."""
        raise TypeError("FlowMate cannot be copied or pickled; make a client in each process")

    @property
    def base_url(self) -> str:
        """The URL of FlowMate's API, validated."""
        return self._parts.base_url

    async def users(self) -> AsyncIterator[User]:
        """Yield every account of the tenant, including administrators and service accounts.

        Raises:
            AuthenticationError: the admin token is rejected.
            PermissionDeniedError: the token is not an admin token.
        """
        self._binding.require()
        for user in await self._parts.api.users(self._parts.admin):
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
        return await self._parts.tokens.token(username)

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
        return list((await self._parts.lister.list(username)).secrets)

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
        return (await self._parts.fetcher.get(username, secret_id)).secret

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
            UserNotFoundError, SecretNotFoundError: no such user, or a disabled one; no such secret.
            PermissionDeniedError: the user does not own it, or it comes masked.
            RefreshFailedError: upstream could not refresh it, and no valid value is cached.
            UpstreamTimeoutError: no answer within ``ApiLimits.max_wait_seconds``, or a provider hung a moment
                ago, and no valid value is cached.
            UpstreamUnavailableError: FlowMate is unavailable, and no valid value is cached.
        """
        return self._parts.credentials.credential(username, secret_id, min_valid)

    def lease(self, username: str, secret_id: str, *, min_valid: float = 60.0) -> Lease:
        """Return a lease on a credential, for code that can tell when the app rejects it.

        Use it as ``async with fm.lease(user, secret_id, min_valid=300) as lease``. Entering raises the errors
        of :meth:`credential`. ``await lease.reject()`` reports a 401 of the app and gets a newer credential.

        Args:
            username: the user.
            secret_id: the secret.
            min_valid: seconds for which it must be valid when the lease begins.
        """
        return Lease(self._parts.credentials, username, secret_id, min_valid=min_valid)

    def keep_fresh(self, pairs: Iterable[tuple[str, str]]) -> Prefetch:
        """Keep a working set of credentials fresh in the background, behind interactive requests.

        Use it as ``async with fm.keep_fresh(pairs)``. Refreshes are spread by jitter. Sessions without an
        expiry are skipped, since fetching one logs in. A failure is raised to the next caller.

        Args:
            pairs: ``(username, secret id)`` pairs.

        Raises:
            ConfigurationError: ``pairs`` contains something other than pairs.
        """
        return Prefetch(self._parts.credentials, pairs, clock=self._parts.clock)

    def sweep(
        self, usernames: Usernames, *, types: Collection[str] | None = None
    ) -> AsyncGenerator[Outcome, None]:
        """Yield the credentials of many users as they come, with back-pressure, in bounded memory.

        A user's failure is an outcome, not an exception.

        Args:
            usernames: any iterable or async iterable.
            types: fetch only these types, as ``secret.type`` calls them; ``None`` for all.

        Raises:
            ConfigurationError: ``usernames`` is a single username, or a type does not exist.
        """
        self._binding.require()
        return self._parts.jobs.sweep(usernames, types=types)

    def health(
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
        return self._parts.jobs.health(users, store=store)

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
        return await deliver(require_health_keeper(store), notifier, clock=self._parts.clock, digest=digest)

    async def verify(
        self,
        store: Store,
        checks: Sequence[Verifier],
        users: Usernames | None = None,
        *,
        health: HealthPolicy = DEFAULT_POLICY,
    ) -> Verified:
        """Verify stored credentials against their apps; the next sync judges what was found.

        FlowMate is asked only for expired and rejected ones: a rejection counts if it returns the same value.

        Args:
            store: an entered store, as syncs have left it.
            checks: entered :class:`~flowmate_async.integrations.verification.AppCheck`; the first counts.
            users: usernames; ``None`` for everything in the store.
            health: how much evidence it takes to call a credential broken, as for the sync.

        Raises:
            ConfigurationError: the store keeps no health, or a check cannot work as it is configured.
        """
        self._binding.require()
        clock = self._parts.clock
        return await Verification(store, fetch=self.get_secret, policy=health, clock=clock).run(checks, users)

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
        before, options = self.stats().throttled, options or SyncOptions()
        with self.listening(on_event):
            report = await self._parts.jobs.sync(store, users, options=options, stop=stop, executor=executor)
        return with_throttling(report, self.stats().throttled - before)

    def listening(self, *listeners: Listener | None) -> AbstractContextManager[None]:
        """Call additional listeners with every event within a block: ``with fm.listening(print): ...``.

        Args:
            listeners: plain callables, called on the event loop where an event happens; they must be quick.
                An exception of a listener is logged. ``None`` is ignored.
        """
        return self._parts.emitter.listening(*listeners)

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
        return await self._parts.jobs.plan(store, users, delta=delta or DeltaPolicy())

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
        return self._parts.jobs.executor(store, delta=delta, health=health)

    def stats(self) -> Stats:
        """Return counters and latencies since the client was created."""
        return self._parts.statistics()
