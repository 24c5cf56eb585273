"""``--workers``: wires the parent's client and the worker processes to one rate."""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from flowmate_async.cli.options import Connection, StoreFlags
from flowmate_async.cli.worker_process import WorkerSettings, command
from flowmate_async.client import FlowMate
from flowmate_async.clock import SystemClock
from flowmate_async.engine.bulkheads import BulkheadPolicy
from flowmate_async.engine.leased_bucket import lease_terms
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import Listener
from flowmate_async.stats import Stats
from flowmate_async.stores import Store
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.results import Executor
from flowmate_async.values.settings import check_rate
from flowmate_async.workers.lenders import ParentCoordination, Pauses, RateLender, SharedLimits, SlotLender
from flowmate_async.workers.pool import PoolOptions, ProcessExecutor
from flowmate_async.workers.stats import WorkerTotals

if TYPE_CHECKING:
    from flowmate_async.integrations.observable import Observable


class LocalPool:
    """A parent and its workers; create it inside the event loop.

    Args:
        connection: how all of them reach FlowMate.
        store: where the credentials go.
        count: how many workers.
        delta: what is fetched again.

    Raises:
        ConfigurationError: the platform does not support this, or the rate is invalid.
    """

    def __init__(self, connection: Connection, store: StoreFlags, *, count: int, delta: DeltaPolicy) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "--workers needs POSIX", advice="Leave it out: one process works everywhere"
            )
        check_rate(connection.rate or None, connection.burst, connection.concurrency)
        self._connection = connection
        self._plan = PoolOptions(
            command=command(),
            settings=WorkerSettings(connection=connection, store=store, delta=delta).encoded(),
            count=count,
        )
        self._totals = WorkerTotals()
        pauses, rate = Pauses(), None
        if connection.rate:
            rate = RateLender(lease_terms(connection.rate, connection.burst), clock=SystemClock())
            pauses.join(rate.pause)
        self._shared = SharedLimits(
            rate=rate,
            refreshes=SlotLender(BulkheadPolicy().refreshes),
            pauses=pauses,
            concurrency=connection.concurrency,
        )

    def client(self) -> FlowMate:
        """The parent's own client, not yet entered."""
        return self._connection.client(coordination=ParentCoordination(self._shared))

    def executor(self, store: Store) -> Executor:
        """The workers, not yet started.

        Args:
            store: entered by the parent.
        """
        return ProcessExecutor(self._plan, store=store, shared=self._shared, totals=self._totals)

    def aggregate(self, fm: FlowMate) -> "Observable":
        """Parent and workers as one client, for monitoring.

        Args:
            fm: the parent's client, entered.
        """
        return _AggregateStats(fm, self._totals)


class _AggregateStats:
    """The parent's client, with its workers' counters added to its own."""

    def __init__(self, fm: FlowMate, totals: WorkerTotals) -> None:
        self._fm = fm
        self._totals = totals

    @property
    def base_url(self) -> str:
        return self._fm.base_url

    def listening(self, *listeners: Listener | None) -> AbstractContextManager[None]:
        return self._fm.listening(*listeners)

    def stats(self) -> Stats:
        return self._totals.added_to(self._fm.stats())
