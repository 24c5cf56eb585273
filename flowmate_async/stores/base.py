"""The seam every store fulfils, and the plain values that cross it.

A store keeps two things for one upstream: the newest credential of each (user, secret), and the checkpoints
of runs. It knows nothing of HTTP, of rates or of which users a run covers. The promises behind each
method are tested by the public conformance suite in ``flowmate_async.testing.store_suite``.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec

from flowmate_async.secrets import Secret

Status = Literal["synced", "failed"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One pass over a set of users.

    Attributes:
        id: unique within the store.
        selection: whose run it is: ``all``, or a name for a set of users; only a run of the same selection is
            resumed.
        started_at: seconds since the Unix epoch.
        finished_at: the completion mark; ``None`` while the run is incomplete.
    """

    id: str
    started_at: float
    finished_at: float | None = None
    selection: str = ""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How one user of a run ended. Holds no credential.

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


class UserWrite(msgspec.Struct, frozen=True, kw_only=True):
    """What is written for one user: the checkpoint and the credentials it vouches for, or neither."""

    checkpoint: Checkpoint
    secrets: tuple[Secret, ...] = ()


class Written(msgspec.Struct, frozen=True):
    """What a write did: credentials rewritten, and credentials found unchanged."""

    changed: int = 0
    unchanged: int = 0


class RunTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a run's checkpoints; ``errors`` counts failed users by kind of error."""

    synced: int = 0
    failed: int = 0
    secrets: int = 0
    requests: int = 0
    errors: dict[str, int] = {}


class StoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a stored credential without opening it."""

    username: str
    secret_id: str
    type: str
    expires_at: str | None
    stored_at: float


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What reading everything found: how many credentials open, and which do not."""

    intact: int
    damaged: tuple[tuple[str, str], ...] = ()


class Store(Protocol):
    """Where credentials are kept. All methods raise :class:`~flowmate_async.StoreError` on failure."""

    async def __aenter__(self) -> Self:
        """Open: check version, key and permissions; touch nothing when any of them is wrong."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; what was acknowledged is durable already."""
        ...

    async def bind(self, origin: str) -> None:
        """Tie the store to one upstream, the first time; afterwards refuse any other.

        Nothing can be written before.

        Args:
            origin: the upstream's base URL.

        Raises:
            StoreError: the store belongs to another upstream.
        """
        ...

    def exclusive_run(self) -> AbstractAsyncContextManager[None]:
        """Hold the store's run lock; released by the end of the process however it ends.

        Raises:
            CheckpointError: another run holds it.
        """
        ...

    async def last_run(self, *, selection: str | None = None) -> Run | None:
        """The run that began last, complete or not; of one selection, or of any."""
        ...

    async def begin_run(self, *, at: float, selection: str = "") -> Run:
        """Begin a run of a selection. ``at`` is in seconds since the Unix epoch.

        A store may forget the checkpoints of runs older than the previous one.
        """
        ...

    async def finish_run(self, run: Run, *, at: float | None) -> None:
        """Set the completion mark, or take it away with ``None`` so that the run can be resumed.

        Raises:
            CheckpointError: the store knows no such run.
        """
        ...

    async def write(self, run: Run, batch: Sequence[UserWrite]) -> Written:
        """Write whole users: each one's credentials and checkpoint together, all durable on return.

        A credential whose stored fingerprint is the same is not rewritten. A checkpoint replaces the user's
        earlier one of this run. On failure nothing of the batch is written.

        Raises:
            CheckpointError: the store knows no such run.
        """
        ...

    async def statuses(self, run: Run, usernames: Sequence[str]) -> Mapping[str, Status]:
        """Which of these users have a checkpoint in this run, and how they ended."""
        ...

    async def totals(self, run: Run) -> RunTotals:
        """Sums over the run's checkpoints."""
        ...

    def checkpoints(self, run: Run) -> AsyncIterator[Checkpoint]:
        """The run's checkpoints by username, in bounded memory."""
        ...

    async def get(self, username: str, secret_id: str) -> Secret | None:
        """One credential, or ``None``."""
        ...

    def items(self, username: str | None = None) -> AsyncIterator[StoredItem]:
        """What is stored, for one user or all, by username and id, without opening anything."""
        ...

    def secrets(self, username: str | None = None) -> AsyncIterator[tuple[str, Secret]]:
        """Every (username, credential), for one user or all, in bounded memory."""
        ...

    async def verify(self) -> Verification:
        """Open everything and say what does not open."""
        ...
