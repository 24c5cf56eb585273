"""What a parent and its workers say to each other: usernames, ids, counts, errors. Never a credential."""

import msgspec

from flowmate_async.stats import Stats
from flowmate_async.stores.base import Run
from flowmate_async.sync.results import StoredBatch, UserResult
from flowmate_async.values.error_record import ErrorRecord
from flowmate_async.workers.stats import Counts, TrafficSnapshot


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A :class:`~flowmate_async.sync.results.UserResult` as plain values."""

    username: str
    secrets: int
    requests: int
    seconds: float
    error: ErrorRecord | None
    proves_raw_read: bool
    left: dict[str, int]

    @classmethod
    def of(cls, end: UserResult) -> "ResultRecord":
        """The record of how a user ended."""
        return cls(
            username=end.username,
            secrets=end.secrets,
            requests=end.requests,
            seconds=end.seconds,
            error=None if end.error is None else ErrorRecord.of(end.error),
            proves_raw_read=end.proves_raw_read,
            left=end.left,
        )

    def restored(self) -> UserResult:
        """How the user ended."""
        return UserResult(
            username=self.username,
            secrets=self.secrets,
            requests=self.requests,
            seconds=self.seconds,
            error=None if self.error is None else self.error.restored(),
            proves_raw_read=self.proves_raw_read,
            left=self.left,
        )


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker, first of all.

    Attributes:
        run: the run.
        settings: what the worker's own program sets itself up with.
        concurrency: how many requests it may have in flight at first.
    """

    run: Run
    settings: bytes
    concurrency: int


class Assign(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: users to read; none means that there will be no more."""

    usernames: tuple[str, ...]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: begin no further user, finish those begun."""


class Lent(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: tokens, and until when on the machine's monotonic clock they may be used."""

    tokens: int
    valid_until: float


class Allotted(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: how many requests it may have in flight from now on."""

    concurrency: int


class SlotLent(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: the slot of this number may be used."""

    number: int


class Paused(msgspec.Struct, frozen=True, tag=True):
    """Either way: upstream asked everybody to wait for so many seconds."""

    seconds: float


class More(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: so many usernames, please."""

    most: int


class Borrow(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: so many tokens at most, please."""

    most: int


class SlotWanted(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: a slot for a refresh of this OAuth client and this secret, please."""

    number: int
    auth_client_id: str | None
    secret_id: str


class SlotReturned(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the slot of this number is no longer needed, whether it was lent or not."""

    number: int


class Stored(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: these users' checkpoints are durable."""

    results: tuple[ResultRecord, ...]
    changed: int
    unchanged: int

    @classmethod
    def of(cls, batch: StoredBatch) -> "Stored":
        """The record of a batch."""
        results = tuple(ResultRecord.of(end) for end in batch.results)
        return cls(results=results, changed=batch.changed, unchanged=batch.unchanged)

    def restored(self) -> StoredBatch:
        """The batch."""
        results = tuple(end.restored() for end in self.results)
        return StoredBatch(results=results, changed=self.changed, unchanged=self.unchanged)


class Counted(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: how it goes.

    Attributes:
        counts: what it has counted since it began.
        traffic: how its flow control stands.
        keeps_to: the allotment that it heard of last.
    """

    counts: Counts
    traffic: TrafficSnapshot
    keeps_to: int

    @classmethod
    def of(cls, stats: Stats, *, keeps_to: int) -> "Counted":
        """Return what a client has counted."""
        return cls(Counts.of(stats), TrafficSnapshot.of(stats), keeps_to)


class Done(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: everything that was begun is finished."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the run cannot go on."""

    error: ErrorRecord


ToWorker = Begin | Assign | Stop | Lent | Allotted | SlotLent | Paused
ToParent = More | Borrow | SlotWanted | SlotReturned | Stored | Counted | Paused | Done | Failed
