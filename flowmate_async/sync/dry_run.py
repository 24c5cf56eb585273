"""A dry run of a sync: every user is listed, nothing is fetched and nothing is written."""

from collections import Counter
from contextlib import AsyncExitStack, aclosing

import msgspec

from flowmate_async.stores.base import Store
from flowmate_async.stores.kept_tokens import require_keeper
from flowmate_async.sync.outcomes import Outcome, UserFailed
from flowmate_async.sync.plan import DeltaPolicy, Plan, Verdict
from flowmate_async.sync.read_ahead import Known, read_ahead
from flowmate_async.sync.reader import UserRead, UserReader
from flowmate_async.sync.report import LeftOut
from flowmate_async.sync.source import Usernames
from flowmate_async.sync.sweep import SweepLimits, sweep_in_batches


class SyncPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a sync would fetch.

    Attributes:
        users: users that were listed.
        failed: users that could not be listed, by kind of error.
        fetch: credentials that would be fetched, by reason: ``new``, ``changed``, ``due``, ``errored``,
            ``old``.
        left: credentials that would not be fetched, by reason.
        requests: requests of this dry run.
        left_out: accounts that were not selected.
    """

    users: int
    failed: dict[str, int]
    fetch: dict[str, int]
    left: dict[str, int]
    requests: int
    left_out: tuple[LeftOut, ...] = ()


class DryRun:
    """Computes the plan of every user.

    Args:
        reader: lists the users.
        store: the state of earlier syncs; it is only read.
        delta: what would be fetched again.
        limits: how much is done at once.

    Raises:
        ConfigurationError: ``delta`` requires a store that keeps tokens, and this one does not.
    """

    def __init__(self, reader: UserReader, store: Store, *, delta: DeltaPolicy, limits: SweepLimits) -> None:
        self._reader = reader
        self._store = store
        self._delta = delta
        self._limits = limits
        if delta.keep_tokens:
            require_keeper(store)
        self._users = 0
        self._requests = 0
        self._failed: Counter[str] = Counter()
        self._fetch: dict[Verdict, int] = {}
        self._left: Counter[str] = Counter()

    async def plan(self, usernames: Usernames, *, left_out: tuple[LeftOut, ...] = ()) -> SyncPlan:
        """Return the plan for these users."""
        async with AsyncExitStack() as entered:
            ahead = read_ahead(usernames, self._store, tokens=self._delta.keep_tokens)
            users = await entered.enter_async_context(ahead)
            batches = sweep_in_batches(self._look, users, limits=self._limits)
            async for batch in await entered.enter_async_context(aclosing(batches)):
                for outcome in batch:
                    self._count(outcome)
        return SyncPlan(
            users=self._users,
            failed=dict(sorted(self._failed.items())),
            fetch={str(why): count for why, count in sorted(self._fetch.items())},
            left=dict(sorted(self._left.items())),
            requests=self._requests,
            left_out=left_out,
        )

    def _look(self, user: Known) -> UserRead:
        plan = Plan(self._delta, user.seen, reasons=self._fetch)
        return self._reader.read(user.username, plan, kept=user.token, look_only=True)

    def _count(self, outcome: Outcome) -> None:
        self._requests += outcome.requests
        self._left.update(outcome.left.values())
        if isinstance(outcome, UserFailed):
            self._failed[outcome.error.kind] += 1
        else:
            self._users += 1
