"""The store in memory: the same laws, nothing sealed, gone with the process.

For tests, trials and benchmarks. One instance is one store; entering it again finds what was there.
"""

# ruff: noqa: D102 - the protocol documents the methods

import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import msgspec

from flowmate_async.errors import CheckpointError, StoreError
from flowmate_async.redaction import Redacted
from flowmate_async.secrets import Secret
from flowmate_async.stores.base import (
    Checkpoint,
    Run,
    RunTotals,
    Status,
    StoredItem,
    UserWrite,
    Verification,
    Written,
)
from flowmate_async.stores.encoding import encode_secret


class _Row(Redacted, frozen=True):
    secret: Secret
    stored_at: float


class MemoryStore:
    """A store in dictionaries, see :class:`~flowmate_async.stores.Store` for the methods."""

    def __init__(self) -> None:
        self._origin: str | None = None
        self._running = False
        self._runs: dict[str, Run] = {}
        self._checkpoints: dict[str, dict[str, Checkpoint]] = {}
        self._rows: dict[tuple[str, str], _Row] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is stored stays until the instance goes."""

    async def bind(self, origin: str) -> None:
        if self._origin not in (None, origin):
            raise StoreError(
                f"the store holds credentials of {self._origin}, not of {origin}",
                advice="Use one store for each upstream",
            )
        self._origin = origin

    @asynccontextmanager
    async def exclusive_run(self) -> AsyncIterator[None]:
        if self._running:
            raise CheckpointError("another run holds this store in memory", advice="Wait for it to end")
        self._running = True
        try:
            yield
        finally:
            self._running = False

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        latest_first = reversed(self._runs.values())
        return next((run for run in latest_first if selection in (None, run.selection)), None)

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        run = Run(id=os.urandom(8).hex(), started_at=at, selection=selection)
        self._forget_checkpoints(selection)
        self._runs[run.id], self._checkpoints[run.id] = run, {}
        return run

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        self._require(run)
        self._runs[run.id] = msgspec.structs.replace(self._runs[run.id], finished_at=at)

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        self._require(run)
        if self._origin is None:
            raise StoreError("the store is not bound to an upstream", advice="Call bind(base_url) first")
        for user in batch:
            for secret in user.secrets:
                encode_secret(user.checkpoint.username, secret)  # refuse what no other store could keep
        changed = sum(self._write_user(run, user) for user in batch)
        return Written(changed, sum(len(user.secrets) for user in batch) - changed)

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        found = self._of(run)
        return {username: found[username].status for username in usernames if username in found}

    async def totals(self, run: Run) -> RunTotals:
        found = self._of(run).values()
        errors = Counter(checkpoint.error for checkpoint in found if checkpoint.status == "failed")
        return RunTotals(
            synced=len(found) - errors.total(),
            failed=errors.total(),
            secrets=sum(checkpoint.secrets for checkpoint in found),
            requests=sum(checkpoint.requests for checkpoint in found),
            errors=dict(sorted(errors.items())),
        )

    async def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        for _, checkpoint in sorted(self._of(run).items()):
            yield checkpoint

    async def get(self, username: str, secret_id: str) -> Secret | None:
        row = self._rows.get((username, secret_id))
        return None if row is None else row.secret

    async def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        for owner, row in self._sorted(username):
            moment = row.secret.expires_at
            yield StoredItem(
                username=owner,
                secret_id=row.secret.id,
                type=row.secret.type,
                expires_at=None if moment is None else moment.isoformat(),
                stored_at=row.stored_at,
            )

    async def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        for owner, row in self._sorted(username):
            yield owner, row.secret

    async def verify(self) -> Verification:
        return Verification(intact=len(self._rows))

    def _write_user(self, run: Run, user: UserWrite) -> int:
        changed = 0
        for secret in user.secrets:
            place = (user.checkpoint.username, secret.id)
            if place not in self._rows or self._rows[place].secret != secret:
                self._rows[place] = _Row(secret, user.checkpoint.at)
                changed += 1
        self._checkpoints[run.id][user.checkpoint.username] = user.checkpoint
        return changed

    def _sorted(self, username: str | None) -> list[tuple[str, _Row]]:
        places = sorted(place for place in self._rows if username in (None, place[0]))
        return [(place[0], self._rows[place]) for place in places]

    def _forget_checkpoints(self, selection: str) -> None:
        """All but the last run's of this selection: they would grow for ever."""
        for run in [run for run in self._runs.values() if run.selection == selection][:-1]:
            self._checkpoints[run.id] = {}

    def _of(self, run: Run) -> dict[str, Checkpoint]:
        return self._checkpoints.get(run.id, {})

    def _require(self, run: Run) -> None:
        if run.id not in self._runs:
            raise CheckpointError(
                "the store knows no such run", advice="Begin a run with begin_run() on this very store"
            )
