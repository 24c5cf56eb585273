"""The batch job: start or resume a run, have its users read and stored, end it, and report on it.

A run has an id, a selection and a completion mark. An incomplete run is resumed if it is recent enough and
has the same users and options. Then users that it has synced are not fetched again, and users that failed
are retried. The executor reads and stores the users (``local_executor.py``, or other processes).
``reader.py`` decides how a user fails, ``abort.py`` when a run ends early.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sized
from contextlib import aclosing

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.errors import FlowMateError
from flowmate_async.events import Emitter, RunBegan, RunEnded, UserNotStored, UserSkipped, UserStored
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.telling import event_of
from flowmate_async.stores.base import Run, Store
from flowmate_async.stores.kept_tokens import forget_tokens
from flowmate_async.sync.abort import AbortRules, everything_masked
from flowmate_async.sync.health import RunHealth, settle_run
from flowmate_async.sync.local_executor import synced_of
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.plausibility import implausible
from flowmate_async.sync.readability import others_are_readable
from flowmate_async.sync.removal import (
    DEFAULT_MAX_REMOVED_SHARE,
    RemovalPolicy,
    Removed,
    remove_missing,
)
from flowmate_async.sync.report import LeftOut, SyncReport
from flowmate_async.sync.results import Executor, StoredBatch, UserResult
from flowmate_async.sync.source import Usernames, iterate
from flowmate_async.sync.usernames import safe_name

_LOOK_UP = 256
DEFAULT_MAX_AGE_SECONDS = 12 * 3600.0


class SyncOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a sync.

    Attributes:
        max_age_seconds: an incomplete run older than this is not resumed; a new one is started.
        retry_failed: also resume the newest run if it is complete, to retry its failed users.
        max_failures: maximum number of failed users before the run is ended; ``None`` for no limit.
        removed: what happens to credentials that a proven complete listing lacks, once the run is complete:
            ``keep``, ``mark`` or ``delete``.
        max_removed_share: the largest share, from 0 to 1, that may be marked or deleted; if more are missing,
            none are.
        delta: which stored credentials are fetched again.
        health: how much evidence it takes to call a credential broken; ``None`` records no health.
    """

    max_age_seconds: float = DEFAULT_MAX_AGE_SECONDS
    retry_failed: bool = False
    max_failures: int | None = None
    removed: RemovalPolicy = "keep"
    max_removed_share: float = DEFAULT_MAX_REMOVED_SHARE
    delta: DeltaPolicy = DeltaPolicy()
    health: HealthPolicy | None = HealthPolicy()


class SyncEngine:
    """One sync of some users into one store.

    Args:
        executor: reads and stores the users.
        store: where the credentials go; entered by the caller.
        max_consecutive_failures: maximum number of users in a row for which upstream may be unavailable.
        options: see :class:`SyncOptions`.
        clock: the clock of the sync.
        emitter: told of the run's start and end and of every user.
    """

    def __init__(
        self,
        executor: Executor,
        store: Store,
        *,
        max_consecutive_failures: int,
        options: SyncOptions,
        clock: Clock,
        emitter: Emitter,
    ) -> None:
        self._executor = executor
        self._store = store
        self._max_consecutive_failures = max_consecutive_failures
        self._options = options
        self._clock = clock
        self._emitter = emitter
        self._skipped = 0
        self._counted = True
        self._changed = 0
        self._unchanged = 0
        self._requests = 0
        self._missed = 0
        self._left: Counter[str] = Counter()

    async def sync(
        self,
        usernames: Usernames,
        *,
        selection: str | None = None,
        stop: asyncio.Event | None = None,
        left_out: tuple[LeftOut, ...] = (),
        accounts: Collection[str] | None = None,
    ) -> SyncReport:
        """Sync these users. The caller holds the store's run lock and has bound its origin.

        Args:
            usernames: any iterable or async iterable.
            selection: an id for this set of users. Only a run with the same users and options is resumed.
            stop: when set, no further user is started.
            left_out: accounts left out, for the report.
            accounts: every username of the tenant, if the sync is about the whole tenant.

        Raises:
            FlowMateError: the run ended early; acknowledged users are kept and the run can be resumed.
        """
        began = self._clock.monotonic()
        await forget_tokens(self._store, keep=self._options.delta.keep_tokens, now=self._clock.wall())
        run, resumed = await self._run(f"{selection or _selection(usernames)} {_request(self._options)}")
        total = len(usernames) if isinstance(usernames, Sized) else None
        self._emitter.emit(RunBegan(run.id, resumed, total))
        remaining = self._remaining(run, usernames) if resumed else usernames
        error = await self._sweep(run, remaining, stop, resumed=resumed)
        complete = error is None and not (stop is not None and stop.is_set())
        if complete:
            error = implausible(await self._store.totals(run))
            complete = error is None
        health = await self._settle(run, stopped=stop is not None and stop.is_set())
        removed = Removed()
        if complete:
            removed = await self._remove_missing(run, accounts)
            await self._store.finish_run(run, at=self._clock.wall())
        self._emitter.emit(RunEnded(run.id, complete))
        if error is not None:
            raise error
        return await self._report(
            run,
            resumed=resumed,
            complete=complete,
            seconds=self._clock.monotonic() - began,
            left_out=left_out,
            removed=removed,
            health=health,
        )

    async def _run(self, selection: str) -> tuple[Run, bool]:
        """Return the run to resume, or a new one. Also return whether it is resumed."""
        now = self._clock.wall()
        last = await self._store.last_run(selection=selection)
        if last is None or now - last.started_at >= self._options.max_age_seconds:
            return await self._store.begin_run(at=now, selection=selection), False
        if last.finished_at is None:
            return last, True
        if not self._options.retry_failed:
            return await self._store.begin_run(at=now, selection=selection), False
        await self._store.finish_run(last, at=None)
        return last, True

    async def _remaining(self, run: Run, usernames: Usernames) -> AsyncIterator[str]:
        """Yield the usernames that this run has not synced, reading the store in chunks."""
        async for names in _chunks(usernames, _LOOK_UP):
            synced = await synced_of(self._store, run, names)
            for name in names:
                if safe_name(name) not in synced:
                    yield name
                else:
                    self._skipped += 1
                    self._emitter.emit(UserSkipped(name))

    async def _sweep(
        self, run: Run, usernames: Usernames, stop: asyncio.Event | None, *, resumed: bool
    ) -> FlowMateError | None:
        """Sweep and store. Return the error that ended the run early, if any."""
        synced_before = resumed and (await self._store.totals(run)).synced > 0
        rules = AbortRules(
            max_consecutive_failures=self._max_consecutive_failures,
            max_failures=self._options.max_failures,
            synced_before=synced_before,
        )
        batches = self._executor.execute(run, usernames, stop=stop)
        async with aclosing(batches):
            async for batch in batches:
                self._note(batch)
                for end in batch.results:
                    if (error := rules.note(end)) is not None:
                        return error
        if stop is not None and stop.is_set():
            return None  # not all users were tried
        if rules.found_only_masks and not await others_are_readable(self._store, run):
            return everything_masked()
        return rules.at_end()

    def _note(self, batch: StoredBatch) -> None:
        self._counted = self._counted and batch.counted
        self._changed += batch.changed
        self._unchanged += batch.unchanged
        self._requests += batch.requests
        for end in batch.results:
            self._requests += end.requests
            self._missed += end.missed
            if end.left:
                self._left.update(end.left)
            self._emitter.emit(_event(end))

    async def _settle(self, run: Run, *, stopped: bool) -> RunHealth:
        """Judge what was observed, unless the run was stopped: it is resumed, and then knows more."""
        policy = self._options.health
        if stopped or policy is None:
            return RunHealth()
        health = await settle_run(self._store, run, policy=policy, now=self._clock.wall())
        for notice in health.notices:
            if (event := event_of(notice)) is not None:
                self._emitter.emit(event)
        return health

    async def _remove_missing(self, run: Run, accounts: Collection[str] | None) -> Removed:
        return await remove_missing(
            self._store,
            run,
            policy=self._options.removed,
            max_share=self._options.max_removed_share,
            accounts=accounts,
            at=self._clock.wall(),
        )

    async def _report(
        self,
        run: Run,
        *,
        resumed: bool,
        complete: bool,
        seconds: float,
        left_out: tuple[LeftOut, ...],
        removed: Removed,
        health: RunHealth,
    ) -> SyncReport:
        totals = await self._store.totals(run)
        return SyncReport(
            run_id=run.id,
            resumed=resumed,
            complete=complete,
            started_at=run.started_at,
            seconds=seconds,
            synced=totals.synced,
            failed=totals.failed,
            skipped=self._skipped,
            secrets=totals.secrets,
            changed=self._changed if self._counted else None,
            unchanged=self._unchanged if self._counted else None,
            requests=self._requests,
            errors=totals.errors,
            left_out=left_out,
            missing=removed.missing,
            removed=removed.removed,
            removal_refused=removed.refused,
            left=dict(sorted(self._left.items())) if self._counted else None,
            missed=self._missed if self._counted else None,
            health=health.states,
            told=dict(sorted(Counter(notice.type for notice in health.notices).items())),
        )


def _event(end: UserResult) -> UserStored | UserNotStored:
    if end.error is not None:
        return UserNotStored(end.username, end.error.kind, str(end.error), end.requests)
    return UserStored(end.username, end.secrets, end.seconds, end.requests)


def _request(options: SyncOptions) -> str:
    """Return a run's options that belong to its identity: what it fetches and what it removes.

    Other options (limits on failures, age or removals, kept tokens) do not change what a resumed run has to
    do, and are left out.
    """
    delta = options.delta
    if delta.full:
        fetched: tuple[object, ...] = ("full", delta.skip_volatile)
    else:
        by_type = sorted(delta.staleness_by_type.items())
        fetched = ("delta", delta.skip_volatile, float(delta.staleness_seconds), by_type)
    if delta.types:
        fetched = (*fetched, sorted(delta.types))
    asked = msgspec.json.encode((fetched, options.removed))
    return hashlib.sha256(asked).hexdigest()[:16]


def _selection(usernames: Usernames) -> str:
    """Return a stable id for a set of users; all one-shot iterables share one id."""
    if not isinstance(usernames, Collection):
        return "iterable"
    digest = hashlib.sha256()
    for name in sorted({safe_name(name) for name in usernames}):
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


async def _chunks(usernames: Usernames, size: int) -> AsyncIterator[list[str]]:
    chunk: list[str] = []
    async for name in iterate(usernames):
        chunk.append(name)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
