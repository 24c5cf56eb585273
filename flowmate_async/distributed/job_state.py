"""What workers and followers tell each other about a job, in Redis: that it was handed in, that it has ended.

Nothing depends on it: without Redis a job is handed in again, which its shards can bear, and a worker finds
out for itself that it is useless to go on.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from flowmate_async.distributed.connection import redis_errors
from flowmate_async.distributed.keyspace import Names
from flowmate_async.errors import FlowMateError
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.values.error_record import ErrorRecord

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LIFE_SECONDS = 24 * 3600


class Marks:
    """The marks of one upstream's jobs, by run id.

    Args:
        redis: the connection.
        names: what they are called, and the seal.
    """

    def __init__(self, redis: "Redis", names: Names) -> None:
        self._redis = redis
        self._names = names
        self._errors = redis_errors()

    async def end(self, run_id: str, error: FlowMateError) -> None:
        """Let everybody know that this job is not worth going on with."""
        name = self._names.of("ended", run_id)
        record = Plaintext(msgspec.msgpack.encode(ErrorRecord.of(error)))
        await self._set(name, self._names.seal(record, kind=name))

    async def ended(self, run_id: str) -> FlowMateError | None:
        """Why the job was ended early, if it was and Redis knows."""
        name = self._names.of("ended", run_id)
        sealed = await self._get(name)
        record = None if sealed is None else self._names.open(sealed, kind=name)
        return None if record is None else msgspec.msgpack.decode(record.data, type=ErrorRecord).restored()

    async def hand_in(self, run_id: str) -> None:
        """Note that all shards of the job are with the broker."""
        await self._set(self._names.of("handed-in", run_id), b"1")

    async def handed_in(self, run_id: str) -> bool:
        """Whether all shards of the job are with the broker, for all that Redis knows."""
        return await self._get(self._names.of("handed-in", run_id)) is not None

    async def forget(self, run_id: str) -> None:
        """Take the marks of a job away, which begins again or is complete."""
        names = [self._names.of(kind, run_id) for kind in ("ended", "handed-in")]
        with DriverBoundary(), suppress(*self._errors):
            await self._redis.delete(*names)

    async def _set(self, name: str, value: bytes) -> None:
        with DriverBoundary(), suppress(*self._errors):
            await self._redis.set(name, value, ex=_LIFE_SECONDS)

    async def _get(self, name: str) -> Any:
        with DriverBoundary(), suppress(*self._errors):
            return await self._redis.get(name)
        return None
