"""The results of users whose credentials are stored. They hold no credential.

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


class UserResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one user. The checkpoint that records it is durable.

    Attributes:
        username: the user.
        secrets: credentials that were stored or found unchanged.
        requests: requests that the user took.
        seconds: how long it took.
        error: the first failure; ``None`` when the user was synced.
        missed: credentials that could not be fetched or stored.
        left: number of credentials that were not fetched, by reason.
        proves_raw_read: whether a credential came in clear of a type that upstream masks.
    """

    username: str
    secrets: int = 0
    requests: int = 0
    seconds: float = 0.0
    error: FlowMateError | None = None
    missed: int = 0
    left: dict[str, int] = {}
    proves_raw_read: bool = False


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Users whose checkpoints were written together, and the credentials rewritten or found unchanged.

    Attributes:
        results: one per user.
        changed: credentials rewritten.
        unchanged: credentials found unchanged.
        requests: requests that no result counts.
        counted: whether ``changed``, ``unchanged`` and ``left`` of the results are known.
    """

    results: tuple[UserResult, ...]
    changed: int = 0
    unchanged: int = 0
    requests: int = 0
    counted: bool = True


class Executor(Protocol):
    """Reads the users of a run and writes them into its store, in this process or in others."""

    def execute(
        self, run: Run, usernames: Usernames, *, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[StoredBatch, None]:
        """Read and store these users. What is yielded is durable.

        Args:
            run: the run that their checkpoints belong to.
            usernames: any iterable or async iterable.
            stop: when set, no further user is started. Users in flight are finished.
        """
        ...


def result_of(outcome: Outcome, refused: FlowMateError | None = None) -> UserResult:
    """Return the result of an outcome that was stored.

    Args:
        outcome: how the user was read.
        refused: why the store did not accept this user, if it did not.
    """
    return UserResult(
        username=outcome.username,
        secrets=0 if refused is not None else confirmed_count(outcome),
        requests=outcome.requests,
        seconds=outcome.seconds,
        error=refused or (outcome.error if isinstance(outcome, UserFailed) else None),
        missed=_missed(outcome, refused),
        left=dict(Counter(outcome.left.values())) if outcome.left else {},
        proves_raw_read=any(proves_raw_read(secret) for secret in outcome.secrets),
    )


def _missed(outcome: Outcome, refused: FlowMateError | None) -> int:
    missed = outcome.missed if isinstance(outcome, UserFailed) else 0
    return missed if refused is None else missed + len(outcome.secrets)


def confirmed_count(outcome: Outcome) -> int:
    """Return the number of credentials that the store has as upstream does: fetched, unchanged or renamed."""
    stored = sum(why in ("unchanged", "renamed") for why in outcome.left.values()) if outcome.left else 0
    return len(outcome.secrets) + stored
