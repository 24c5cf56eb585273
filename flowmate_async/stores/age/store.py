"""The portable store: JSON lines encrypted with age, for handing over, archiving and other tools.

``age --decrypt --identity store.key credentials.jsonl.age`` opens the compacted file. Blocking work is done
in a worker thread. Nothing here knows the files (``folder.py``) or what the lines mean (``index.py``).
"""

# ruff: noqa: D102 - the protocol documents the methods

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from msgspec.structs import replace

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import HealthRecord, Notice, Sighting
from flowmate_async.redaction import shown_path
from flowmate_async.stores.age import health
from flowmate_async.stores.age.files import driver
from flowmate_async.stores.age.folder import AgeFolder, Planner
from flowmate_async.stores.age.index import (
    Index,
    plan_begin,
    plan_note_missing,
    plan_removal,
    plan_write,
)
from flowmate_async.stores.age.lines import Fingerprints, Line, RunLine, SecretLine, fingerprints_of
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
from flowmate_async.stores.health import Judge, counted
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.run_lock import RunLock
from flowmate_async.stores.sealed.meta import not_bound, not_open, require_origin
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.rekeying import Progress, Rekeyed
from flowmate_async.stores.url import StoreUrl, absolute
from flowmate_async.system.finishing import finish_despite_cancellation
from flowmate_async.system.serial_thread import SerialThread
from flowmate_async.values.secrets import Secret

T = TypeVar("T")

_PREFIX = "jsonl+age:///"


class AgeStore:
    """A store in age-encrypted files, see :class:`~flowmate_async.stores.Store` for the methods.

    Args:
        path: the file; made, with mode 0600, when missing.
        key: the key, which is also the age identity.
        other_key: another key that the store may have during a key change.
        create: make the store when it is missing; otherwise that is an error.
    """

    def __init__(
        self, path: Path, *, key: StoreKey, other_key: StoreKey | None = None, create: bool = True
    ) -> None:
        self.path: Path = absolute(path)
        self._keys = (key,) if other_key is None else (key, other_key)
        self._create = create
        self._turn: SerialThread | None = None
        self._folder: AgeFolder | None = None
        self._in_use = Lock()

    async def __aenter__(self) -> Self:
        """Open the files and read them once to build the index."""
        self._turn = SerialThread(self._in_use)
        folder = AgeFolder(self.path, *self._keys)
        await self._in_thread(partial(folder.open, create=self._create))
        self._folder = folder
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await finish_despite_cancellation(self._in_thread(self._close))

    async def bind(self, origin: str) -> None:
        bound = await self._commit(partial(_plan_bind, origin=origin))
        require_origin(bound, origin, where=shown_path(self.path))

    async def origin(self) -> str | None:
        return await self._look(lambda index: index.store.origin)

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
        return await self._look(lambda index: index.last_run(selection))

    async def runs(self, *, limit: int) -> list[Run]:
        return await self._look(lambda index: [*reversed(index.runs.values())][:limit])

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        return await self._commit(lambda _: plan_begin(at, selection))

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        await self._commit(lambda index: _plan_finish(index, run, at), compact=at is not None)

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        places = {(user.checkpoint.username, one) for user in batch for one in user.renamed}

        def plan(index: Index) -> tuple[list[Line], Written]:
            renamed = self._opened().newest(places)
            return plan_write(index, self._bound(index), run, batch, renamed)

        return await self._commit(plan)

    async def note_missing(self, run: Run, usernames: Sequence[str]) -> None:
        await self._commit(lambda index: plan_note_missing(index, run, usernames))

    async def missing(self, run: Run) -> Missing:
        return await self._look(lambda index: index.missing(run))

    async def remove_missing(self, run: Run, *, how: Removal, at: float) -> int:
        return await self._commit(lambda index: plan_removal(index, run, how, at))

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        def known(index: Index) -> dict[str, Status]:
            found = index.of_run(run)
            return {username: found[username].status for username in usernames if username in found}

        return await self._look(known)

    async def seen(self, usernames: Sequence[str]) -> Mapping[str, str]:
        return await self._look(lambda index: index.seen(usernames))

    async def health(self, username: str | None = None) -> AsyncIterator[HealthRecord]:
        for record in await self._look(lambda index: list(index.health_records(username))):
            yield record

    async def count_health(self) -> dict[tuple[str, str], int]:
        return await self._look(lambda index: counted(index.health_records()))

    async def settle_health(self, judge: Judge) -> list[Notice]:
        return await self._commit(lambda index: health.plan_settle(index, judge))

    async def note_health(self, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float) -> None:
        await self._commit(lambda index: health.plan_note(index, sightings, policy=policy, at=at))

    async def put_health(self, records: Sequence[HealthRecord], notices: Sequence[Notice] = ()) -> None:
        await self._commit(lambda index: health.plan_put(index, records, notices))

    async def notices(self, limit: int) -> list[Notice]:
        return await self._look(lambda index: list(index.outbox.values())[:limit])

    async def forget_notices(self, notices: Sequence[Notice]) -> None:
        await self._commit(lambda index: health.plan_forget(index, [notice.id for notice in notices]))

    async def totals(self, run: Run) -> RunTotals:
        return await self._look(lambda index: index.totals(run))

    async def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        for _, checkpoint in await self._look(lambda index: sorted(index.of_run(run).items())):
            yield checkpoint

    async def get(self, username: str, secret_id: str) -> Secret | None:
        line = await self._in_thread(lambda: self._opened().find(username, secret_id))
        if line is None:
            return None
        return await self._look(lambda index: _genuine(self._bound(index), line))

    async def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        for name, secret_id, entry in await self._look(lambda index: list(index.places(username))):
            yield entry.item(name, secret_id)

    async def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        async for fingerprints, line in self._lines():
            if username in (None, line.username):
                yield line.username, _genuine(fingerprints, line)

    async def verify(self) -> Verification:
        intact, damaged = 0, []
        async for fingerprints, line in self._lines():
            if fingerprints.opened(line) is None:
                damaged.append((line.username, line.secret_id))
            else:
                intact += 1
        return Verification(intact=intact, damaged=tuple(damaged))

    async def rekey(self, key: StoreKey, *, on_progress: Progress | None = None) -> Rekeyed:
        """Rewrite everything at once: a new file replaces the old one."""
        return await finish_despite_cancellation(self._in_thread(lambda: self._rekey(key, on_progress)))

    def _rekey(self, key: StoreKey, on_progress: Progress | None) -> Rekeyed:
        folder = self._opened()
        damaged: list[tuple[str, str]] = []
        done = 0

        def recast(old: Fingerprints, new: Fingerprints, line: SecretLine) -> SecretLine:
            nonlocal done
            done += 1
            if on_progress is not None and done % PAGE == 0:
                on_progress(done)
            if old.opened(line) is not None:
                return new.fingerprinted(line)
            damaged.append((line.username, line.secret_id))
            return line

        if not folder.rewrite(key, recast):
            return Rekeyed(already=sum(1 for _ in folder.index.places()))
        return Rekeyed(resealed=done - len(damaged), damaged=tuple(damaged))

    async def _lines(self) -> AsyncIterator[tuple[Fingerprints, SecretLine]]:
        """Yield every credential's line, a page at a time, and the object that authenticates it."""
        lines = self._opened().secrets()
        fingerprints: Fingerprints | None = None
        try:
            while page := await self._in_thread(lambda: list(islice(lines, PAGE))):
                # The fingerprints of the file that the lines come from, even if the store gets a new key
                # meanwhile.
                if fingerprints is None:
                    fingerprints = await self._look(self._bound, refresh=False)
                for line in page:
                    yield fingerprints, line
        finally:
            await finish_despite_cancellation(self._in_thread(lambda: _close(lines)))

    def _bound(self, index: Index) -> Fingerprints:
        store = index.store
        if store.origin is None:
            raise not_bound(shown_path(self.path))
        return fingerprints_of(store, self._opened().key)

    async def _commit(self, plan: Planner[T], *, compact: bool = False) -> T:
        return await self._in_thread(lambda: self._opened().commit(plan, compact=compact))

    async def _look(self, question: Callable[[Index], T], *, refresh: bool = True) -> T:
        def ask() -> T:
            folder = self._opened()
            if refresh:
                folder.refresh()
            return question(folder.index)

        return await self._in_thread(ask)

    def _opened(self) -> AgeFolder:
        if self._folder is None:
            raise not_open(shown_path(self.path))
        return self._folder

    def _close(self) -> None:
        self._folder = None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._turn is None:
            raise not_open(shown_path(self.path))
        return await self._turn.run(work)


def age_store(
    url: str | StoreUrl, *, key: StoreKey, other_key: StoreKey | None = None, create: bool = True
) -> AgeStore:
    """Return the store behind ``jsonl+age:///relative.age`` or ``jsonl+age:////absolute.age``.

    Raises:
        ConfigurationError: the URL is invalid, or the driver is not installed.
    """
    url = StoreUrl.of(url)
    driver()
    path = url.path_after(_PREFIX)
    if path is None:
        raise ConfigurationError(
            "this is not the URL of a jsonl+age store",
            advice="Write jsonl+age:///relative.age or jsonl+age:////absolute.age; a ? or # as %3F or %23",
        )
    return AgeStore(path, key=key, other_key=other_key, create=create)


def _plan_bind(index: Index, *, origin: str) -> tuple[list[Line], str]:
    if index.store.origin is not None:
        return [], index.store.origin
    return [replace(index.store, origin=origin)], origin


def _plan_finish(index: Index, run: Run, at: float | None) -> tuple[list[Line], None]:
    return [RunLine(run=replace(index.require(run), finished_at=at))], None


def _genuine(fingerprints: Fingerprints, line: SecretLine) -> Secret:
    secret = fingerprints.opened(line)
    if secret is None:
        raise StoreError(
            "the stored credential is not one that this store has written: it was tampered with",
            advice="Sync this user again, which replaces it; if there are many, restore a backup",
            username=line.username,
            secret_id=line.secret_id,
        )
    return secret


def _close(lines: Iterator[SecretLine]) -> None:
    lines.close()  # type: ignore[attr-defined] # a generator
