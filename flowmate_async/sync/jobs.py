"""The batch jobs of a client: which users they are about, and the parts that do them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing

from flowmate_async.clock import Clock
from flowmate_async.events import Emitter
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.stores.base import Store, require_store
from flowmate_async.stores.health import require_health_keeper
from flowmate_async.stores.kept_tokens import require_keeper
from flowmate_async.sync.dry_run import DryRun, SyncPlan
from flowmate_async.sync.engine import SyncEngine, SyncOptions
from flowmate_async.sync.live_health import LiveHealth, UserHealth
from flowmate_async.sync.local_executor import LocalExecutor
from flowmate_async.sync.outcomes import Outcome
from flowmate_async.sync.plan import DeltaPolicy, Plan, checked_types
from flowmate_async.sync.reader import UserRead, UserReader
from flowmate_async.sync.report import LeftOut, SyncReport, select
from flowmate_async.sync.results import Executor
from flowmate_async.sync.source import Usernames, require_many
from flowmate_async.sync.sweep import SweepLimits, sweep_in_batches
from flowmate_async.values.models import User


class Jobs:
    """Sweeps, syncs, dry runs and live health. See the methods of :class:`~flowmate_async.FlowMate`.

    Args:
        reader: reads users.
        accounts: returns every account of the tenant.
        limits: how much is done at once.
        clock: the client's clock.
        emitter: told of runs and users.
        base_url: the upstream to which stores are bound.
    """

    def __init__(
        self,
        reader: UserReader,
        *,
        accounts: Callable[[], Awaitable[list[User]]],
        limits: SweepLimits,
        clock: Clock,
        emitter: Emitter,
        base_url: str,
    ) -> None:
        self._reader = reader
        self._accounts = accounts
        self._limits = limits
        self._clock = clock
        self._emitter = emitter
        self._base_url = base_url

    async def sweep(
        self, usernames: Usernames, *, types: Collection[str] | None
    ) -> AsyncGenerator[Outcome, None]:
        """Yield the credentials of these users as they come."""
        require_many(usernames)
        policy = DeltaPolicy(full=True, types=checked_types(types))

        def read(username: str) -> UserRead:
            return self._reader.read(username, Plan(policy, notes=False))

        async with aclosing(sweep_in_batches(read, usernames, limits=self._limits)) as batches:
            async for batch in batches:
                for outcome in batch:
                    yield outcome

    async def health(
        self, users: Usernames | None, *, store: Store | None
    ) -> AsyncGenerator[UserHealth, None]:
        """Yield the health of these users' credentials as listings show it."""
        keeper = None if store is None else require_health_keeper(store)
        usernames, _, _ = await self._selected(users)
        live = LiveHealth(self._reader, limits=self._limits, clock=self._clock, store=keeper)
        async with aclosing(live.of(usernames)) as found:
            async for user in found:
                yield user

    async def sync(
        self,
        store: Store,
        users: Usernames | None,
        *,
        options: SyncOptions,
        stop: asyncio.Event | None,
        executor: Executor | None,
    ) -> SyncReport:
        """Copy the credentials of these users into a store."""
        require_store(store)
        if options.delta.keep_tokens:
            require_keeper(store)
        async with store.exclusive_run():
            await store.bind(self._base_url)
            usernames, left_out, accounts = await self._selected(users)
            engine = SyncEngine(
                executor or self.executor(store, delta=options.delta, health=options.health),
                store,
                # Not all in flight: during an outage, some wait to probe while others give up.
                max_consecutive_failures=max(10, self._limits.tasks * 3 // 4),
                options=options,
                clock=self._clock,
                emitter=self._emitter,
            )
            selection = "all" if users is None else None
            return await engine.sync(
                usernames, selection=selection, stop=stop, left_out=left_out, accounts=accounts
            )

    async def plan(self, store: Store, users: Usernames | None, *, delta: DeltaPolicy) -> SyncPlan:
        """Return what a sync would fetch."""
        require_store(store)
        if delta.types:
            checked_types(delta.types)
        dry_run = DryRun(self._reader, store, delta=delta, limits=self._limits)
        usernames, left_out, _ = await self._selected(users)
        return await dry_run.plan(usernames, left_out=left_out)

    def executor(self, store: Store, *, delta: DeltaPolicy | None, health: HealthPolicy | None) -> Executor:
        """Return an executor that reads and stores users."""
        if delta is not None and delta.types:
            checked_types(delta.types)
        return LocalExecutor(
            self._reader, store, limits=self._limits, clock=self._clock, delta=delta, health=health
        )

    async def _selected(
        self, users: Usernames | None
    ) -> tuple[Usernames, tuple[LeftOut, ...], list[str] | None]:
        """Return the selected users, the accounts left out and, for the whole tenant, all its accounts."""
        if users is not None:
            require_many(users)
            return users, (), None
        chosen, left_out = select(await self._accounts())
        return chosen, left_out, [*chosen, *(account.username for account in left_out)]
