"""The in-memory store: same laws, nothing sealed, lost with the process.

For tests, trials and benchmarks. One instance is one store; entering it again finds the same data.
"""

# ruff: noqa: D102 - the protocol documents the methods

import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from flowmate_async.errors import RunInProgressError
from flowmate_async.health.policy import HealthPolicy
from flowmate_async.health.records import HealthRecord, Notice, Sighting
from flowmate_async.redaction import Redacted
from flowmate_async.stores.base import (
    Checkpoint,
    Missing,
    RecordKey,
    Removal,
    Run,
    RunTotals,
    Status,
    StoredItem,
    UserWrite,
    Verification,
    Written,
    is_proven,
    no_such_run,
    totals_of,
)
from flowmate_async.stores.encoding import encode_secret
from flowmate_async.stores.health import Judge, counted, health_changes, noted, users_of
from flowmate_async.stores.sealed.meta import not_bound, require_origin
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret

_HERE = "in memory"


class _Row(Redacted, frozen=True):
    secret: Secret
    stored_at: float
    missing_run: str | None = None
    removed_at: float | None = None


class MemoryStore:
    """A store in dictionaries, see :class:`~flowmate_async.stores.Store` for the methods."""

    def __init__(self) -> None:
        self._origin: str | None = None
        self._running = False
        self._runs: dict[str, Run] = {}
        self._checkpoints: dict[str, dict[str, Checkpoint]] = {}
        self._rows: dict[str, dict[str, _Row]] = {}
        self._tokens: dict[str, KeptToken] = {}
        self._health: dict[str, dict[str, HealthRecord]] = {}
        self._outbox: dict[str, Notice] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the data: it lives as long as the instance."""

    async def bind(self, origin: str) -> None:
        if self._origin is not None:
            require_origin(self._origin, origin, where=_HERE)
        self._origin = origin

    async def origin(self) -> str | None:
        return self._origin

    @asynccontextmanager
    async def exclusive_run(self) -> AsyncIterator[None]:
        if self._running:
            raise RunInProgressError("another run holds this store in memory", advice="Wait for it to end")
        self._running = True
        try:
            yield
        finally:
            self._running = False

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        latest_first = reversed(self._runs.values())
        return next((run for run in latest_first if selection in (None, run.selection)), None)

    async def runs(self, *, limit: int) -> list[Run]:
        return [*reversed(self._runs.values())][:limit]

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
        self._forget_checkpoints(selection)
        self._runs[run.id], self._checkpoints[run.id] = run, {}
        return run

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        self._require(run)
        self._runs[run.id] = replace(self._runs[run.id], finished_at=at)

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        self._require(run)
        if self._origin is None:
            raise not_bound(_HERE)
        for user in batch:
            for secret in user.secrets:
                encode_secret(user.checkpoint.username, secret)  # refuse what no other store could keep
        changed = sum(self._write_user(run, user) for user in batch)
        return Written(changed, sum(len(user.secrets) for user in batch) - changed)

    async def note_missing(self, run: Run, usernames: Sequence[str]) -> None:
        self._require(run)
        for username in usernames:
            rows = self._rows.get(username, {})
            rows.update({secret_id: replace(row, missing_run=run.id) for secret_id, row in rows.items()})
            self._tokens.pop(username, None)
            self._health.pop(username, None)

    async def missing(self, run: Run) -> Missing:
        judged = [row for row in self._judged(run) if row.removed_at is None]
        return Missing(missing=sum(row.missing_run == run.id for row in judged), stored=len(judged))

    async def remove_missing(self, run: Run, *, how: Removal, at: float) -> int:
        removed = 0
        for rows in self._rows.values():
            for secret_id, row in list(rows.items()):
                if row.missing_run != run.id or (how == "mark" and row.removed_at is not None):
                    continue
                removed += 1
                if how == "delete":
                    del rows[secret_id]
                else:
                    rows[secret_id] = replace(row, removed_at=at)
        return removed

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        found = self._of(run)
        return {username: found[username].status for username in usernames if username in found}

    async def seen(self, usernames: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for checkpoints in self._checkpoints.values():  # the newest run is the last
            found |= {name: checkpoints[name].seen for name in usernames if name in checkpoints}
        return found

    async def kept_tokens(self, usernames: Sequence[str]) -> Mapping[str, KeptToken]:
        return {name: self._tokens[name] for name in usernames if name in self._tokens}

    async def forget_tokens(self, *, used_before: float) -> None:
        self._tokens = {name: kept for name, kept in self._tokens.items() if not kept.used_at < used_before}

    async def health(self, username: str | None = None) -> AsyncIterator[HealthRecord]:
        for name in sorted(self._health) if username is None else [username]:
            for _, record in sorted(self._health.get(name, {}).items()):
                yield record

    async def count_health(self) -> dict[tuple[str, str], int]:
        return counted(record for records in self._health.values() for record in records.values())

    async def settle_health(self, judge: Judge) -> list[Notice]:
        records = [record async for record in self.health()]
        done = [(record, judge(record)) for record in records]
        notices = [one.notice for _, one in done if one.notice is not None]
        self._put_health([one.record for _, one in done if one.record is not None])
        self._drop_health(record.place for record, one in done if one.record is None)
        self._outbox |= {notice.id: notice for notice in notices}
        return notices

    async def note_health(self, sightings: Sequence[Sighting], *, policy: HealthPolicy, at: float) -> None:
        records = [record for name in users_of(sightings) for record in self._health.get(name, {}).values()]
        changes = noted(sightings, records, policy=policy, at=at)
        self._put_health(changes.put)
        self._drop_health(changes.gone)

    async def put_health(self, records: Sequence[HealthRecord], notices: Sequence[Notice] = ()) -> None:
        self._put_health(records)
        for notice in notices:
            self._outbox.setdefault(notice.id, notice)

    async def notices(self, limit: int) -> list[Notice]:
        return list(self._outbox.values())[:limit]

    async def forget_notices(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self._outbox.pop(notice.id, None)

    async def totals(self, run: Run) -> RunTotals:
        return totals_of(list(self._of(run).values()))

    async def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        for _, checkpoint in sorted(self._of(run).items()):
            yield checkpoint

    async def get(self, username: str, secret_id: str) -> Secret | None:
        row = self._rows.get(username, {}).get(secret_id)
        return None if row is None else row.secret

    async def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        for owner, row in self._sorted(username):
            moment = row.secret.expires_at
            yield StoredItem(
                username=owner,
                secret_id=row.secret.id,
                type=row.secret.kind,
                expires_at=None if moment is None else moment.isoformat(),
                stored_at=row.stored_at,
                removed_at=row.removed_at,
            )

    async def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        for owner, row in self._sorted(username):
            yield owner, row.secret

    async def verify(self) -> Verification:
        return Verification(intact=sum(len(rows) for rows in self._rows.values()))

    def _write_user(self, run: Run, user: UserWrite) -> int:
        username = user.checkpoint.username
        rows = self._rows.setdefault(username, {})
        changed: list[str] = []
        for secret in user.secrets:
            if secret.id not in rows or rows[secret.id].secret != secret:
                rows[secret.id] = _Row(secret, user.checkpoint.at)
                changed.append(secret.id)
        for secret_id, name in user.renamed.items():
            if secret_id in rows:
                secret = replace(rows[secret_id].secret, name=name)
                rows[secret_id] = replace(rows[secret_id], secret=secret, stored_at=user.checkpoint.at)
        present = set(user.present)
        for secret_id, row in rows.items():
            if secret_id in present:
                rows[secret_id] = replace(row, missing_run=None, removed_at=None)
            elif user.listed is not None:
                rows[secret_id] = replace(row, missing_run=run.id)
        self._checkpoints[run.id][username] = user.checkpoint
        self._tokens.pop(username, None)
        if user.token is not None:
            self._tokens[username] = user.token
        self._write_health(user, changed)
        return len(changed)

    def _write_health(self, user: UserWrite, changed: Sequence[str]) -> None:
        username = user.checkpoint.username
        records = self._health.get(username, {}).values()
        changes = health_changes([user], records, [(username, one) for one in changed])
        self._put_health(changes.put)
        self._drop_health(changes.gone)

    def _put_health(self, records: Iterable[HealthRecord]) -> None:
        for record in records:
            self._health.setdefault(record.username, {})[record.secret_id] = record

    def _drop_health(self, places: Iterable[RecordKey]) -> None:
        for username, secret_id in places:
            self._health[username].pop(secret_id, None)

    def _sorted(self, username: str | None) -> list[tuple[str, _Row]]:
        names = sorted(self._rows) if username is None else [username]
        return [(name, row) for name in names for _, row in sorted(self._rows.get(name, {}).items())]

    def _judged(self, run: Run) -> Iterator[_Row]:
        """Yield the stored credentials of users whose listings the run proved, and those noted as missing."""
        for username, rows in self._rows.items():
            proven = is_proven(self._of(run).get(username))
            yield from (row for row in rows.values() if proven or row.missing_run == run.id)

    def _forget_checkpoints(self, selection: str) -> None:
        """Drop all checkpoints but the last run's of this selection: they would grow forever."""
        for run in [run for run in self._runs.values() if run.selection == selection][:-1]:
            self._checkpoints[run.id] = {}

    def _of(self, run: Run) -> dict[str, Checkpoint]:
        return self._checkpoints.get(run.id, {})

    def _require(self, run: Run) -> None:
        if run.id not in self._runs:
            raise no_such_run()
