"""Messages between a parent and its workers: usernames, ids, counts, errors. Never a credential."""

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
    missed: int
    left: dict[str, int]

    @classmethod
    def of(cls, end: UserResult) -> "ResultRecord":
        """Return the record of a user's result."""
        return cls(
            username=end.username,
            secrets=end.secrets,
            requests=end.requests,
            seconds=end.seconds,
            error=None if end.error is None else ErrorRecord.of(end.error),
            proves_raw_read=end.proves_raw_read,
            missed=end.missed,
            left=end.left,
        )

    def restored(self) -> UserResult:
        """Return the user's result."""
        return UserResult(
            username=self.username,
            secrets=self.secrets,
            requests=self.requests,
            seconds=self.seconds,
            error=None if self.error is None else self.error.restored(),
            proves_raw_read=self.proves_raw_read,
            missed=self.missed,
            left=self.left,
        )


class Begin(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: the first message.

    Attributes:
        run: the run.
        settings: the configuration of the worker's program.
        concurrency: how many requests it may have in flight at first.
    """

    run: Run
    settings: bytes
    concurrency: int


class Assign(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: users to read; empty when there will be no more."""

    usernames: tuple[str, ...]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: start no further user, finish those in flight."""


class Lent(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: tokens, and their expiry on the machine's monotonic clock."""

    tokens: int
    valid_until: float


class Allotted(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: how many requests it may have in flight from now on."""

    concurrency: int


class SlotLent(msgspec.Struct, frozen=True, tag=True):
    """Parent to worker: the slot with this number may be used."""

    number: int


class Paused(msgspec.Struct, frozen=True, tag=True):
    """Both directions: upstream asked everyone to wait for this many seconds."""

    seconds: float


class More(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: request for this many usernames."""

    most: int


class Borrow(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: request for at most this many tokens."""

    most: int


class SlotWanted(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: request for a slot to refresh this secret of this OAuth client."""

    number: int
    auth_client_id: str | None
    secret_id: str


class SlotReturned(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the slot with this number is not needed any more, lent or not."""

    number: int


class Stored(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: these users' checkpoints are durable."""

    results: tuple[ResultRecord, ...]
    changed: int
    unchanged: int

    @classmethod
    def of(cls, batch: StoredBatch) -> "Stored":
        """Return the record of a batch."""
        results = tuple(ResultRecord.of(end) for end in batch.results)
        return cls(results=results, changed=batch.changed, unchanged=batch.unchanged)

    def restored(self) -> StoredBatch:
        """Return the batch."""
        results = tuple(end.restored() for end in self.results)
        return StoredBatch(results=results, changed=self.changed, unchanged=self.unchanged)


class Counted(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: a status report.

    Attributes:
        counts: its counters since it began.
        traffic: the state of its flow control.
        keeps_to: the last allotment that it received.
    """

    counts: Counts
    traffic: TrafficSnapshot
    keeps_to: int

    @classmethod
    def of(cls, stats: Stats, *, keeps_to: int) -> "Counted":
        """Return a client's counters."""
        return cls(Counts.of(stats), TrafficSnapshot.of(stats), keeps_to)


class Done(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: everything that was started is finished."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Worker to parent: the run cannot go on."""

    error: ErrorRecord


ToWorker = Begin | Assign | Stop | Lent | Allotted | SlotLent | Paused
ToParent = More | Borrow | SlotWanted | SlotReturned | Stored | Counted | Paused | Done | Failed
