"""What the SQLite and PostgreSQL stores share: every method but opening, closing, locking and upgrading.

Nothing here knows the statements (``rows.py``) or the ciphers (``sealed/sealing.py``).
"""

# ruff: noqa: D102 - the protocol documents the methods

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

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
from flowmate_async.stores.held_lock import Fence
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealed.manifests import StoredRow
from flowmate_async.stores.sealed.meta import OpenedKeys, require_origin
from flowmate_async.stores.sealed.paging import PAGE, in_key_order, opened, verified
from flowmate_async.stores.sealed.rekeying import KeyChanged, Progress, Rekeyed, reseal_all
from flowmate_async.stores.sealed.tokens import opened_tokens, reseal_tokens
from flowmate_async.stores.sql import health, meta, rows, tokens
from flowmate_async.stores.sql.database import Database
from flowmate_async.stores.upgrading import require_format
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret

T = TypeVar("T")


class SqlStore(ABC):
    """The methods of :class:`~flowmate_async.stores.Store` over a database.

    Args:
        keys: the key, and optionally another key that the store may have.
        where: the store, for messages.
        url: its URL, for messages.
    """

    current_format: ClassVar[int]

    def __init__(self, *keys: StoreKey | None, where: str, url: str) -> None:
        self._opened_keys = OpenedKeys(*keys, where=where)
        self._where = where
        self._url = url
        self._format = self.current_format
        self._holder: str | None = None

    @abstractmethod
    async def _on_database(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run work that takes a :class:`Database` and these arguments."""

    @abstractmethod
    async def _forget_old_key(self) -> str:
        """Remove what the old key sealed from the disk. Return where some may be left, if anywhere."""

    async def _is_current(self) -> bool:
        """Return whether the store has the current format; an older one is only read."""
        return self._format == self.current_format

    async def bind(self, origin: str) -> None:
        found = await self._changing(meta.bind, origin)
        require_origin(found.origin, origin, where=self._where)
        self._opened_keys.use(found)

    async def origin(self) -> str | None:
        return (await self._on_database(meta.read)).origin

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        return await self._on_database(partial(rows.last_run, selection=selection))

    async def runs(self, *, limit: int) -> list[Run]:
        return await self._on_database(partial(rows.runs, limit=limit))

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        return await self._changing(partial(rows.begin_run, at=at, selection=selection))

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        await self._changing(partial(rows.finish_run, at=at), run)

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        return await self._changing(self._write, run, batch)

    async def note_missing(self, run: Run, usernames: Sequence[str]) -> None:
        await self._changing(rows.note_missing, run, usernames)

    async def missing(self, run: Run) -> Missing:
        return await self._on_database(rows.missing, run)

    async def remove_missing(self, run: Run, *, how: Removal, at: float) -> int:
        remove = partial(rows.remove_missing, how=how, at=at)
        return await self._changing(remove, self._opened_keys.sealing, run)

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        return await self._on_database(rows.statuses, run, usernames)

    async def seen(self, usernames: Sequence[str]) -> Mapping[str, str]:
        return await self._on_database(rows.seen, usernames)

    async def kept_tokens(self, usernames: Sequence[str]) -> Mapping[str, KeptToken]:
        found = await self._on_database(tokens.find, usernames)
        return opened_tokens(self._opened_keys.sealing(), found) if found else {}

    async def forget_tokens(self, *, used_before: float) -> None:
        await self._changing(tokens.forget_used_before, used_before)

    async def health(self, username: str | None = None) -> AsyncIterator[HealthRecord]:
        if not await self._is_current():
            return  # only the current format keeps health
        fetch = partial(health.after, only=username is not None)
        async for record in in_key_order(partial(self._on_database, fetch), username):
            yield record

    async def count_health(self) -> dict[tuple[str, str], int]:
        return await self._on_database(health.count) if await self._is_current() else {}

    async def settle_health(self, judge: Judge) -> list[Notice]:
        return await self._changing(health.settle, judge)

    async def note_health(self, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float) -> None:
        await self._changing(partial(health.note, policy=policy, at=at), sightings)

    async def put_health(self, records: Sequence[HealthRecord], notices: Sequence[Notice] = ()) -> None:
        await self._changing(health.put, records, notices)

    async def notices(self, limit: int) -> list[Notice]:
        return await self._on_database(health.find_notices, limit) if await self._is_current() else []

    async def forget_notices(self, notices: Sequence[Notice]) -> None:
        await self._changing(health.forget_notices, [notice.id for notice in notices])

    async def totals(self, run: Run) -> RunTotals:
        return await self._on_database(rows.totals, run)

    async def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        fetch = partial(rows.checkpoints_after, has_renewed=await self._is_current())
        last = ""
        while page := await self._on_database(fetch, run, last, PAGE):
            for checkpoint in page:
                yield checkpoint
            last = page[-1].username

    async def get(self, username: str, secret_id: str) -> Secret | None:
        row = await self._on_database(self._find, username, secret_id)
        return None if row is None else await self._open_row(row)

    async def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        fetch = partial(rows.items_after, only=username is not None)
        async for item in in_key_order(partial(self._on_database, fetch), username):
            yield item

    async def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        async for pair in opened(self._sealed_rows(username), self._open_row):
            yield pair

    async def verify(self) -> Verification:
        return await verified(self._sealed_rows(None), self._open_row)

    async def rekey(self, key: StoreKey, *, on_progress: Progress | None = None) -> Rekeyed:
        begin = partial(meta.begin_rekey, where=self._where)
        found = await self._changing(begin, self._opened_keys.keys, key)
        self._opened_keys.keys = (key, *self._opened_keys.keys)
        self._opened_keys.use(found)
        done = await reseal_all(
            self._sealed_rows(None),
            self._opened_keys,
            lambda page: self._on_database(rows.reseal, self._opened_keys.sealing(), page),
            on_progress,
        )
        await reseal_tokens(
            partial(self._on_database, tokens.after),
            self._opened_keys.sealing,
            partial(self._on_database, tokens.reseal),
        )
        self._opened_keys.use(await self._on_database(meta.end_rekey))
        return replace(done, left=await self._forget_old_key())

    def _sealed_rows(self, username: str | None) -> AsyncIterator[StoredRow]:
        fetch = partial(
            rows.sealed_after, only=username is not None, has_manifests=self._opened_keys.has_manifests
        )
        return in_key_order(partial(self._on_database, fetch), username)

    async def _open_row(self, row: StoredRow) -> Secret:
        secret = self._opened_keys.opened(row)
        return await self._on_database(self._reopened, row) if secret is None else secret

    async def _reopened(self, db: Database, row: StoredRow) -> Secret:
        """Return the current credential, with the store's current key."""
        self._opened_keys.use(await db.read_meta())
        return self._opened_keys.open(await self._find(db, row.username, row.secret_id) or row)

    async def _find(self, db: Database, username: str, secret_id: str) -> StoredRow | None:
        return await rows.find(db, username, secret_id, has_manifests=self._opened_keys.has_manifests)

    async def _write(self, db: Database, run: Run, batch: Sequence[UserWrite]) -> Written:
        fence = Fence(self._holder, self._where)
        with suppress(KeyChanged):
            return await rows.write(db, self._opened_keys.sealing(), run, batch, fence)
        self._opened_keys.use(await db.read_meta())
        return await rows.write(db, self._opened_keys.sealing(), run, batch, fence)

    async def _changing(self, work: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Do work that changes the store."""
        if not await self._is_current():
            require_format(self._format, self.current_format, where=self._where, url=self._url)
        return await self._on_database(work, *args)
