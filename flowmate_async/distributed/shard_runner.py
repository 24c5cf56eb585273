"""The working side of a job: one event loop, one client and one store per process, shard after shard.

Celery delivers the shards, and decides what happens to an unfinished one (``tasks.py``).
"""

import asyncio
import importlib.util
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from flowmate_async.client import FlowMate
from flowmate_async.distributed.connection import RedisUrl, connect
from flowmate_async.distributed.job_state import JobState
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.shards import Shard
from flowmate_async.errors import FlowMateError, PermissionDeniedError
from flowmate_async.stores.base import Run, Store
from flowmate_async.sync.abort import AbortRules
from flowmate_async.sync.local_executor import synced_of
from flowmate_async.sync.usernames import safe_name

if TYPE_CHECKING:
    from redis.asyncio import Redis

_MAX_CONSECUTIVE_FAILURES = 10


class ShardRunner:
    """Runs shards in one worker process: an event loop in a thread, with a client and a store.

    Args:
        client: creates the client, which shares over Redis.
        store: creates the store.
        redis_url: the Redis with the state of jobs.
        keyspace: names and seals that state.
        shard_seconds: after this time, a shard's remaining users are left for another shard.
        watched: entered with the client and left before it.

    Attributes:
        stopping: whether it was told to stop.
    """

    def __init__(
        self,
        client: Callable[[], FlowMate],
        store: Callable[[], Store],
        *,
        redis_url: RedisUrl,
        keyspace: Keyspace,
        shard_seconds: float,
        watched: Callable[[FlowMate], AbstractAsyncContextManager[None]],
    ) -> None:
        self._make_client = client
        self._make_store = store
        self._redis_url = redis_url
        self._keyspace = keyspace
        self._shard_seconds = shard_seconds
        self._watched = watched
        self._entered = ExitStack()
        self._portal: BlockingPortal | None = None
        self._stop: asyncio.Event | None = None
        self.stopping: bool = False

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            uvloop = importlib.util.find_spec("uvloop") is not None
            self._portal = entered.enter_context(
                start_blocking_portal(backend_options={"use_uvloop": uvloop})
            )
            self._store = entered.enter_context(self._portal.wrap_async_context_manager(self._make_store()))
            client = self._portal.call(self._client)
            self._fm = entered.enter_context(self._portal.wrap_async_context_manager(client))
            entered.enter_context(self._portal.wrap_async_context_manager(self._watched(self._fm)))
            self._portal.call(self._store.bind, client.base_url)
            redis = self._portal.call(self._connect)
            entered.callback(self._portal.call, self._disconnect, redis)
            self._job_state = JobState(redis, self._keyspace)
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.close()

    def stop(self) -> None:
        """Start no further user. Called from a signal handler; other workers finish the shard."""
        self.stopping = True
        if self._portal is not None:
            self._portal.start_task_soon(self._stop_now)

    def run_shard(self, shard: Shard) -> tuple[str, ...]:
        """Read and store the users of a shard, except those whom an earlier try has synced.

        Returns:
            The users that are left for another shard; none when this one is complete.
        """
        if self._portal is None:
            raise RuntimeError("a shard runner is used inside its 'with' block")
        return self._portal.call(self._run_shard, shard)

    async def _run_shard(self, shard: Shard) -> tuple[str, ...]:
        if self.stopping:
            return shard.usernames
        if await self._job_state.abort_reason(shard.run.id) is not None:
            return ()
        names = await self._remaining(shard)
        stop = self._stop = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(self._shard_seconds, stop.set)
        try:
            return await self._sync_users(shard, names, stop)
        except FlowMateError as error:
            await self._job_state.abort(shard.run.id, error)
            return ()
        finally:
            timer.cancel()
            self._stop = None

    async def _remaining(self, shard: Shard) -> list[str]:
        synced = await synced_of(self._store, shard.run, shard.usernames)
        return [name for name in shard.usernames if safe_name(name) not in synced]

    async def _sync_users(self, shard: Shard, names: list[str], stop: asyncio.Event) -> tuple[str, ...]:
        """Read and store these users. Return those that were not started.

        Raises:
            FlowMateError: the whole job must end.
        """
        rules = AbortRules(max_consecutive_failures=_MAX_CONSECUTIVE_FAILURES, max_failures=None)
        ended = set()
        executor = self._fm.executor(self._store, delta=shard.delta)
        batches = executor.execute(shard.run, names, stop=stop)
        async with aclosing(batches):
            async for batch in batches:
                for end in batch.results:
                    ended.add(end.username)
                    error = rules.note(end)
                    if error is not None and not await self._is_some_users_own(shard.run, error):
                        raise error
        return tuple(name for name in names if name not in ended)

    async def _is_some_users_own(self, run: Run, error: FlowMateError) -> bool:
        """Return whether a permission is missing for some users only, since others were read."""
        return isinstance(error, PermissionDeniedError) and (await self._store.totals(run)).synced > 0

    async def _stop_now(self) -> None:
        if self._stop is not None:
            self._stop.set()

    async def _client(self) -> FlowMate:
        return self._make_client()

    async def _disconnect(self, redis: "Redis") -> None:
        await redis.aclose()

    async def _connect(self) -> "Redis":
        return connect(self._redis_url)
