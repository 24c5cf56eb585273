"""Everything of one user: list, then fetch each secret; what goes wrong is an outcome, not an exception."""

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.errors import (
    AuthenticationError,
    FlowMateError,
    RateLimitedError,
    SecretNotFoundError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.fetch import SecretFetcher
from flowmate_async.freshness import may_refresh
from flowmate_async.listing import Lister, Listing
from flowmate_async.models import SecretSummary
from flowmate_async.secrets import Secret
from flowmate_async.sync.outcomes import Outcome, UserFailed, UserSynced
from flowmate_async.tokens import UserTokens
from flowmate_async.traffic.tally import tallied

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

    async def read(self, username: str) -> Outcome:
        """All credentials of one user."""
        held_before = self._tokens.holds(username)
        began = self._clock.monotonic()
        with tallied() as tally:
            try:
                listing = await self._lister.list(username)
                secrets, error = await self._fetch_all(username, listing)
            except FlowMateError as failure:
                listing, secrets, error = Listing((), proven=False), [], failure.about(username=username)
            finally:
                if not held_before:
                    self._tokens.forget(username)
        cost = _Cost(tally.requests, self._clock.monotonic() - began)
        return _outcome(username, listing, tuple(secrets), error, cost)

    async def _fetch_all(self, username: str, listing: Listing) -> tuple[list[Secret], FlowMateError | None]:
        secrets: list[Secret] = []
        error: FlowMateError | None = None
        listed = self._clock.monotonic()
        for summary in listing.secrets:
            now = self._latest(listing.served_at, seconds_ago=self._clock.monotonic() - listed)
            try:
                secret = await self._fetch(username, summary, refreshing=may_refresh(summary, now=now))
            except FlowMateError as failure:
                error = error or failure
                if _is_hopeless(failure):
                    break
            else:
                secrets += [] if secret is None else [secret]
        return secrets, error

    def _latest(self, served_at: float | None, *, seconds_ago: float) -> float:
        """Now, by this machine's clock or upstream's, whichever is later: by it more may be refreshed."""
        wall = self._clock.wall()
        return wall if served_at is None else max(wall, served_at + seconds_ago)

    async def _fetch(self, username: str, summary: SecretSummary, *, refreshing: bool) -> Secret | None:
        """The secret; ``None`` when it was deleted after it was listed."""
        try:
            return await self._fetcher.get(
                username, summary.id, may_refresh=refreshing, auth_client_id=summary.auth_client_id
            )
        except SecretNotFoundError:
            listed_again = await self._lister.list(username)
            if any(secret.id == summary.id for secret in listed_again.secrets):
                raise
            return None


def _is_hopeless(failure: FlowMateError) -> bool:
    """Whether the user's other secrets would fail alike; a hanging provider is its own secrets' trouble."""
    return isinstance(failure, _HOPELESS) and not isinstance(failure, UpstreamTimeoutError)


class _Cost(msgspec.Struct, frozen=True):
    requests: int
    seconds: float


def _outcome(
    username: str, listing: Listing, secrets: tuple[Secret, ...], error: FlowMateError | None, cost: _Cost
) -> Outcome:
    if error is not None:
        return UserFailed(
            username=username, error=error, secrets=secrets, requests=cost.requests, seconds=cost.seconds
        )
    return UserSynced(
        username=username,
        secrets=secrets,
        requests=cost.requests,
        seconds=cost.seconds,
        listing_proven=listing.proven,
    )
