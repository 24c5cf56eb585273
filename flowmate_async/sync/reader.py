"""Everything of one user: list, then fetch each secret; what goes wrong is an outcome, not an exception."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import msgspec
from msgspec.structs import replace

from flowmate_async.clock import Clock
from flowmate_async.errors import (
    AuthenticationError,
    FlowMateError,
    RateLimitedError,
    RefreshFailedError,
    SecretNotFoundError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.fetch import SecretFetcher
from flowmate_async.freshness import may_refresh
from flowmate_async.listing import Lister, Listing
from flowmate_async.models import KeptToken, SecretSummary
from flowmate_async.secrets import Secret
from flowmate_async.sync.outcomes import Outcome, UserFailed, UserSynced
from flowmate_async.sync.plan import Plan
from flowmate_async.tokens import UserTokens
from flowmate_async.traffic.tally import tallied

_Fetch = Callable[[str, Listing, Plan], Awaitable[tuple[list[Secret], FlowMateError | None]]]

_HOPELESS = (AuthenticationError, RateLimitedError, UpstreamUnavailableError)


class UserReader:
    """Reads whole users.

    Args:
        lister: lists their secrets.
        fetcher: fetches them.
        tokens: forgets a user's token afterwards, so that memory does not grow with the users.
        clock: times them, and tells which secrets upstream may refresh.
    """

    def __init__(self, *, lister: Lister, fetcher: SecretFetcher, tokens: UserTokens, clock: Clock) -> None:
        self._lister = lister
        self._fetcher = fetcher
        self._tokens = tokens
        self._clock = clock

    async def read(self, username: str, plan: Plan | None = None) -> Outcome:
        """The credentials of one user.

        Args:
            username: the user.
            plan: which of them; by default all.
        """
        with self._briefly_held(username):
            return await self._read(username, plan or Plan(), self._fetch_wanted)

    async def read_and_keep(self, username: str, plan: Plan, kept: KeptToken | None) -> Outcome:
        """The same, begun with the user's token as it was kept; the outcome has the one to keep.

        Args:
            username: the user.
            plan: which credentials.
            kept: the token, if one was kept.
        """
        with self._briefly_held(username, kept):
            outcome = await self._read(username, plan, self._fetch_wanted)
            return replace(outcome, token=self._tokens.kept(username))

    async def look(self, username: str, plan: Plan, kept: KeptToken | None = None) -> Outcome:
        """List one user's credentials and fetch none: the plan says what would be fetched."""
        with self._briefly_held(username, kept):
            return await self._read(username, plan, self._ask)

    @contextmanager
    def _briefly_held(self, username: str, kept: KeptToken | None = None) -> Iterator[None]:
        """Forget the user's token afterwards, unless it was held before."""
        held_before = self._tokens.holds(username)
        if kept is not None and not held_before:
            self._tokens.adopt(username, kept)
        try:
            yield
        finally:
            if not held_before:
                self._tokens.forget(username)

    async def _read(self, username: str, plan: Plan, fetch: _Fetch) -> Outcome:
        began = self._clock.monotonic()
        with tallied() as tally:
            try:
                listing = await self._lister.list(username)
                secrets, error = await fetch(username, listing, plan)
            except FlowMateError as failure:
                listing, secrets, error = Listing((), proven=False), [], failure.about(username=username)
        cost = _Cost(tally.requests, self._clock.monotonic() - began)
        return _outcome(username, listing, tuple(secrets), error, cost, plan)

    async def _fetch_wanted(
        self, username: str, listing: Listing, plan: Plan
    ) -> tuple[list[Secret], FlowMateError | None]:
        secrets: list[Secret] = []
        error: FlowMateError | None = None
        listed = self._clock.monotonic()
        for summary in listing.secrets:
            now = self._latest(listing.served_at, seconds_ago=self._clock.monotonic() - listed)
            if not plan.wants(summary, now=now):
                continue
            try:
                secret = await self._fetch(username, summary, refreshing=may_refresh(summary, now=now))
            except FlowMateError as failure:
                error = error or failure
                if _is_hopeless(failure):
                    break
                if isinstance(failure, RefreshFailedError):
                    plan.failed(summary, now=now)
            else:
                if secret is not None:
                    secrets.append(secret)
                    plan.fetched(summary, secret, now=now)
        return secrets, error

    async def _ask(
        self, _username: str, listing: Listing, plan: Plan
    ) -> tuple[list[Secret], FlowMateError | None]:
        """Whether the plan wants each, and no more than that."""
        for summary in listing.secrets:
            plan.wants(summary, now=self._latest(listing.served_at, seconds_ago=0.0))
        return [], None

    def _latest(self, served_at: float | None, *, seconds_ago: float) -> float:
        """Now, by this machine's clock or upstream's, whichever is later: by it more may be refreshed."""
        wall = self._clock.wall()
        return wall if served_at is None else max(wall, served_at + seconds_ago)

    async def _fetch(self, username: str, summary: SecretSummary, *, refreshing: bool) -> Secret | None:
        """The secret; ``None`` when it was deleted after it was listed."""
        try:
            answer = await self._fetcher.get(
                username, summary.id, may_refresh=refreshing, auth_client_id=summary.auth_client_id
            )
        except SecretNotFoundError:
            listed_again = await self._lister.list(username)
            if any(secret.id == summary.id for secret in listed_again.secrets):
                raise
            return None
        return answer.secret


def _is_hopeless(failure: FlowMateError) -> bool:
    """Whether the user's other secrets would fail alike; a hanging provider is its own secrets' trouble."""
    return isinstance(failure, _HOPELESS) and not isinstance(failure, UpstreamTimeoutError)


class _Cost(msgspec.Struct, frozen=True):
    requests: int
    seconds: float


def _outcome(  # noqa: PLR0917 - what is known of a user
    username: str,
    listing: Listing,
    secrets: tuple[Secret, ...],
    error: FlowMateError | None,
    cost: _Cost,
    plan: Plan,
) -> Outcome:
    if error is not None:
        return UserFailed(
            username=username,
            error=error,
            secrets=secrets,
            requests=cost.requests,
            seconds=cost.seconds,
            left=plan.left,
            renamed=plan.renamed,
            seen=plan.seen(),
        )
    return UserSynced(
        username=username,
        secrets=secrets,
        requests=cost.requests,
        seconds=cost.seconds,
        listing_proven=listing.proven,
        left=plan.left,
        renamed=plan.renamed,
        seen=plan.seen(),
    )
