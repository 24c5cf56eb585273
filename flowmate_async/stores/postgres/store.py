"""The store for many machines: a schema of a PostgreSQL database, with client-side encryption.

A batch is one transaction. All processes may write at once; only the run lock is exclusive, an advisory lock
that belongs to its connection. Nothing here knows the statements (``sql/``), the tables (``schema.py``) or
the address (``address.py``).
"""

# ruff: noqa: D102 - the protocol documents the methods

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from flowmate_async.stores.base import Run, UserWrite, Written
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.postgres.address import Address, Connection, driver, guarded, parse_address
from flowmate_async.stores.postgres.database import PostgresDatabase
from flowmate_async.stores.postgres.lock import held_lock, is_held
from flowmate_async.stores.postgres.schema import (
    FORMAT,
    checked_format,
    checked_of,
    lock_number,
    prepare,
    read_meta,
    rewrite_tables,
)
from flowmate_async.stores.postgres.upgrade import upgrade
from flowmate_async.stores.sealed.meta import not_open
from flowmate_async.stores.sql.store import SqlStore
from flowmate_async.stores.upgrading import Upgraded
from flowmate_async.stores.url import StoreUrl
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.system.finishing import finish_despite_cancellation

T = TypeVar("T")

_CONNECTIONS = 4
_CONNECT_SECONDS = 10.0
_STATEMENT_SECONDS = 120.0
_GOODBYE_SECONDS = 5.0
# A vanished machine holds the run lock for at most idle + interval * count seconds.
_KEEPALIVES = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}


class PostgresStore(SqlStore):
    """A store in one schema of a database, see :class:`~flowmate_async.stores.Store` for the methods.

    Cancellation: a write that has begun is finished, so it happens wholly or not at all.

    Args:
        address: which database and schema; see :func:`~.address.parse_address`.
        key: the key that credentials are sealed with.
        other_key: another key that the store may have during a key change.
        create: make the tables when they are missing; otherwise that is an error.
    """

    current_format = FORMAT
    makes_backups = False

    def __init__(
        self,
        address: Address,
        *,
        key: StoreKey,
        other_key: StoreKey | None = None,
        create: bool = True,
    ) -> None:
        url = f"postgresql://{address.where.partition(' ')[0]}?schema={address.schema}"
        super().__init__(key, other_key, where=address.where, url=url)
        self.address = address
        self._create = create
        self._pool: Any = None

    async def __aenter__(self) -> Self:
        """Connect; create the tables if they are missing."""
        pool = driver().create_pool(
            min_size=0, max_size=_CONNECTIONS, reset=_nothing_to_reset, **self._options()
        )
        try:
            self._pool = await guarded(pool, self.address)
            self._opened_keys.use(
                await self._on_connection(prepare, self._opened_keys.keys, self.address, self._create)
            )
        except BaseException:
            await finish_despite_cancellation(self._close())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await finish_despite_cancellation(self._close())

    @asynccontextmanager
    async def exclusive_run(self) -> AsyncIterator[None]:
        number = lock_number("run", self._opened_keys.store_id)
        try:
            async with held_lock(number, self._options(), self.address, announce=self._announce):
                yield
        finally:
            self._holder = None

    async def is_running(self) -> bool:
        return await self._on_connection(is_held, lock_number("run", self._opened_keys.store_id))

    async def _announce(self, holder: str) -> None:
        """Record that from now on this store's runs may write."""
        if self._opened_keys.has_manifests:  # the upgrade of an older format holds the lock as well
            await self._on_connection(_put_holder, holder)
            self._holder = holder

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        return await finish_despite_cancellation(super().write(run, batch))

    async def upgrade(self) -> Upgraded:
        done = await self._on_connection(upgrade, self._opened_keys.keys, self.address)
        self._opened_keys.use(await self._on_connection(read_meta))
        return done

    def _options(self) -> dict[str, Any]:
        settings = {
            "application_name": "flowmate_async",
            "search_path": self.address.schema,
            **_KEEPALIVES,
        }
        return {
            "dsn": self.address.dsn,
            "timeout": _CONNECT_SECONDS,
            "command_timeout": _STATEMENT_SECONDS,
            "server_settings": settings,
        }

    async def _is_current(self) -> bool:
        """Return whether the store's format is current; another process may have upgraded it meanwhile."""
        if self._opened_keys.checked != checked_of(FORMAT):
            await self._on_connection(self._look_at_format)
        return self._opened_keys.checked == checked_of(FORMAT)

    async def _look_at_format(self, connection: Connection) -> None:
        self._format = await checked_format(connection, self.address)
        self._opened_keys.use(await read_meta(connection))

    async def _forget_old_key(self) -> str:
        return await self._on_connection(rewrite_tables)

    async def _on_database(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        return await self._on_connection(lambda connection: work(PostgresDatabase(connection), *args))

    async def _on_connection(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        return await guarded(self._acquired(work, *args), self.address)

    async def _acquired(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        if self._pool is None:
            raise not_open(self.address.where)
        async with self._pool.acquire() as connection:
            return await work(connection, *args)

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        self._opened_keys.close()
        if pool is None:
            return
        try:
            with DriverBoundary():
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await pool.close()
        except TimeoutError:
            pool.terminate()


def postgres_store(
    url: str | StoreUrl, *, key: StoreKey, other_key: StoreKey | None = None, create: bool = True
) -> PostgresStore:
    """Return the store behind a URL.

    Raises:
        ConfigurationError: the URL is invalid, or the driver is not installed.
    """
    url = StoreUrl.of(url)
    driver()
    return PostgresStore(parse_address(url), key=key, other_key=other_key, create=create)


async def _put_holder(connection: Any, holder: str) -> None:
    await connection.execute("UPDATE meta SET run_holder = $1", holder)


async def _nothing_to_reset(connection: object) -> None:
    """Skip the reset: no statement leaves state on its connection, and a reset costs a round trip."""
