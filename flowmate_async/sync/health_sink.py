"""Writes workers' observations of credential health into a store, so that one sync can judge them all.

Sightings are collected for a second and written together. No caller waits for the write. If the store fails,
the collected sightings are lost, but never a credential. It also counts the store's records for metrics.
"""

import asyncio
import logging

from flowmate_async.clock import Clock
from flowmate_async.errors import FlowMateError
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import Sighting
from flowmate_async.health.states import not_working
from flowmate_async.stores.health import CountsHealth, KeepsHealth

_GATHER_SECONDS = 1.0
_MAX_GATHERED = 10_000
_COUNT_SECONDS = 60.0

_log = logging.getLogger("flowmate_async")


class HealthSink:
    """Writes sightings into a store.

    Args:
        store: entered and bound by the caller, and open for longer than the sink.
        policy: how much evidence a verdict needs.
        clock: dates the writes.

    Attributes:
        counts: credentials of the store that do not plainly work, by state and type, counted every minute;
            ``None`` while that is unknown.
    """

    def __init__(self, store: KeepsHealth, *, policy: HealthPolicy, clock: Clock) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._gathered: list[Sighting] = []
        self._task: asyncio.Task[None] | None = None
        self._is_waiting = False
        self._counting: asyncio.Task[None] | None = None
        self.counts: dict[tuple[str, str], int] | None = None

    def start(self) -> None:
        """Count from now on, if the store counts cheaply."""
        if isinstance(self._store, CountsHealth):
            self._counting = asyncio.get_running_loop().create_task(self._keep_counting(self._store))

    def add(self, sighting: Sighting) -> None:
        """Take a sighting; it is written within about a second."""
        if len(self._gathered) < _MAX_GATHERED:
            self._gathered.append(sighting)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write_soon())

    async def aclose(self) -> None:
        """Write the remaining sightings."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)
        if self._task is not None and self._is_waiting:
            self._task.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self._write()

    async def _keep_counting(self, store: CountsHealth) -> None:
        while True:
            try:
                self.counts = not_working(await store.count_health())
            except FlowMateError as error:
                self.counts = None
                _log.warning("the health of stored credentials was not counted: %s", error)
            await self._clock.sleep(_COUNT_SECONDS)

    async def _write_soon(self) -> None:
        try:
            while self._gathered:
                self._is_waiting = True
                await self._clock.sleep(_GATHER_SECONDS)
                self._is_waiting = False
                await self._write()
        finally:
            self._task = None

    async def _write(self) -> None:
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        try:
            await self._store.note_health(gathered, policy=self._policy, at=self._clock.wall())
        except FlowMateError as error:
            _log.warning("the health of %d credentials was not stored: %s", len(gathered), error)
