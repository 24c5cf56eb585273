"""Summary: a run in a few hundred lines, however many users it has, from its checkpoints."""

import heapq
from collections.abc import AsyncIterator

import msgspec

from flowmate_async.reporting.recorder import Observation
from flowmate_async.stores import Checkpoint, Run, RunTotals
from flowmate_async.sync.report import SyncReport

MOST_USERS_A_KIND = 50
MOST_SLOWEST = 20


class Head(msgspec.Struct, kw_only=True):
    """What is known about a run, however it ended.

    Attributes:
        run_id: the run in the store.
        complete: whether every user was tried.
        started_at: when it first began, in seconds since the Unix epoch.
        finished_at: when every user had been tried.
        totals: sums over all its users.
        call: what this call did; ``None`` if it was ended early.
        ended_early: why it was ended early.
        observed: the time series of this call.
    """

    run_id: str
    complete: bool
    started_at: float
    finished_at: float | None
    totals: RunTotals
    call: SyncReport | None
    ended_early: str | None
    observed: Observation | None = None

    @classmethod
    def of(
        cls,
        run: Run,
        totals: RunTotals,
        *,
        call: SyncReport | None,
        ended_early: str | None,
        observed: Observation | None,
    ) -> "Head":
        """The head of a run's report."""
        return cls(
            run_id=run.id,
            complete=run.finished_at is not None,
            started_at=run.started_at,
            finished_at=run.finished_at,
            totals=totals,
            call=call,
            ended_early=ended_early,
            observed=observed,
        )


class ErrorKind(msgspec.Struct, kw_only=True):
    """The users that failed with one kind of error: how many, the first few names, and one message."""

    kind: str
    users: int = 0
    named: list[str] = []
    message: str = ""


class Summary(msgspec.Struct, kw_only=True):
    """What a page shows about the users.

    Attributes:
        errors: failures by kind, most users first.
        slowest: the checkpoints of the slowest users, slowest first.
        unproven: users whose listing had no total to compare the count with.
    """

    errors: list[ErrorKind]
    slowest: list[Checkpoint]
    unproven: int


async def summarize(checkpoints: AsyncIterator[Checkpoint]) -> Summary:
    """A run's checkpoints in bounded memory."""
    kinds: dict[str, ErrorKind] = {}
    slowest: list[tuple[float, str, Checkpoint]] = []
    unproven = 0
    async for checkpoint in checkpoints:
        heapq.heappush(slowest, (checkpoint.seconds, checkpoint.username, checkpoint))
        if len(slowest) > MOST_SLOWEST:
            heapq.heappop(slowest)
        if checkpoint.status == "failed":
            _count(kinds, checkpoint)
        elif not checkpoint.listing_proven:
            unproven += 1
    return Summary(
        errors=sorted(kinds.values(), key=lambda kind: (-kind.users, kind.kind)),
        slowest=[checkpoint for _, _, checkpoint in sorted(slowest, key=lambda entry: (-entry[0], entry[1]))],
        unproven=unproven,
    )


def _count(kinds: dict[str, ErrorKind], checkpoint: Checkpoint) -> None:
    kind = kinds.setdefault(checkpoint.error, ErrorKind(kind=checkpoint.error, message=checkpoint.message))
    kind.users += 1
    if len(kind.named) < MOST_USERS_A_KIND:
        kind.named.append(checkpoint.username)
