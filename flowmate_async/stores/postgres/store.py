"""The store for many machines: a schema of a PostgreSQL database, with client-side encryption.

A batch is one transaction. All processes may write at once; only the run lock is exclusive, an advisory lock
that belongs to its connection. Nothing here knows the statements (``rows.py``), the tables
(``schema.py``), the address (``address.py``) or the ciphers (``sealed/sealing.py``).
"""

# ruff: noqa: D102 - the protocol documents the methods

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import HealthRecord, Notice, Sighting
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
from flowmate_async.stores.postgres import health, rows, tokens
from flowmate_async.stores.postgres.address import Address, Connection, driver, guarded, parse_address
from flowmate_async.stores.postgres.lock import Fence, held_lock, is_held
from flowmate_async.stores.postgres.schema import (
    FORMAT,
    checked_format,
    checked_of,
    lock_number,
    prepare,
    read_meta,
    rewrite_tables,
    write_meta,
)
from flowmate_async.stores.postgres.upgrade import upgrade
from flowmate_async.stores.sealed.manifests import StoredRow
from flowmate_async.stores.sealed.meta import (
    Meta,
    OpenedKeys,
    not_open,
    pick_key,
    rekeying_meta,
    require_origin,
)
from flowmate_async.stores.sealed.paging import PAGE, in_key_order, opened, verified
from flowmate_async.stores.sealed.rekeying import KeyChanged, Progress, Rekeyed, reseal_all
from flowmate_async.stores.sealed.tokens import opened_tokens, reseal_tokens
from flowmate_async.stores.upgrading import Upgraded, require_format
from flowmate_async.stores.url import StoreUrl
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.system.finishing import finish_despite_cancellation
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret

T = TypeVar("T")

_CONNECTIONS = 4
_CONNECT_SECONDS = 10.0
_STATEMENT_SECONDS = 120.0
_GOODBYE_SECONDS = 5.0
# A vanished machine holds the run lock for at most idle + interval * count seconds.
_KEEPALIVES = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}


class PostgresStore:
    """A store in one schema of a database, see :class:`~flowmate_async.stores.Store` for the methods.

    Cancellation: a write that has begun is finished, so it happens wholly or not at all.

    Args:
        address: which database and schema; see :func:`~.postgres_address.parse_address`.
        key: the key that credentials are sealed with.
        other_key: another key that the store may have during a key change.
        create: make the tables when they are missing; otherwise that is an error.
    """

    makes_backups = False

    def __init__(
        self,
        address: Address,
        *,
        key: StoreKey,
        other_key: StoreKey | None = None,
        create: bool = True,
    ) -> None:
        self.address = address
        self._opened_keys = OpenedKeys(key, other_key, where=address.where)
        self._create = create
        self._holder: str | None = None
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

    async def bind(self, origin: str) -> None:
        meta = await self._changing(_bind, origin)
        require_origin(meta.origin, origin, where=self.address.where)
        self._opened_keys.use(meta)

    async def origin(self) -> str | None:
        return (await self._on_connection(read_meta)).origin

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

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        return await self._on_connection(partial(rows.last_run, selection=selection))

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        return await self._changing(partial(rows.begin_run, at=at, selection=selection))

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        await self._changing(partial(rows.finish_run, at=at), run)

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        return await finish_despite_cancellation(self._changing(self._write, run, batch))

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
        if not await self._has_health():
            return  # an older format, which is read unchanged
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
        if not await self._has_health():
            return []
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
        row = await self._on_connection(self._find, username, secret_id)
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
        return replace(done, left=await self._on_connection(rewrite_tables))

    async def upgrade(self) -> Upgraded:
        done = await self._on_connection(upgrade, self._opened_keys.keys, self.address)
        self._opened_keys.use(await self._on_connection(read_meta))
        return done

    def _sealed_rows(self, username: str | None) -> AsyncIterator[StoredRow]:
        fetch = partial(
            rows.sealed_after, only=username is not None, has_manifests=self._opened_keys.has_manifests
        )
        return in_key_order(partial(self._on_connection, fetch), username)

    async def _open_row(self, row: StoredRow) -> Secret:
        secret = self._opened_keys.opened(row)
        return await self._on_connection(self._reopened, row) if secret is None else secret

    async def _reopened(self, connection: Connection, row: StoredRow) -> Secret:
        """Return the current credential, with the store's current key."""
        self._opened_keys.use(await read_meta(connection))
        return self._opened_keys.open(await self._find(connection, row.username, row.secret_id) or row)

    async def _find(self, connection: Connection, username: str, secret_id: str) -> StoredRow | None:
        return await rows.find(connection, username, secret_id, has_manifests=self._opened_keys.has_manifests)

    async def _write(self, connection: Connection, run: Run, batch: Sequence[UserWrite]) -> Written:
        with suppress(KeyChanged):
            return await rows.write(connection, self._opened_keys.sealing(), run, batch, self._fence())
        self._opened_keys.use(await read_meta(connection))
        return await rows.write(connection, self._opened_keys.sealing(), run, batch, self._fence())

    def _fence(self) -> Fence:
        return Fence(self._holder, self.address.where)

    async def _begin_rekey(self, connection: Connection, key: StoreKey) -> None:
        where = self.address.where
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM meta FOR UPDATE")  # waits for writes in progress
            meta = await read_meta(connection)
            old = pick_key(meta, (*self._opened_keys.keys, key), where=where)
            meta = rekeying_meta(meta, old, key, where=where)
            await write_meta(connection, meta)
        self._opened_keys.keys = (key, *self._opened_keys.keys)
        self._opened_keys.use(meta)

    async def _end_rekey(self, connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM meta FOR UPDATE")
            meta = replace(await read_meta(connection), previous_key_id=None, previous_key=None)
            await write_meta(connection, meta)
        self._opened_keys.use(meta)

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

    async def _changing(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Do work that changes the store."""
        if self._opened_keys.checked != checked_of(FORMAT):
            await self._on_connection(self._require_format)
        return await self._on_connection(work, *args)

    async def _require_format(self, connection: Connection) -> None:
        found = await checked_format(connection, self.address)
        url = f"postgresql://{self.address.where.partition(' ')[0]}?schema={self.address.schema}"
        require_format(found, FORMAT, where=self.address.where, url=url)
        self._opened_keys.use(await read_meta(connection))

    async def _has_health(self) -> bool:
        """Return whether the store's format keeps health; another process may have upgraded it meanwhile."""
        if self._opened_keys.checked != checked_of(FORMAT):
            self._opened_keys.use(await self._on_connection(read_meta))
        return self._opened_keys.checked == checked_of(FORMAT)

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


async def _bind(connection: Any, origin: str) -> Meta:
    await connection.execute("UPDATE meta SET origin = $1 WHERE origin IS NULL", origin)
    return await read_meta(connection)


async def _put_holder(connection: Any, holder: str) -> None:
    await connection.execute("UPDATE meta SET run_holder = $1", holder)


async def _nothing_to_reset(connection: object) -> None:
    """Skip the reset: no statement leaves state on its connection, and a reset costs a round trip."""
