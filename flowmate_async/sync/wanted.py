"""The secrets of one user that are to be fetched, and in which order."""

from collections import deque
from collections.abc import Iterable
from typing import Protocol

import msgspec

from flowmate_async.contract.freshness import plain_read_seconds
from flowmate_async.contract.masks import shows_masking
from flowmate_async.engine.coordination import SharedSecret
from flowmate_async.sync.plan import Plan
from flowmate_async.values.models import SecretSummary
from flowmate_async.values.secrets import Secret

_UNKNOWN_CLIENT = ""


class FetchListener(Protocol):
    """Receives the results of fetches."""

    def fetched(self, wanted: "Wanted", secret: Secret) -> None:
        """Take the secret."""

    def not_fetched(self, wanted: "Wanted", error: BaseException) -> None:
        """Take the error."""


class Wanted(msgspec.Struct, eq=False):
    """A secret to fetch. While it is fetched, the fetcher notifies it like a future.

    Attributes:
        read: its user's read, told how the fetch ends.
        position: its index in the listing.
        summary: the secret as listed.
        plain_until: until when a GET causes neither a refresh nor a login, in seconds since the Unix epoch.
        client: the OAuth client with whose provider the GET may cause a refresh or a login, empty if unknown;
            ``None`` if the GET causes neither.
        began: when the fetch began, in seconds since the Unix epoch.
        is_over: whether the fetch has ended.
    """

    read: FetchListener
    position: int
    summary: SecretSummary
    plain_until: float
    client: str | None
    began: float = 0.0
    is_over: bool = False

    def __repr__(self) -> str:
        return object.__repr__(self)

    def done(self) -> bool:
        """Return whether the fetch has ended."""
        return self.is_over

    def set_result(self, answer: SharedSecret) -> None:
        """Take the answer."""
        self.read.fetched(self, answer.secret)

    def set_exception(self, error: BaseException) -> None:
        """Take the error."""
        self.read.not_fetched(self, error)


def in_order(
    read: FetchListener, listed: Iterable[SecretSummary], plan: Plan, *, now: float
) -> deque[Wanted]:
    """Return the secrets to fetch: those that show masking, then other plain reads, then refreshes.

    Args:
        read: told of each fetch.
        listed: the user's secrets as listed.
        plan: says which of them to fetch.
        now: seconds since the Unix epoch.
    """
    plain: list[Wanted] = []
    conclusive: list[Wanted] = []
    refreshing: list[Wanted] = []
    probe: Wanted | None = None
    for position, summary in enumerate(listed):
        seconds = plain_read_seconds(summary.type, summary.expires_at, now=now)
        refreshes = seconds < 0
        client = (summary.auth_client_id or _UNKNOWN_CLIENT) if refreshes else None
        wanted = Wanted(read, position, summary, now + seconds, client)
        shows = shows_masking(summary.type)
        if not plan.wants(summary, now=now):
            selectable = shows and not refreshes and plan.left[summary.id] != "other_type"
            probe = probe or (wanted if selectable else None)
        elif not refreshes:
            (conclusive if shows else plain).append(wanted)
        else:
            refreshing.append(wanted)
    refreshing.sort(key=lambda one: not shows_masking(one.summary.type))
    if probe is not None and not conclusive and plan.was_masked and (plain or refreshing):
        plan.insist(probe.summary)
        conclusive = [probe]
    return deque((*conclusive, *plain, *refreshing))
