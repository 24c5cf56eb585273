"""The embedded store: one SQLite file with sealed credentials, using only the standard library.

One connection, used from one worker thread at a time. Every write is one transaction with
``synchronous = FULL``: acknowledged writes survive ``kill -9`` and a power cut. The event loop never waits
for the disk. Nothing here knows the statements (``sql/``) or the tables (``schema.py``).
"""

# ruff: noqa: D102 - the protocol documents the methods

import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self, TypeVar

from flowmate_async.errors import StoreError, StoreMissingError
from flowmate_async.redaction import shown_path
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.run_lock import RunLock
from flowmate_async.stores.sealed.meta import not_open
from flowmate_async.stores.sql.database import run_now
from flowmate_async.stores.sql.store import SqlStore
from flowmate_async.stores.sqlite.database import SqliteDatabase
from flowmate_async.stores.sqlite.files import guarded
from flowmate_async.stores.sqlite.schema import FORMAT, open_database
from flowmate_async.stores.sqlite.upgrade import upgrade
from flowmate_async.stores.upgrading import Upgraded
from flowmate_async.stores.url import absolute
from flowmate_async.system.finishing import finish_despite_cancellation
from flowmate_async.system.serial_thread import SerialThread

T = TypeVar("T")


class SqliteStore(SqlStore):
    """A store in one SQLite file, see :class:`~flowmate_async.stores.Store` for the methods.

    Cancellation: work that has begun in the thread is finished there, so a cancelled write happens wholly or
    not at all, and the next operation waits for it.

    Args:
        path: the database file; made, with mode 0600, when missing.
        key: the key that credentials are sealed with.
        other_key: another key that the store may have during a key change.
        create: make the database when it is missing; otherwise that is an error.
        busy_timeout_seconds: how long to wait while another process writes.
    """

    current_format = FORMAT
    makes_backups = True

    def __init__(
        self,
        path: Path,
        *,
        key: StoreKey,
        other_key: StoreKey | None = None,
        create: bool = True,
        busy_timeout_seconds: float = 5.0,
    ) -> None:
        self.path: Path = absolute(path)
        super().__init__(key, other_key, where=shown_path(self.path), url=f"sqlite:///{self.path}")
        self._create = create
        self._busy_timeout_seconds = busy_timeout_seconds
        self._turn: SerialThread | None = None
        self._connection: sqlite3.Connection | None = None
        # A cancelled task leaves its thread running; this keeps the next one off the connection.
        self._in_use = Lock()

    async def __aenter__(self) -> Self:
        """Open the database."""
        self._turn = SerialThread(self._in_use)
        try:
            await self._in_thread(self._open)
        except BaseException:
            await self._close_shielded()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close_shielded()

    @asynccontextmanager
    async def exclusive_run(self) -> AsyncIterator[None]:
        lock = RunLock(self.path)
        try:
            await self._in_thread(lock.acquire)
            yield
        finally:
            await finish_despite_cancellation(self._in_thread(lock.release))

    async def is_running(self) -> bool:
        return await self._in_thread(RunLock(self.path).is_held)

    async def upgrade(self) -> Upgraded:
        return await finish_despite_cancellation(self._in_thread(self._upgrade))

    def _upgrade(self) -> Upgraded:
        self._opened()
        done = upgrade(self.path, self._opened_keys.keys, busy_timeout_seconds=self._busy_timeout_seconds)
        self._close()
        self._open()
        return done

    async def _forget_old_key(self) -> str:
        """Copy the log over the replaced pages, which hold data sealed with the old key."""
        if await self._in_thread(self._log_is_busy):
            raise StoreError(
                f"the store {self._where} has its new key, but what the old one sealed is still on "
                "the disk: another program is reading the store",
                advice="End that program, then run the same command again",
            )
        return ""

    def _log_is_busy(self) -> bool:
        busy, *_ = self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return bool(busy)

    def _open(self) -> None:
        if not self._create and not self.path.exists():
            raise StoreMissingError(f"there is no store {self._where}", advice="Check the store's URL")
        self._connection, meta, self._format = open_database(
            self.path,
            self._opened_keys.keys,
            create=self._create,
            busy_timeout_seconds=self._busy_timeout_seconds,
        )
        self._opened_keys.use(meta)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._opened_keys.close()
        if connection is not None:
            connection.close()

    async def _on_database(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        return await self._in_thread(lambda: run_now(work(SqliteDatabase(self._opened()), *args)))

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise not_open(self._where)
        return self._connection

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._turn is None:
            raise not_open(self._where)
        return await self._turn.run(partial(guarded, work, path=self.path))

    async def _close_shielded(self) -> None:
        await finish_despite_cancellation(self._in_thread(self._close))
