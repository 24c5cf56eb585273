"""The run lock of a PostgreSQL store: a monitored advisory lock, and a fence for writes under it.

The lock belongs to its connection, so it can be lost during a run: by a failover, a pooler, a server timeout,
or a firewall that drops the connection. Then the run is ended at once. If it writes before it notices, the
fence refuses that: ``meta`` names the last holder of the lock.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from flowmate_async.errors import RunInProgressError, StoreError
from flowmate_async.stores.held_lock import LockHolder, cancelled_when_lost
from flowmate_async.stores.postgres.address import Address, driver, guarded
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.system.finishing import finish_despite_cancellation

_BEAT_SECONDS = 15.0
_ANSWER_SECONDS = 10.0
_GOODBYE_SECONDS = 5.0

# A server may be configured to end idle sessions; this one is idle by design.
_STAY = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'"
# Behind a pooler in transaction mode, the lock stays with a session that others then use.
_IS_HELD = """
    SELECT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()
            AND (classid::bigint << 32 | objid::bigint) = $1::bigint
    )
"""
_IS_HELD_BY_ANY = """
    SELECT EXISTS (
        SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (classid::bigint << 32 | objid::bigint) = $1::bigint
    )
"""


@asynccontextmanager
async def held_lock(
    number: int,
    options: dict[str, Any],
    address: Address,
    *,
    announce: Callable[[str], Awaitable[None]],
) -> AsyncIterator[None]:
    """Hold the run lock on a connection of its own.

    Args:
        number: the advisory lock's.
        options: how to connect.
        address: the store's.
        announce: records the new holder where every write checks it.

    Raises:
        RunInProgressError: another run holds it.
        CheckpointError: it was lost.
        StoreError: the server cannot be used, or a pooler in between does not keep sessions.
    """
    connection = await guarded(driver().connect(**options), address)
    try:
        await _take(connection, number, address)
        await announce(os.urandom(8).hex())
        async with cancelled_when_lost(address.where) as holder:
            watch = asyncio.get_running_loop().create_task(_watch(connection, number, holder))

            def ended(_: object) -> None:
                holder.lose("its connection has ended")

            connection.add_termination_listener(ended)
            try:
                yield
            finally:
                connection.remove_termination_listener(ended)
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
    finally:
        await finish_despite_cancellation(_hang_up(connection))


async def is_held(connection: Any, number: int) -> bool:
    """Return whether a run holds the lock, without taking it."""
    return bool(await connection.fetchval(_IS_HELD_BY_ANY, number))


async def _take(connection: Any, number: int, address: Address) -> None:
    await guarded(connection.execute(_STAY), address)
    if not await guarded(connection.fetchval("SELECT pg_try_advisory_lock($1)", number), address):
        raise RunInProgressError(
            f"another run holds the store {address.where}",
            advice="Wait for it to end, or stop its process; the lock goes with its connection",
        )
    if not await guarded(connection.fetchval(_IS_HELD, number), address):
        raise StoreError(
            f"the store {address.where} cannot be locked: a pooler in between does not keep sessions",
            advice="Have the pooler pool by session, or connect to the server itself",
        )


async def _watch(connection: Any, number: int, holder: LockHolder) -> None:
    """Check periodically whether the lock is still held; this also keeps the connection in use."""
    while True:
        await asyncio.sleep(_BEAT_SECONDS)
        try:
            with DriverBoundary():
                held = await connection.fetchval(_IS_HELD, number, timeout=_ANSWER_SECONDS)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the lock is not known to be held
            holder.lose(f"its connection does not answer ({type(failure).__name__})")
            return
        if not held:
            holder.lose("another session of the server has it")
            return


async def _hang_up(connection: Any) -> None:
    try:
        with DriverBoundary():
            await connection.close(timeout=_GOODBYE_SECONDS)
    except Exception:  # noqa: BLE001 - the connection was lost before, and its lock with it
        connection.terminate()
