"""The embedded store: one SQLite file with sealed credentials, using only the standard library.

One connection, used from one worker thread at a time. Every write is one transaction with
``synchronous = FULL``: acknowledged writes survive ``kill -9`` and a power cut. The event loop never waits
for the disk. Nothing here knows the statements (``rows.py``), the tables (``schema.py``) or the
ciphers (``sealed/sealing.py``).
"""

# ruff: noqa: D102 - the protocol documents the methods

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from msgspec.structs import replace

from flowmate_async.errors import StoreError
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import HealthRecord, Notice, Sighting
from flowmate_async.redaction import shown_path
from flowmate_async.stores.base import (
    Checkpoint,
    Missing,
    Removal,
    Run,
    RunTotals,
    Status,
    StoredItem,
    UserWrite,
    Verification,
    Written,
)
from flowmate_async.stores.health import Judge
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.run_lock import RunLock
from flowmate_async.stores.sealed.manifests import StoredRow
from flowmate_async.stores.sealed.meta import OpenedKeys, not_open, pick_key, rekeying_meta, require_origin
from flowmate_async.stores.sealed.paging import PAGE, in_key_order, opened, verified
from flowmate_async.stores.sealed.rekeying import KeyChanged, Progress, Rekeyed, reseal_all
from flowmate_async.stores.sealed.tokens import opened_tokens, reseal_tokens
from flowmate_async.stores.sqlite import health, rows, tokens
from flowmate_async.stores.sqlite.files import guarded, transaction
from flowmate_async.stores.sqlite.schema import FORMAT, open_database, read_meta, write_meta
from flowmate_async.stores.sqlite.upgrade import upgrade
from flowmate_async.stores.upgrading import Upgraded, require_format
from flowmate_async.stores.url import absolute
from flowmate_async.system.finishing import finish_despite_cancellation
from flowmate_async.system.serial_thread import SerialThread
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret

T = TypeVar("T")


class SqliteStore:
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
        self._create = create
        self._opened_keys = OpenedKeys(key, other_key, where=shown_path(self.path))
        self._busy_timeout_seconds = busy_timeout_seconds
        self._turn: SerialThread | None = None
        self._connection: sqlite3.Connection | None = None
        self._format = FORMAT
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

    async def bind(self, origin: str) -> None:
        await self._changing(self._bind, origin)

    async def origin(self) -> str | None:
        return await self._on_connection(lambda connection: read_meta(connection).origin)

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

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        return await self._on_connection(partial(rows.last_run, selection=selection))

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        return await self._changing(partial(rows.begin_run, at=at, selection=selection))

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        await self._changing(partial(rows.finish_run, at=at), run)

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        return await self._changing(self._write, run, batch)

    async def note_missing(self, run: Run, usernames: Sequence[str]) -> None:
        await self._changing(rows.note_missing, run, usernames)

    async def missing(self, run: Run) -> Missing:
        return await self._on_connection(rows.missing, run)

    async def remove_missing(self, run: Run, *, how: Removal, at: float) -> int:
        return await self._changing(
            partial(rows.remove_missing, how=how, at=at), self._opened_keys.sealing, run
        )

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        return await self._on_connection(rows.statuses, run, usernames)

    async def seen(self, usernames: Sequence[str]) -> Mapping[str, str]:
        return await self._on_connection(rows.seen, usernames)

    async def kept_tokens(self, usernames: Sequence[str]) -> Mapping[str, KeptToken]:
        found = await self._on_connection(tokens.find, usernames)
        return opened_tokens(self._opened_keys.sealing(), found) if found else {}

    async def forget_tokens(self, *, used_before: float) -> None:
        await self._changing(tokens.forget_used_before, used_before)

    async def health(self, username: str | None = None) -> AsyncIterator[HealthRecord]:
        fetch = partial(health.after, only=username is not None)
        async for record in in_key_order(partial(self._on_connection, fetch), username):
            yield record

    async def settle_health(self, judge: Judge) -> list[Notice]:
        return await self._changing(health.settle, judge)

    async def note_health(self, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float) -> None:
        await self._changing(partial(health.note, policy=policy, at=at), sightings)

    async def put_health(self, records: Sequence[HealthRecord], notices: Sequence[Notice] = ()) -> None:
        await self._changing(health.put, records, notices)

    async def notices(self, limit: int) -> list[Notice]:
        return await self._on_connection(health.find_notices, limit)

    async def forget_notices(self, notices: Sequence[Notice]) -> None:
        await self._changing(health.forget_notices, [notice.id for notice in notices])

    async def totals(self, run: Run) -> RunTotals:
        return await self._on_connection(rows.totals, run)

    async def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        last = ""
        while page := await self._on_connection(rows.checkpoints_after, run, last, PAGE):
            for checkpoint in page:
                yield checkpoint
            last = page[-1].username

    async def get(self, username: str, secret_id: str) -> Secret | None:
        row = await self._on_connection(rows.find, username, secret_id)
        return None if row is None else await self._open_row(row)

    async def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        fetch = partial(rows.items_after, only=username is not None)
        async for item in in_key_order(partial(self._on_connection, fetch), username):
            yield item

    async def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        async for pair in opened(self._sealed_rows(username), self._open_row):
            yield pair

    async def verify(self) -> Verification:
        return await verified(self._sealed_rows(None), self._open_row)

    async def rekey(self, key: StoreKey, *, on_progress: Progress | None = None) -> Rekeyed:
        await self._changing(self._begin_rekey, key)
        done = await reseal_all(
            self._sealed_rows(None),
            self._opened_keys,
            lambda page: self._on_connection(rows.reseal, self._opened_keys.sealing(), page),
            on_progress,
        )
        await reseal_tokens(
            partial(self._on_connection, tokens.after),
            self._opened_keys.sealing,
            partial(self._on_connection, tokens.reseal),
        )
        await self._on_connection(self._end_rekey)
        return done

    async def upgrade(self) -> Upgraded:
        return await finish_despite_cancellation(self._in_thread(self._upgrade))

    def _upgrade(self) -> Upgraded:
        self._opened()
        done = upgrade(self.path, self._opened_keys.keys, busy_timeout_seconds=self._busy_timeout_seconds)
        self._close()
        self._open()
        return done

    def _sealed_rows(self, username: str | None) -> AsyncIterator[StoredRow]:
        fetch = partial(rows.sealed_after, only=username is not None)
        return in_key_order(partial(self._on_connection, fetch), username)

    async def _open_row(self, row: StoredRow) -> Secret:
        secret = self._opened_keys.opened(row)
        return await self._on_connection(self._reopened, row) if secret is None else secret

    def _reopened(self, connection: sqlite3.Connection, row: StoredRow) -> Secret:
        """Return the current credential, with the store's current key."""
        self._opened_keys.use(read_meta(connection))
        return self._opened_keys.open(rows.find(connection, row.username, row.secret_id) or row)

    def _write(self, connection: sqlite3.Connection, run: Run, batch: Sequence[UserWrite]) -> Written:
        with suppress(KeyChanged):
            return rows.write(connection, self._opened_keys.sealing(), run, batch)
        self._opened_keys.use(read_meta(connection))
        return rows.write(connection, self._opened_keys.sealing(), run, batch)

    def _begin_rekey(self, connection: sqlite3.Connection, key: StoreKey) -> None:
        where = shown_path(self.path)
        with transaction(connection):
            meta = read_meta(connection)
            old = pick_key(meta, (*self._opened_keys.keys, key), where=where)
            write_meta(connection, rekeying_meta(meta, old, key, where=where))
            meta = read_meta(connection)
        self._opened_keys.keys = (key, *self._opened_keys.keys)
        self._opened_keys.use(meta)

    def _end_rekey(self, connection: sqlite3.Connection) -> None:
        with transaction(connection):
            write_meta(connection, replace(read_meta(connection), previous_key_id=None, previous_key=None))
            meta = read_meta(connection)
        self._opened_keys.use(meta)
        # The replaced pages hold data sealed with the old key until the log is copied over them.
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                f"the store {shown_path(self.path)} has its new key, but what the old one sealed is still on "
                "the disk: another program is reading the store",
                advice="End that program, then run the same command again",
            )

    def _open(self) -> None:
        if not self._create and not self.path.exists():
            raise StoreError(f"there is no store {shown_path(self.path)}", advice="Check the store's URL")
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

    def _bind(self, connection: sqlite3.Connection, origin: str) -> None:
        with transaction(connection):
            connection.execute("UPDATE meta SET origin = ? WHERE origin IS NULL", (origin,))
            meta = read_meta(connection)
        require_origin(meta.origin, origin, where=shown_path(self.path))
        self._opened_keys.use(meta)

    async def _changing(self, work: Callable[..., T], *args: object) -> T:
        """Do work that changes the store."""
        require_format(self._format, FORMAT, where=shown_path(self.path), url=f"sqlite:///{self.path}")
        return await self._on_connection(work, *args)

    async def _on_connection(self, work: Callable[..., T], *args: object) -> T:
        return await self._in_thread(lambda: work(self._opened(), *args))

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise not_open(shown_path(self.path))
        return self._connection

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._turn is None:
            raise not_open(shown_path(self.path))
        return await self._turn.run(partial(guarded, work, path=self.path))

    async def _close_shielded(self) -> None:
        await finish_despite_cancellation(self._in_thread(self._close))
