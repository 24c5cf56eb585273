"""A store over a service that keeps documents: one per user, written with check-and-set.

A user's credentials and checkpoint are one document, so they are written together or not at all. A batch of
several users has no transaction: after a failure some users are written, each wholly. Sums over a run read
every user's document. Nothing here knows a service.
"""

# ruff: noqa: D102 - the protocol documents the methods

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Self

from msgspec import UNSET
from msgspec.structs import replace

from flowmate_async.clock import Clock, SystemClock
from flowmate_async.errors import StoreError, StoreMissingError
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
    no_such_run,
    totals_of,
)
from flowmate_async.stores.documents import health, rules
from flowmate_async.stores.documents.base import (
    STATE,
    Document,
    DocumentRefused,
    Documents,
    StoreState,
    UserDocument,
    judged,
    name_of,
    opened,
    state_of,
    stored_secret,
    updated,
    username_of,
)
from flowmate_async.stores.documents.run_lease import held_lease
from flowmate_async.stores.documents.users import UserDocuments
from flowmate_async.stores.documents.writes import check_and_set, gather_limited
from flowmate_async.stores.health import Judge, users_of
from flowmate_async.stores.sealed.meta import not_bound, not_open, require_origin
from flowmate_async.system.finishing import finish_despite_cancellation
from flowmate_async.values.secrets import Secret


class DocumentStore:
    """A store in a service, see :class:`~flowmate_async.stores.Store` for the methods.

    Cancellation: a user's document that is being written is finished.

    Args:
        documents: the service.
        create: make the store when it is missing; otherwise that is an error.
        clock: tells when a lease of the run lock has ended.
    """

    def __init__(self, documents: Documents, *, create: bool = True, clock: Clock | None = None) -> None:
        self._documents = documents
        self._create = create
        self._clock = clock or SystemClock()
        self._users = UserDocuments(documents, require_open=self._require_open, sleep=self._clock.sleep)
        self._open = False
        self._bound = False
        self._runs: dict[str, Run] = {}
        self._refused: Mapping[str, Mapping[str, Checkpoint]] = {}

    async def __aenter__(self) -> Self:
        """Connect; read the store's own document, or create it."""
        await self._documents.__aenter__()
        try:
            await self._prepare()
        except BaseException:
            await finish_despite_cancellation(self._documents.__aexit__(None, None, None))
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        await finish_despite_cancellation(self._documents.__aexit__(kind, error, trace))

    async def bind(self, origin: str) -> None:
        state = await self._change(lambda state: replace(state, origin=state.origin or origin))
        require_origin(state.origin, origin, where=self._documents.where)

    async def origin(self) -> str | None:
        return (await self._state()).origin

    def exclusive_run(self) -> AbstractAsyncContextManager[None]:
        service = self._documents
        return held_lease(self._change, clock=self._clock, seconds=service.lease_seconds, where=service.where)

    async def is_running(self) -> bool:
        lease = (await self._state()).lease
        return lease is not None and lease.until > self._clock.wall()

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        latest_first = reversed((await self._state()).runs)
        return next((run for run in latest_first if selection in (None, run.selection)), None)

    async def runs(self, *, limit: int) -> list[Run]:
        return [*reversed((await self._state()).runs)][:limit]

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
        await self._change(lambda state: replace(state, runs=rules.kept((*state.runs, run))))
        return run

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        def finish(state: StoreState) -> StoreState:
            if run.id not in {known.id for known in state.runs}:
                raise no_such_run()
            return replace(
                state,
                runs=tuple(
                    replace(known, finished_at=at) if known.id == run.id else known for known in state.runs
                ),
            )

        await self._change(finish)

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        await self._require(run)
        if not self._bound:
            raise not_bound(self._documents.where)
        by_user: dict[str, list[UserWrite]] = {}
        for user in batch:
            for secret in user.secrets:  # refuse the batch before any of it is written
                stored_secret(user.checkpoint.username, secret, at=0)
            by_user.setdefault(user.checkpoint.username, []).append(user)
        refused: dict[str, DocumentRefused] = {}

        async def write(item: tuple[str, list[UserWrite]]) -> tuple[int, int]:
            username, writes = item
            try:
                changed = await self._write_user(run, username, writes)
            except DocumentRefused as refusal:
                refused[username] = refusal
                return 0, 0
            return changed, sum(len(user.secrets) for user in writes) - changed

        counts = await gather_limited(write, by_user.items())
        await self._note_refused(run, refused, batch)
        changed, unchanged = (sum(part) for part in zip(*counts, strict=True)) if counts else (0, 0)
        return Written(changed, unchanged, refused)

    async def note_missing(self, run: Run, usernames: Sequence[str]) -> None:
        await self._require(run)

        def note(user: UserDocument) -> UserDocument:
            noted = {one: replace(stored, missing_run=run.id) for one, stored in user.secrets.items()}
            return replace(user, secrets=noted, health=UNSET)

        await gather_limited(lambda username: self._users.change(username, note), usernames)

    async def missing(self, run: Run) -> Missing:
        gone = stored = 0
        async for user in self._users.all():
            found = judged(user, run)
            gone, stored = gone + sum(one.missing_run == run.id for one in found), stored + len(found)
        return Missing(missing=gone, stored=stored)

    async def remove_missing(self, run: Run, *, how: Removal, at: float) -> int:
        removed = 0
        async for user in self._users.all():
            gone = [one for one, stored in user.secrets.items() if stored.missing_run == run.id]
            if how == "mark":
                gone = [one for one in gone if user.secrets[one].removed_at is None]
            if gone:
                await self._remove(user.username, run, how=how, at=at)
                removed += len(gone)
        return removed

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        users = [user async for user in self._users.named(usernames) if run.id in user.checkpoints]
        refused = self._refused.get(run.id, {})
        return {user.username: user.checkpoints[run.id].status for user in users} | {
            name: refused[name].status for name in usernames if name in refused
        }

    async def seen(self, usernames: Sequence[str]) -> Mapping[str, str]:
        newest_last = [(user, list(user.checkpoints.values())) async for user in self._users.named(usernames)]
        return {user.username: ends[-1].seen for user, ends in newest_last if ends}

    async def health(self, username: str | None = None) -> AsyncIterator[HealthRecord]:
        async for user in self._users.all(username):
            for record in health.records_of(user):
                yield record

    async def settle_health(self, judge: Judge) -> list[Notice]:
        notices: list[Notice] = []
        async for user in self._users.all():
            if user.health:
                notices += await self._settle(user.username, judge)
        return notices

    async def note_health(self, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float) -> None:
        for username in users_of(sightings):
            seen = [one for one in sightings if one.credential.username == username]
            note = partial(health.with_sightings, sightings=seen, policy=policy, at=at)
            await self._users.change(username, note, create=True)

    async def put_health(self, records: Sequence[HealthRecord], notices: Sequence[Notice] = ()) -> None:
        names = {record.username for record in records} | {one.credential.username for one in notices}

        def put(user: UserDocument) -> UserDocument:
            name = user.username
            found = health.with_records(user, [one for one in records if one.username == name])
            return health.with_notices(found, [one for one in notices if one.credential.username == name])

        await gather_limited(lambda username: self._users.change(username, put, create=True), sorted(names))

    async def notices(self, limit: int) -> list[Notice]:
        return health.oldest_first([user async for user in self._users.all() if user.notices])[:limit]

    async def forget_notices(self, notices: Sequence[Notice]) -> None:
        forget = partial(health.without_notices, ids=frozenset(notice.id for notice in notices))
        names = {notice.credential.username for notice in notices}
        await gather_limited(lambda username: self._users.change(username, forget), sorted(names))

    async def totals(self, run: Run) -> RunTotals:
        return totals_of([checkpoint async for checkpoint in self.checkpoints(run)])

    async def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        refused = dict((await self._state()).refused.get(run.id, {}))
        async for user in self._users.all():
            for name in sorted(name for name in refused if name < user.username):
                yield refused.pop(name)
            if found := refused.pop(user.username, None) or user.checkpoints.get(run.id):
                yield found
        for _, checkpoint in sorted(refused.items()):
            yield checkpoint

    async def get(self, username: str, secret_id: str) -> Secret | None:
        for user in await self._users.read([name_of(username)], on_rejected=rules.refuse):
            if secret_id in user.secrets:
                return rules.opened_secret(user, secret_id)
        return None

    async def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        async for user in self._users.all(username):
            for item in user.items():
                yield item

    async def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        async for user in self._users.all(username, on_rejected=rules.refuse):
            for secret_id in sorted(user.secrets):
                yield user.username, rules.opened_secret(user, secret_id)

    async def verify(self) -> Verification:
        damaged: list[tuple[str, str]] = []
        intact = 0
        async for user in self._users.all(
            on_rejected=lambda name, _: damaged.append((username_of(name) or name, "*"))
        ):
            for secret_id, stored in sorted(user.secrets.items()):
                if opened(stored, secret_id) is None:
                    damaged.append((user.username, secret_id))
                else:
                    intact += 1
        return Verification(intact=intact, damaged=tuple(damaged))

    async def _prepare(self) -> None:
        found = await self._documents.read(STATE)
        if found is not None and not found.is_gone:
            self._note(state_of(found, where=self._documents.where))
        elif self._create:
            await self._change(lambda state: state)
        else:
            where = self._documents.where
            raise StoreMissingError(f"there is no store {where}", advice="Check the store's URL")

    async def _state(self) -> StoreState:
        self._require_open()
        found = await self._documents.read(STATE)
        if found is None or found.is_gone:
            raise StoreError(
                f"the store {self._documents.where} is gone: its document '{STATE}' was deleted",
                advice="Restore that document, or sync again, which makes a new one",
            )
        return self._note(state_of(found, where=self._documents.where))

    async def _change(self, change: Callable[[StoreState], StoreState]) -> StoreState:
        """Change the store's own document, on top of what others have written."""

        def changed(found: Document | None) -> StoreState:
            before = StoreState() if found is None else state_of(found, where=self._documents.where)
            return change(before)

        return self._note(await check_and_set(self._documents, STATE, changed, sleep=self._clock.sleep))

    def _note(self, state: StoreState) -> StoreState:
        self._bound = state.origin is not None
        self._runs = {run.id: run for run in state.runs}
        self._refused = state.refused
        return state

    def _require_open(self) -> None:
        if not self._open:
            raise not_open(self._documents.where)

    async def _require(self, run: Run) -> None:
        """Look up a run that this process does not know yet."""
        self._require_open()
        if run.id not in self._runs or not self._bound:
            await self._state()
        if run.id not in self._runs:
            raise no_such_run()

    async def _write_user(self, run: Run, username: str, writes: list[UserWrite]) -> int:
        changed = 0

        def write(user: UserDocument) -> UserDocument:
            nonlocal changed
            changed = 0
            for one in writes:
                user, count = updated(user, run, one)
                changed += count
            known = {run_id: one for run_id, one in user.checkpoints.items() if run_id in self._runs}
            return replace(user, checkpoints=known)

        await self._users.change(username, write, create=True)
        return changed

    async def _note_refused(
        self, run: Run, refused: Mapping[str, DocumentRefused], batch: Sequence[UserWrite]
    ) -> None:
        """Checkpoint refused users in the store's own document; drop those written since."""
        ends = rules.refused_ends(batch, refused)
        written = frozenset(user.checkpoint.username for user in batch).difference(ends)
        if ends or written & self._refused.get(run.id, {}).keys():
            state = await self._change(lambda state: rules.with_refused(state, run, ends, written))
            rules.require_few(state, run, refused)

    async def _settle(self, username: str, judge: Judge) -> list[Notice]:
        notices: list[Notice] = []

        def settle(user: UserDocument) -> UserDocument:
            nonlocal notices
            user, notices = health.settled(user, judge)
            return user

        await self._users.change(username, settle)
        return notices

    async def _remove(self, username: str, run: Run, *, how: Removal, at: float) -> None:
        left = UserDocument(username=username)

        def remove(user: UserDocument) -> UserDocument:
            nonlocal left
            left = rules.without_missing(user, run, how=how, at=at)
            return left

        await self._users.change(username, remove)
        if not left.secrets and not left.notices and run.id not in left.checkpoints:
            await self._documents.delete(name_of(username))
