"""How users ended, once that is in the store: what is left of an outcome when its credentials are put away.

Plain values, so that they can come from another process as well.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from flowmate_async.contract.masks import proves_raw_read
from flowmate_async.errors import FlowMateError
from flowmate_async.stores.base import Run
from flowmate_async.sync.outcomes import Outcome, UserFailed
from flowmate_async.sync.source import Usernames


class UserEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How one user ended; the checkpoint that says so is durable.

    Attributes:
        username: the user.
        secrets: how many credentials were stored or found unchanged.
        requests: how many requests it took.
        seconds: how long it took.
        error: the first failure; ``None`` when the user was synced.
        left: how many credentials were left as they are stored, by why.
        proves_raw_read: whether a credential came in clear of a type that upstream masks.
    """

    username: str
    secrets: int = 0
    requests: int = 0
    seconds: float = 0.0
    error: FlowMateError | None = None
    left: dict[str, int] = {}
    proves_raw_read: bool = False


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Users whose checkpoints were written together, and the credentials rewritten or found unchanged.

    Attributes:
        ends: how they ended.
        changed: credentials rewritten.
        unchanged: credentials found unchanged.
        requests: requests that ``ends`` do not tell of.
        counted: whether ``changed``, ``unchanged`` and what ``ends`` left are known.
    """

    ends: tuple[UserEnd, ...]
    changed: int = 0
    unchanged: int = 0
    requests: int = 0
    counted: bool = True


class Executor(Protocol):
    """Whoever reads the users of a run and writes them into its store: this process, or many."""

    def execute(
        self, run: Run, usernames: Usernames, *, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[StoredBatch, None]:
        """Read and store these users; what is yielded is durable.

        Args:
            run: the run they are checkpointed in.
            usernames: any iterable or async iterable.
            stop: when set, no further user is begun; those begun are finished.
        """
        ...


def ended(outcome: Outcome, refused: FlowMateError | None = None) -> UserEnd:
    """Return what is left of an outcome that was stored.

    Args:
        outcome: how the user was read.
        refused: why the store could not keep this user, if it could not.
    """
    return UserEnd(
        username=outcome.username,
        secrets=0 if refused is not None else vouched_for(outcome),
        requests=outcome.requests,
        seconds=outcome.seconds,
        error=refused or (outcome.error if isinstance(outcome, UserFailed) else None),
        left=dict(Counter(outcome.left.values())) if outcome.left else {},
        proves_raw_read=any(proves_raw_read(secret) for secret in outcome.secrets),
    )


def vouched_for(outcome: Outcome) -> int:
    """Return how many credentials are stored as upstream has them: fetched, unchanged or merely renamed."""
    stored = sum(why in ("unchanged", "renamed") for why in outcome.left.values()) if outcome.left else 0
    return len(outcome.secrets) + stored
