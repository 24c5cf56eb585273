"""The state of jobs in Redis: whether a job was submitted, and why it ended early.

This is an optimisation. Without Redis a job is submitted again, which is safe since shards are idempotent,
and a worker finds out by itself that a job cannot go on.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from flowmate_async.distributed.connection import redis_errors
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.errors import FlowMateError
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.values.error_record import ErrorRecord

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LIFE_SECONDS = 24 * 3600


class JobState:
    """The state of one upstream's jobs, by run id.

    Args:
        redis: the connection.
        keyspace: names and seals the entries.
    """

    def __init__(self, redis: "Redis", keyspace: Keyspace) -> None:
        self._redis = redis
        self._keyspace = keyspace
        self._errors = redis_errors()

    async def abort(self, run_id: str, error: FlowMateError) -> None:
        """Tell all processes to stop working on this job."""
        name = self._keyspace.of("ended", run_id)
        record = Plaintext(msgspec.msgpack.encode(ErrorRecord.of(error)))
        await self._set(name, self._keyspace.seal(record, kind=name))

    async def abort_reason(self, run_id: str) -> FlowMateError | None:
        """Return why the job ended early; ``None`` if it did not, or if Redis is unavailable."""
        name = self._keyspace.of("ended", run_id)
        sealed = await self._get(name)
        record = None if sealed is None else self._keyspace.open(sealed, kind=name)
        return None if record is None else msgspec.msgpack.decode(record.data, type=ErrorRecord).restored()

    async def mark_submitted(self, run_id: str) -> None:
        """Record that the broker has all shards of the job."""
        await self._set(self._keyspace.of("handed-in", run_id), b"1")

    async def is_submitted(self, run_id: str) -> bool:
        """Return whether the broker has all shards of the job; False if Redis is unavailable."""
        return await self._get(self._keyspace.of("handed-in", run_id)) is not None

    async def forget(self, run_id: str) -> None:
        """Remove the state of a job that starts again or is complete."""
        names = [self._keyspace.of(kind, run_id) for kind in ("ended", "handed-in")]
        with DriverBoundary(), suppress(*self._errors):
            await self._redis.delete(*names)

    async def _set(self, name: str, value: bytes) -> None:
        with DriverBoundary(), suppress(*self._errors):
            await self._redis.set(name, value, ex=_LIFE_SECONDS)

    async def _get(self, name: str) -> Any:
        with DriverBoundary(), suppress(*self._errors):
            return await self._redis.get(name)
        return None
