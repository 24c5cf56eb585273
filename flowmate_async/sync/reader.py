"""One user's credentials: listed, then fetched one by one. What goes wrong is an outcome, not an exception.

A :class:`UserRead` is a user under way. Who fetches which of its secrets when is the sweep's business
(``sweep.py``); which secrets are wanted is the plan's (``plan.py``).
"""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from flowmate_async.access.fetch import SecretFetcher
from flowmate_async.access.listing import Lister, Listing
from flowmate_async.access.user_tokens import UserTokens
from flowmate_async.clock import Clock
from flowmate_async.contract.freshness import may_refresh
from flowmate_async.contract.masks import proves_raw_read, shows_masking
from flowmate_async.errors import (
    AuthenticationError,
    FlowMateError,
    MaskedSecretError,
    RateLimitedError,
    RefreshFailedError,
    SecretNotFoundError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from flowmate_async.sync.health import Sightings
from flowmate_async.sync.outcomes import Outcome, UserFailed, UserSynced
from flowmate_async.sync.plan import Plan
from flowmate_async.traffic.request_count import Tally, count_in
from flowmate_async.values.models import KeptToken, SecretSummary
from flowmate_async.values.secrets import Secret

_HOPELESS = (AuthenticationError, RateLimitedError, UpstreamUnavailableError)
_UNKNOWN_CLIENT = ""
_ALONE = 3
"""How many of a user's secrets are fetched one after another until one shows that the user is readable."""


class UserReader:
    """Begins to read users.

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

    async def begin(
        self, username: str, plan: Plan | None = None, *, kept: KeptToken | None = None, keep: bool = False
    ) -> "UserRead":
        """List a user's secrets and decide which to fetch, and in which order.

        Args:
            username: the user.
            plan: which secrets; by default all, and nothing is noted for a later sync.
            kept: the user's token, if an earlier run kept one.
            keep: whether the outcome has the token to keep.
        """
        read = UserRead(
            username, plan or Plan(notes=False), self._lister, self._fetcher, self._tokens, self._clock
        )
        read.keeps_token = keep
        try:
            await read.begin(kept)
        except BaseException:
            read.close()
            raise
        return read

    async def look(self, username: str, plan: Plan, kept: KeptToken | None = None) -> "UserRead":
        """List a user's secrets and fetch none: the plan says what would be fetched."""
        read = await self.begin(username, plan, kept=kept)
        read.wanted.clear()
        return read


class Wanted(NamedTuple):
    """A secret to fetch.

    Attributes:
        position: where it stands in the listing.
        summary: the secret as it was listed.
        client: the OAuth client whose provider the GET may cause a refresh or a login at, empty when that is
            unknown; ``None`` when the GET causes neither.
    """

    position: int
    summary: SecretSummary
    client: str | None


class UserRead:
    """A user that is being read.

    Secrets are fetched one after another until one shows that the user is readable, then concurrently: the
    raw-read permission belongs to each user (docs/contract/OBSERVED.md § Second look), and a user without it
    costs one masked GET. So the first is one that shows masking and that upstream does not refresh, if there
    is one. When three say nothing, the others are fetched concurrently as well.

    Attributes:
        wanted: what is still to be fetched, in order.
        in_flight: how many of its secrets are being fetched.
        answered: how many were fetched, or could not be.
        age: orders the users of a sweep, the oldest first.
        is_queued: whether it waits in the sweep's queue.
        keeps_token: whether the outcome has the user's token.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_failures",
        "_fetcher",
        "_held_before",
        "_is_open",
        "_listed_at",
        "_lister",
        "_listing",
        "_plan",
        "_secrets",
        "_sightings",
        "_tally",
        "_tokens",
        "age",
        "answered",
        "in_flight",
        "is_queued",
        "keeps_token",
        "username",
        "wanted",
    )

    def __init__(  # noqa: PLR0917 - what a reader is made of
        self,
        username: str,
        plan: Plan,
        lister: Lister,
        fetcher: SecretFetcher,
        tokens: UserTokens,
        clock: Clock,
    ) -> None:
        self.username: str = username
        self.wanted: deque[Wanted] = deque()
        self.in_flight: int = 0
        self.answered: int = 0
        self.age: int = 0
        self.is_queued: bool = False
        self.keeps_token: bool = False
        self._plan = plan
        self._lister = lister
        self._fetcher = fetcher
        self._tokens = tokens
        self._clock = clock
        self._began = clock.monotonic()
        self._tally = Tally()
        self._held_before = tokens.holds(username)
        self._is_open = False
        self._listing = Listing((), proven=False)
        self._listed_at = self._began
        self._secrets: list[tuple[int, Secret]] = []
        self._failures: list[tuple[int, FlowMateError]] = []
        self._sightings = Sightings(username, clock)

    @property
    def listed(self) -> tuple[SecretSummary, ...]:
        """The secrets as they were listed."""
        return self._listing.secrets

    @property
    def is_ready(self) -> bool:
        """Whether another of its secrets may be fetched now."""
        return bool(self.wanted) and (self._is_open or self.in_flight == 0)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to do."""
        return not self.wanted and self.in_flight == 0

    async def begin(self, kept: KeptToken | None) -> None:
        """List the secrets; ``kept`` is the user's token, if an earlier run kept one."""
        count_in(self._tally)
        if kept is not None and not self._held_before:
            self._tokens.adopt(self.username, kept)
        try:
            self._listing = await self._lister.list(self.username)
        except FlowMateError as failure:
            self._failures.append((-1, failure.about(username=self.username)))
        else:
            self._listed_at = self._clock.monotonic()
            self.wanted = self._in_order(self._listing.secrets, now=self._now())

    def take(self) -> Wanted:
        """Take the next secret; :meth:`fetch` must follow."""
        self.in_flight += 1
        return self.wanted.popleft()

    async def fetch(self, wanted: Wanted) -> None:
        """Fetch a secret that was taken."""
        position, summary, client = wanted
        count_in(self._tally)
        now = self._now()
        try:
            secret = await self._fetched(summary, refreshing=may_refresh(summary, now=now))
        except FlowMateError as failure:
            self._failed(position, summary, failure, now)
            self._sightings.failed(summary, failure, client)
        else:
            if secret is not None:
                self._sightings.fetched(summary, secret, client)
                self._secrets.append((position, secret))
                self._is_open = self._is_open or proves_raw_read(secret)
                self._plan.fetched(summary, secret, now=now)
        finally:
            self.in_flight -= 1
            self.answered += 1
            self._is_open = self._is_open or self.answered >= _ALONE

    def outcome(self) -> Outcome:
        """Return how the user ended, and forget its token."""
        secrets = tuple(secret for _, secret in sorted(self._secrets, key=_position))
        plan, token = self._plan, self._tokens.kept(self.username) if self.keeps_token else None
        requests, seconds = self._tally.requests, self._clock.monotonic() - self._began
        self.close()
        if self._failures:
            return UserFailed(
                username=self.username,
                error=min(self._failures, key=_position)[1],
                secrets=secrets,
                requests=requests,
                seconds=seconds,
                left=plan.left,
                renamed=plan.renamed,
                seen=plan.seen(),
                token=token,
                sightings=self._sightings.seen(),
                renewed=self._sightings.renewed(),
            )
        return UserSynced(
            username=self.username,
            secrets=secrets,
            requests=requests,
            seconds=seconds,
            listing_proven=self._listing.proven,
            left=plan.left,
            renamed=plan.renamed,
            seen=plan.seen(),
            token=token,
            sightings=self._sightings.seen(),
            renewed=self._sightings.renewed(),
        )

    def close(self) -> None:
        """Forget the user's token, unless it was held before."""
        if not self._held_before:
            self._tokens.forget(self.username)

    def _in_order(self, listed: Iterable[SecretSummary], *, now: float) -> deque[Wanted]:
        """Return what the plan wants: plain reads before refreshes, and first of all what shows masking."""
        plain: list[Wanted] = []
        conclusive: list[Wanted] = []
        refreshing: list[Wanted] = []
        probe: Wanted | None = None
        for position, summary in enumerate(listed):
            refreshes = may_refresh(summary, now=now)
            client = (summary.auth_client_id or _UNKNOWN_CLIENT) if refreshes else None
            wanted = Wanted(position, summary, client)
            shows = shows_masking(summary.type)
            if not self._plan.wants(summary, now=now):
                probe = probe or (wanted if shows and not refreshes else None)
            elif not refreshes:
                (conclusive if shows else plain).append(wanted)
            else:
                refreshing.append(wanted)
        refreshing.sort(key=lambda one: not shows_masking(one.summary.type))
        if probe is not None and not conclusive and self._plan.was_masked and (plain or refreshing):
            self._plan.insist(probe.summary)
            conclusive = [probe]
        return deque((*conclusive, *plain, *refreshing))

    def _failed(self, position: int, summary: SecretSummary, failure: FlowMateError, now: float) -> None:
        self._failures.append((position, failure))
        if _is_hopeless(failure):
            self.wanted.clear()
        if isinstance(failure, RefreshFailedError):
            self._plan.failed(summary, now=now)
        elif isinstance(failure, MaskedSecretError):
            self._plan.masked(summary, now=now)

    def _now(self) -> float:
        """Return the later of this machine's time and upstream's: by it more may be refreshed."""
        wall, served_at = self._clock.wall(), self._listing.served_at
        return wall if served_at is None else max(wall, served_at + self._clock.monotonic() - self._listed_at)

    async def _fetched(self, summary: SecretSummary, *, refreshing: bool) -> Secret | None:
        """Return the secret; ``None`` when it was deleted after it was listed."""
        try:
            answer = await self._fetcher.get(
                self.username, summary.id, may_refresh=refreshing, auth_client_id=summary.auth_client_id
            )
        except SecretNotFoundError:
            listed_again = await self._lister.list(self.username)
            if any(secret.id == summary.id for secret in listed_again.secrets):
                raise
            return None
        return answer.secret


def _position(found: tuple[int, object]) -> int:
    return found[0]


def _is_hopeless(failure: FlowMateError) -> bool:
    """Return whether the user's other secrets would fail alike.

    A hanging provider is its own secrets' trouble. Masks are the user's (docs/contract/OBSERVED.md
    § Second look).
    """
    if isinstance(failure, MaskedSecretError):
        return True
    return isinstance(failure, _HOPELESS) and not isinstance(failure, UpstreamTimeoutError)
