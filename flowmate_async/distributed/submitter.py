"""The submitting side of a job: split it into shards, hand them to the broker, and follow it in the store.

The submitter may stop at any time. The job goes on, and the next sync of the same users follows it again. If
nothing happens for a long time, for example because a broker lost its messages, the remaining users are
submitted once more.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from flowmate_async.clock import Clock
from flowmate_async.containers import chunked
from flowmate_async.distributed.job_state import JobState
from flowmate_async.distributed.shards import Shard
from flowmate_async.errors import FlowMateError, TooManyFailuresError, UpstreamUnavailableError
from flowmate_async.stores.base import Checkpoint, Run, Store
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.results import StoredBatch, UserResult
from flowmate_async.sync.source import Usernames, iterate
from flowmate_async.sync.usernames import safe_name

_LOOK_SECONDS = 0.25
_WINDOW = 64
"""Number of shards checked each time: brokers deliver them roughly in order."""

_LOOK_SHARE = 0.1
"""Maximum share of time for reading all checkpoints, which finding failed users needs."""


class FollowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a job is split into shards and followed.

    Attributes:
        shard_users: users per shard.
        stall_seconds: if no user ends for this long, the remaining users are submitted once more.
    """

    shard_users: int = 50
    stall_seconds: float = 360.0


class ReportedError(FlowMateError):
    """An error that a worker met, read from its checkpoint."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self._kind = kind

    @property
    def kind(self) -> str:
        """The kind of the error that the worker met."""
        return self._kind

    def __str__(self) -> str:
        return self.message


class CeleryExecutor:
    """Reads and stores users in a cluster, see :class:`~flowmate_async.sync.results.Executor`.

    Args:
        publish: hands a shard to the broker; raises a ``FlowMateError`` when that cannot be reached.
        job_state: the state of jobs in Redis.
        store: where workers write.
        policy: see :class:`FollowPolicy`.
        clock: measures the stall.
        delta: what is fetched again of what was stored before; by default everything.
    """

    def __init__(
        self,
        publish: Callable[[Shard], Awaitable[None]],
        job_state: JobState,
        store: Store,
        *,
        policy: FollowPolicy,
        clock: Clock,
        delta: DeltaPolicy | None = None,
    ) -> None:
        self._publish = publish
        self._job_state = job_state
        self._store = store
        self._policy = policy
        self._clock = clock
        self._delta = delta or DeltaPolicy(full=True)

    async def execute(
        self, run: Run, usernames: Usernames, *, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[StoredBatch, None]:
        """See :meth:`Executor.execute`; ``stop`` ends the following, not the job.

        Raises:
            FlowMateError: a worker aborted the job with this error.
        """
        job = _Job(self._store, run, clock=self._clock)
        await job.add([name async for name in iterate(usernames)], self._policy.shard_users)
        if not await self._job_state.is_submitted(run.id):
            await self._job_state.forget(run.id)
            await self._submit(job)
        stop = stop or asyncio.Event()
        moved_at = self._clock.monotonic()
        while job.outstanding and not stop.is_set():
            if (error := await self._job_state.abort_reason(run.id)) is not None:
                await self._job_state.forget(run.id)
                raise error
            batch = await job.poll()
            if batch.results:
                moved_at = self._clock.monotonic()
                try:
                    yield batch
                except GeneratorExit:
                    await self._job_state.abort(
                        run.id, TooManyFailuresError("the run was ended by who follows it")
                    )
                    raise
            elif self._clock.monotonic() - moved_at >= self._policy.stall_seconds:
                with suppress(UpstreamUnavailableError):  # retried later
                    await self._submit(job)
                moved_at = self._clock.monotonic()
            else:
                await _first_of(stop, self._clock.sleep(_LOOK_SECONDS))
        if not job.outstanding:
            await self._job_state.forget(run.id)
        yield StoredBatch(results=(), requests=await job.requests(), counted=False)

    async def _submit(self, job: "_Job") -> None:
        for usernames in job.outstanding:
            await self._publish(Shard(job.run, tuple(usernames), self._delta))
        await self._job_state.mark_submitted(job.run.id)


class _Job:
    """A run as seen in the store: outstanding users, and results of the others."""

    def __init__(self, store: Store, run: Run, *, clock: Clock) -> None:
        self.run = run
        self._store = store
        self._clock = clock
        self.outstanding: list[list[str]] = []
        self._failed_before: dict[str, float] = {}
        self._look_again_at = float("-inf")
        self._requests_before = 0

    async def add(self, usernames: Sequence[str], size: int) -> None:
        """Add users to be synced. Those that failed before are retried."""
        self.outstanding += map(list, chunked(usernames, size))
        self._requests_before = (await self._store.totals(self.run)).requests
        self._failed_before = {end.username: end.at for end in await self._failed()}

    async def poll(self) -> StoredBatch:
        """Return the results of users that ended since the last call."""
        results: list[UserResult] = []
        suspects = False
        for names in self.outstanding[:_WINDOW]:
            statuses = await self._store.statuses(self.run, [safe_name(name) for name in names])
            synced = [name for name in names if statuses.get(safe_name(name)) == "synced"]
            suspects = suspects or "failed" in statuses.values()
            results += [UserResult(username=name) for name in synced]
            self._remove(names, set(synced))
        if suspects and self._clock.monotonic() >= self._look_again_at:
            results += await self._newly_failed()
        self.outstanding = [names for names in self.outstanding if names]
        if results:  # nothing tells which user they belong to, so the first one of the batch gets them
            results[0] = replace(results[0], requests=await self.requests())
        return StoredBatch(results=tuple(results), counted=False)

    async def requests(self) -> int:
        """Return the number of requests since the last call, of the users that have ended meanwhile."""
        before, self._requests_before = self._requests_before, (await self._store.totals(self.run)).requests
        return self._requests_before - before

    async def _newly_failed(self) -> list[UserResult]:
        began = self._clock.monotonic()
        failed = {
            end.username: end
            for end in await self._failed()
            if self._failed_before.get(end.username) != end.at
        }
        results: list[UserResult] = []
        for names in self.outstanding[:_WINDOW]:
            gone = [name for name in names if safe_name(name) in failed]
            results += [_failed_end(name, failed[safe_name(name)]) for name in gone]
            self._remove(names, set(gone))
        took = self._clock.monotonic() - began
        self._look_again_at = self._clock.monotonic() + took / _LOOK_SHARE
        return results

    async def _failed(self) -> list[Checkpoint]:
        return [end async for end in self._store.checkpoints(self.run) if end.status == "failed"]

    @staticmethod
    def _remove(names: list[str], gone: set[str]) -> None:
        if gone:
            names[:] = [name for name in names if name not in gone]


def _failed_end(username: str, end: Checkpoint) -> UserResult:
    return UserResult(
        username=username,
        secrets=end.secrets,
        seconds=end.seconds,
        error=ReportedError(end.error, end.message),
    )


async def _first_of(stop: asyncio.Event, waiting: Awaitable[None]) -> None:
    """Wait until one of the events is set."""
    tasks = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(waiting)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
