"""The executor of one process: it sweeps, and writes each batch in one transaction."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TypeVar

from flowmate_async.clock import Clock
from flowmate_async.health.policy import DEFAULT_POLICY, HealthPolicy
from flowmate_async.health.records import Watch
from flowmate_async.stores.base import Checkpoint, Run, Store, UserWrite
from flowmate_async.stores.kept_tokens import require_keeper
from flowmate_async.sync.outcomes import Outcome, UserFailed
from flowmate_async.sync.plan import DeltaPolicy, Plan
from flowmate_async.sync.read_ahead import Known, read_ahead
from flowmate_async.sync.reader import UserRead, UserReader
from flowmate_async.sync.results import StoredBatch, confirmed_count, result_of
from flowmate_async.sync.source import Usernames
from flowmate_async.sync.sweep import SweepLimits, sweep_in_batches
from flowmate_async.sync.usernames import safe_name

T = TypeVar("T")

_BATCHES_APART_SECONDS = 0.05
"""A transaction costs as much as writing ten users, so users that arrive quickly share one."""


class LocalExecutor:
    """Reads and stores users in this process, see :class:`~flowmate_async.sync.results.Executor`.

    Args:
        reader: reads the secrets that a plan selects of one user.
        store: where the credentials are written; entered and bound by the caller.
        limits: how much is done at once.
        clock: dates the checkpoints.
        delta: which stored credentials are fetched again; by default all.
        health: how much evidence it takes to call a credential broken; ``None`` records no health.

    Raises:
        ConfigurationError: ``delta`` requires a store that keeps tokens, and this one does not.
    """

    def __init__(
        self,
        reader: UserReader,
        store: Store,
        *,
        limits: SweepLimits,
        clock: Clock,
        delta: DeltaPolicy | None = None,
        health: HealthPolicy | None = DEFAULT_POLICY,
    ) -> None:
        self._reader = reader
        self._store = store
        self._limits = limits
        self._clock = clock
        self._delta = delta or DeltaPolicy(full=True)
        self._health = health
        if self._delta.keep_tokens:
            require_keeper(store)

    async def execute(
        self, run: Run, usernames: Usernames, *, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[StoredBatch, None]:
        """See :meth:`Executor.execute`."""
        async with AsyncExitStack() as entered:
            if self._delta.full and not self._delta.keep_tokens and not self._delta.types:
                batches = self._swept(self._read_all, usernames, stop)
            else:
                ahead = read_ahead(usernames, self._store, run=run, tokens=self._delta.keep_tokens)
                users = await entered.enter_async_context(ahead)
                batches = self._swept(self._read, users, stop)
            async for batch in await entered.enter_async_context(aclosing(batches)):
                at = self._clock.wall()
                written = await self._store.write(run, [_user_write(one, at, self._health) for one in batch])
                refused = written.refused
                results = tuple(
                    result_of(one, refused.get(safe_name(one.username)) if refused else None) for one in batch
                )
                yield StoredBatch(results=results, changed=written.changed, unchanged=written.unchanged)

    def _swept(
        self,
        read: Callable[[T], UserRead],
        users: Iterable[T] | AsyncIterable[T],
        stop: asyncio.Event | None,
    ) -> AsyncGenerator[list[Outcome], None]:
        return sweep_in_batches(
            read, users, limits=self._limits, stop=stop, apart_seconds=_BATCHES_APART_SECONDS
        )

    def _read_all(self, username: str) -> UserRead:
        return self._reader.read(username, Plan(self._delta))

    def _read(self, user: Known) -> UserRead:
        plan = Plan(self._delta, user.seen)
        if user.is_retried:
            plan.retry()
        keep = self._delta.keep_tokens and safe_name(user.username) == user.username
        return self._reader.read(user.username, plan, kept=user.token if keep else None, keep=keep)


async def synced_of(store: Store, run: Run, usernames: Sequence[str]) -> set[str]:
    """Return the users that this run has already synced, each as :func:`safe_name`."""
    statuses = await store.statuses(run, [safe_name(name) for name in usernames])
    return {name for name, status in statuses.items() if status == "synced"}


def _user_write(outcome: Outcome, at: float, health: HealthPolicy | None) -> UserWrite:
    error = outcome.error if isinstance(outcome, UserFailed) else None
    proven = not isinstance(outcome, UserFailed) and outcome.listing_proven
    checkpoint = Checkpoint(
        username=safe_name(outcome.username),
        status="synced" if error is None else "failed",
        secrets=confirmed_count(outcome),
        requests=outcome.requests,
        seconds=outcome.seconds,
        at=at,
        error="" if error is None else error.kind,
        message="" if error is None else str(error),
        listing_proven=proven,
        seen=outcome.seen,
        renewed=outcome.renewed,
    )
    return UserWrite(
        checkpoint=checkpoint,
        secrets=outcome.secrets,
        listed=(*[secret.id for secret in outcome.secrets], *outcome.left) if proven else None,
        token=outcome.token,
        renamed=outcome.renamed,
        watch=None if health is None else Watch(health, outcome.sightings),
    )
