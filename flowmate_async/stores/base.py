"""The protocol that every store implements, and the plain values that cross it.

A store keeps two things for one upstream: the newest credential of each (user, secret), and the checkpoints
of runs. It knows nothing of HTTP, of rates or of which users a run covers. The promises behind each
method are tested by the public conformance suite in ``flowmate_async.testing.store_suite``.
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec

from flowmate_async.errors import CheckpointError, ConfigurationError, StoreError
from flowmate_async.health.records import Watch
from flowmate_async.values.models import KeptToken
from flowmate_async.values.secrets import Secret

__all__ = [
    "Checkpoint",
    "Missing",
    "Removal",
    "Run",
    "RunTotals",
    "Status",
    "Store",
    "StoredItem",
    "UserWrite",
    "Verification",
    "Written",
    "is_proven",
    "no_such_run",
    "totals_of",
]

Status = Literal["synced", "failed"]
"""A user's outcome: everything is stored, or something could not be fetched."""

Removal = Literal["mark", "delete"]
"""What happens to stored credentials that upstream no longer has."""

RecordKey = tuple[str, str]
"""Username and secret id: the key of a stored credential."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One pass over a set of users.

    Attributes:
        id: unique within the store.
        selection: which users the run covers and what it was asked to do, as one opaque name; only a run of
            the same selection is resumed.
        started_at: seconds since the Unix epoch.
        finished_at: the completion mark, in seconds since the epoch; ``None`` while the run is incomplete.
    """

    id: str
    started_at: float
    finished_at: float | None = None
    selection: str = ""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Checkpoint: the outcome of one user in a run. Holds no credential.

    Attributes:
        username: the user.
        status: ``synced`` or ``failed``.
        secrets: how many credentials were stored or found unchanged.
        requests: how many requests the user took.
        seconds: how long the user took.
        at: when it ended, in seconds since the Unix epoch.
        error: the error's kind, as ``masked_secret``; empty when synced.
        message: the error's text; empty when synced.
        listing_proven: whether the listing was proven complete.
        seen: what the user's listing showed, for the next sync to compare with; opaque to the store.
        renewed: how many credentials of each OAuth client were renewed, as JSON; opaque to the store.
    """

    username: str
    status: Status
    secrets: int = 0
    requests: int = 0
    seconds: float = 0.0
    at: float = 0.0
    error: str = ""
    message: str = ""
    listing_proven: bool = True
    seen: str = ""
    renewed: str = ""


class UserWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is written for one user: the checkpoint and the credentials it vouches for, or neither.

    Attributes:
        checkpoint: how the user ended.
        secrets: the credentials.
        listed: the ids of the user's listing, proven complete: any other stored credential of the user is
            noted as missing. ``None`` when nothing is proven.
        token: the user's token, for a store that keeps tokens (``kept_tokens.py``); ``None`` drops any
            earlier token.
        renamed: new names by secret id, for credentials that were listed but not fetched. Replaces the name
            of a stored credential; an id that is not stored is ignored.
        watch: observed credential health, for a store that keeps it (``health.py``); ``None`` leaves the
            stored records unchanged.
    """

    checkpoint: Checkpoint
    secrets: tuple[Secret, ...] = ()
    listed: tuple[str, ...] | None = None
    token: KeptToken | None = None
    renamed: Mapping[str, str] = {}
    watch: Watch | None = None

    @property
    def present(self) -> tuple[str, ...]:
        """The ids of credentials that upstream certainly has."""
        return (*(secret.id for secret in self.secrets), *self.renamed, *(self.listed or ()))


class Written(msgspec.Struct, frozen=True):
    """What a write did with the fetched credentials; renames are not counted.

    Attributes:
        changed: credentials written.
        unchanged: credentials that were already stored with this value.
        refused: usernames whose record the store's service refused; their checkpoints say so, and the other
            users are written.
    """

    changed: int = 0
    unchanged: int = 0
    refused: Mapping[str, StoreError] = {}


class RunTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a run's checkpoints.

    Attributes:
        synced: users whose credentials are all stored.
        failed: users for whom something could not be fetched.
        secrets: credentials stored or found unchanged.
        requests: requests that the users took.
        errors: failed users by kind of error, as ``refresh_failed``.
    """

    synced: int = 0
    failed: int = 0
    secrets: int = 0
    requests: int = 0
    errors: dict[str, int] = {}


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """What upstream no longer has, out of what a run can judge; already marked credentials are not counted.

    Attributes:
        missing: credentials that, as the run proved, upstream no longer has.
        stored: stored credentials of the users whose listings it proved, including the missing ones.
    """

    missing: int
    stored: int

    @property
    def share(self) -> float:
        """Share of the stored credentials that are missing, from 0 to 1."""
        return self.missing / self.stored if self.stored else 0.0


class StoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of a stored credential, readable without decrypting it.

    Attributes:
        username: the user.
        secret_id: the secret's id.
        type: upstream's word for its type.
        expires_at: when it expires, in ISO 8601; ``None`` when it does not, or when that is not known.
        stored_at: when it was written, in seconds since the Unix epoch.
        removed_at: when it was marked as removed upstream, in seconds since the epoch; ``None`` if it was
            not.
    """

    username: str
    secret_id: str
    type: str
    expires_at: str | None
    stored_at: float
    removed_at: float | None = None


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of verifying a store.

    Attributes:
        intact: credentials that can be decrypted.
        damaged: username and secret id of each credential that cannot.
    """

    intact: int
    damaged: tuple[tuple[str, str], ...] = ()


def is_proven(checkpoint: Checkpoint | None) -> bool:
    """Return whether this user's listing was proven complete, so that whatever it lacks is missing."""
    return checkpoint is not None and checkpoint.status == "synced" and checkpoint.listing_proven


def totals_of(checkpoints: Sequence[Checkpoint]) -> RunTotals:
    """Return sums over checkpoints."""
    errors = Counter(checkpoint.error for checkpoint in checkpoints if checkpoint.status == "failed")
    return RunTotals(
        synced=len(checkpoints) - errors.total(),
        failed=errors.total(),
        secrets=sum(checkpoint.secrets for checkpoint in checkpoints),
        requests=sum(checkpoint.requests for checkpoint in checkpoints),
        errors=dict(sorted(errors.items())),
    )


def require_store(store: object) -> None:
    """Refuse a URL or path in place of a store.

    Args:
        store: what was passed for one.

    Raises:
        ConfigurationError: it is a URL or a path.
    """
    if isinstance(store, str | os.PathLike):
        raise ConfigurationError(
            "the store is a URL or a path", advice="Enter it first: async with open_store(url) as store"
        )


def no_such_run() -> CheckpointError:
    """Return the error for a run that this store does not know."""
    return CheckpointError(
        "the store knows no such run", advice="Begin a run with begin_run() on this very store"
    )


class Store(Protocol):
    """Where credentials are kept. All methods raise :class:`~flowmate_async.StoreError` on failure."""

    async def __aenter__(self) -> Self:
        """Open: check version, key and permissions. Change nothing if any of them is wrong."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. Acknowledged writes are already durable."""
        ...

    async def bind(self, origin: str) -> None:
        """Bind the store to one upstream on the first call; later refuse any other.

        Nothing can be written before this.

        Args:
            origin: the upstream's base URL.

        Raises:
            StoreError: the store belongs to another upstream.
        """
        ...

    async def origin(self) -> str | None:
        """Return the upstream that the store is bound to; ``None`` when it is not bound yet."""
        ...

    def exclusive_run(self) -> AbstractAsyncContextManager[None]:
        """Hold the store's run lock. It is released when the process ends, however it ends.

        A store that cannot notice the end of a process releases it soon after. The holder is told if the lock
        is lost.

        Raises:
            RunInProgressError: another run holds it.
        """
        ...

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        """Return the most recently begun run, complete or not; of one selection, or of any."""
        ...

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        """Begin a run of a selection. ``at`` is in seconds since the Unix epoch.

        A store may forget the checkpoints of runs older than the previous one.
        """
        ...

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        """Set the completion mark, or remove it so that the run can be resumed.

        Args:
            run: the run.
            at: the mark, in seconds since the Unix epoch; ``None`` removes it.

        Raises:
            CheckpointError: the store does not know this run.
        """
        ...

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        """Write whole users: each one's credentials and checkpoint together, all durable on return.

        A credential whose stored fingerprint is the same is not rewritten. A checkpoint replaces the user's
        earlier one of this run. On failure nothing of the batch is written; in a store without transactions
        over several users, each user is written wholly or not at all. Nothing is ever removed: what a proven
        listing lacks is noted as missing, until it is written or listed again.

        Raises:
            CheckpointError: the store does not know this run.
        """
        ...

    async def note_missing(self, run: Run, usernames: Sequence[str]) -> None:
        """Note all credentials of these users as missing: upstream has the users no longer.

        Args:
            run: the run that found it out.
            usernames: the users.

        Raises:
            CheckpointError: the store does not know this run.
        """
        ...

    async def missing(self, run: Run) -> Missing:
        """Return how much this run noted as missing, out of how much it could judge."""
        ...

    async def remove_missing(self, run: Run, *, how: Removal, at: float) -> int:
        """Mark or delete (``how``) what this run noted as missing. Return the number of credentials.

        A marked credential stays readable, and loses the mark once upstream has it again. ``at`` is in
        seconds since the Unix epoch.
        """
        ...

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        """Return the statuses of those of these users that have a checkpoint in this run.

        Args:
            run: the run.
            usernames: the users to look up.
        """
        ...

    async def seen(self, usernames: Sequence[str]) -> Mapping[str, str]:
        """Return the ``seen`` of each of these users' newest checkpoints, of any run.

        Args:
            usernames: the users.
        """
        ...

    async def totals(self, run: Run) -> RunTotals:
        """Return sums over the run's checkpoints."""
        ...

    def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        """Yield the run's checkpoints by username, in bounded memory."""
        ...

    async def get(self, username: str, secret_id: str) -> Secret | None:
        """Return one credential, or ``None``.

        Args:
            username: the user.
            secret_id: the secret.
        """
        ...

    def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        """Yield the entries of one user or all, by username and id, without decrypting anything."""
        ...

    def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        """Yield every (username, credential), for one user or all, in bounded memory."""
        ...

    async def verify(self) -> Verification:
        """Decrypt everything and report what cannot be decrypted."""
        ...
