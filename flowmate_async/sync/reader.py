"""Read one user's credentials: list, then fetch. A failure is an outcome, not an exception.

A :class:`UserRead` is a user being read. The sweep decides when which of its secrets is fetched
(``sweep.py``); the plan decides which secrets to fetch (``plan.py``).
"""

from collections import deque
from collections.abc import Callable

from flowmate_async.access.fetch import SecretFetcher
from flowmate_async.access.listing import Lister, Listing, ListingUnderWay
from flowmate_async.access.user_tokens import UserIdentity, UserTokens
from flowmate_async.clock import Clock
from flowmate_async.contract.masks import proves_raw_read
from flowmate_async.engine.call import Tally
from flowmate_async.engine.priority import Priority
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
from flowmate_async.sync.wanted import Wanted, in_order
from flowmate_async.values.models import KeptToken, SecretSummary
from flowmate_async.values.secrets import Secret

_HOPELESS = (AuthenticationError, RateLimitedError, UpstreamUnavailableError)
_ALONE = 3
"""How many of a user's secrets are fetched one by one until one shows that the user is readable."""


class UserReader:
    """Creates a :class:`UserRead` for each user.

    Args:
        lister: lists the users' secrets.
        fetcher: fetches the secrets.
        tokens: forgets a user's token afterwards, so that memory does not grow with the number of users.
        clock: measures durations, and tells which secrets upstream may refresh.

    Attributes:
        lister: see above.
        fetcher: see above.
        tokens: see above.
        clock: see above.
    """

    def __init__(self, *, lister: Lister, fetcher: SecretFetcher, tokens: UserTokens, clock: Clock) -> None:
        self.lister: Lister = lister
        self.fetcher: SecretFetcher = fetcher
        self.tokens: UserTokens = tokens
        self.clock: Clock = clock

    def read(
        self,
        username: str,
        plan: Plan | None = None,
        *,
        kept: KeptToken | None = None,
        keep: bool = False,
        look_only: bool = False,
    ) -> "UserRead":
        """Return a user to be read.

        Args:
            username: the user.
            plan: which secrets to fetch; by default all, without recording state for a later sync.
            kept: the user's token, if an earlier run kept one.
            keep: whether the outcome contains the token to keep.
            look_only: list the secrets and fetch none; the plan counts what would be fetched.
        """
        read = UserRead(username, plan or Plan(notes=False), self)
        read.kept_token = kept
        read.keeps_token = keep
        read.looks_only = look_only
        return read


class UserRead:
    """A user that is being read.

    Secrets are fetched one by one until one shows that the user is readable, then concurrently. The raw-read
    permission belongs to each user (docs/contract/OBSERVED.md § Second look), and a user without it costs
    one masked GET this way. So the first secret is one that shows masking and that upstream does not refresh,
    if there is one. If three are inconclusive, the others are fetched concurrently as well.

    Attributes:
        wanted: secrets still to be fetched, in order.
        in_flight: number of its secrets being fetched.
        is_listing: whether its secrets are being listed.
        answered: number of secrets that were fetched or failed.
        age: orders the users of a sweep, the oldest first.
        is_queued: whether it waits in the sweep's queue.
        keeps_token: whether the outcome contains the user's token.
        kept_token: the user's token, if an earlier run kept one.
        looks_only: whether nothing is fetched.
        on_step: called after the listing and after each fetch, with the OAuth client of the fetch.
        on_crash: called with a bug of this library.
    """

    __slots__ = (
        "_began",
        "_failures",
        "_fetches",
        "_held_before",
        "_is_open",
        "_listed_at",
        "_listing",
        "_listings",
        "_plan",
        "_reader",
        "_secrets",
        "_sightings",
        "_tally",
        "_user",
        "age",
        "answered",
        "in_flight",
        "is_listing",
        "is_queued",
        "keeps_token",
        "kept_token",
        "looks_only",
        "on_crash",
        "on_step",
        "username",
        "wanted",
    )

    def __init__(self, username: str, plan: Plan, reader: UserReader) -> None:
        self.username: str = username
        self.wanted: deque[Wanted] = deque()
        self.in_flight: int = 0
        self.is_listing: bool = False
        self.answered: int = 0
        self.age: int = 0
        self.is_queued: bool = False
        self.keeps_token: bool = False
        self.kept_token: KeptToken | None = None
        self.looks_only: bool = False
        self.on_step: Callable[[UserRead, str | None], object]
        self.on_crash: Callable[[Exception], object]
        self._plan = plan
        self._reader = reader
        self._began = reader.clock.monotonic()
        self._tally = Tally()
        self._user: UserIdentity
        self._held_before = reader.tokens.holds(username)
        self._is_open = False
        self._listing = Listing((), proven=False)
        self._listed_at = self._began
        self._listings: set[ListingUnderWay] = set()
        self._fetches: set[Wanted] = set()
        self._secrets: list[tuple[int, Secret]] = []
        self._failures: list[tuple[int, FlowMateError]] = []
        self._sightings = Sightings(username, reader.clock)

    @property
    def listed(self) -> tuple[SecretSummary, ...]:
        """The listed secrets."""
        return self._listing.secrets

    @property
    def is_ready(self) -> bool:
        """Whether another of its secrets may be fetched now."""
        return bool(self.wanted) and (self._is_open or self.in_flight == 0)

    @property
    def is_done(self) -> bool:
        """Whether reading has finished."""
        return not self.wanted and self.in_flight == 0 and not self.is_listing

    def begin(self) -> None:
        """List the secrets."""
        if self.kept_token is not None and not self._held_before:
            self._reader.tokens.adopt(self.username, self.kept_token)
        self.is_listing = True
        self._list(self._listed)

    def _list(self, then: Callable[[Listing | Exception], None]) -> None:
        """List the secrets. ``then`` is called with the listing or the error."""
        under_way: ListingUnderWay | None = None

        def listed(listing: Listing | Exception) -> None:
            if under_way is not None:
                self._listings.discard(under_way)
            try:
                then(listing)
            except Exception as error:  # noqa: BLE001 - no caller could catch it
                self.on_crash(error)

        try:
            under_way = self._reader.lister.begin(
                self.username, listed, priority=Priority.BACKGROUND, tally=self._tally
            )
        except FlowMateError as error:
            then(error)
        else:
            if under_way.is_wanted:
                self._listings.add(under_way)

    def _listed(self, listing: Listing | Exception) -> None:
        self.is_listing = False
        if isinstance(listing, Listing):
            self._user = self._reader.tokens.identity(self.username)
            self._listing = listing
            self._listed_at = self._reader.clock.monotonic()
            self.wanted = in_order(self, listing.secrets, self._plan, now=self.now())
            if self.looks_only:
                self.wanted.clear()
        elif isinstance(listing, FlowMateError):
            self._failures.append((-1, listing.about(username=self.username)))
        else:
            self.on_crash(listing)
            return
        self.on_step(self, None)

    def take(self) -> Wanted:
        """Take the next secret; :meth:`fetch` must follow."""
        self.in_flight += 1
        return self.wanted.popleft()

    def fetch(self, wanted: Wanted, now: float) -> None:
        """Fetch a secret that was taken.

        Args:
            wanted: the secret.
            now: the current time by :meth:`now`.
        """
        summary, may_refresh = wanted.summary, now > wanted.plain_until
        wanted.began = now
        self._fetches.add(wanted)
        try:
            self._reader.fetcher.request(
                self._user,
                summary.id,
                may_refresh,
                summary.auth_client_id if may_refresh else None,
                self._tally,
                wanted,
            )
        except Exception as error:  # noqa: BLE001 - told like any other failure
            self.not_fetched(wanted, error)

    def fetched(self, wanted: Wanted, secret: Secret) -> None:
        """Handle a fetched secret."""
        try:
            self._sightings.fetched(wanted.summary, secret, wanted.client)
            self._secrets.append((wanted.position, secret))
            self._is_open = self._is_open or proves_raw_read(secret)
            self._plan.fetched(wanted.summary, secret, now=wanted.began)
            self._over(wanted)
        except Exception as error:  # noqa: BLE001 - no caller could catch it
            self.on_crash(error)

    def not_fetched(self, wanted: Wanted, error: BaseException) -> None:
        """Handle a failure."""
        try:
            if isinstance(error, SecretNotFoundError):
                self._list(lambda listing: self._looked_for(wanted, error, listing))
            elif isinstance(error, FlowMateError):
                self._failed(wanted, error)
            else:
                raise error  # noqa: TRY301 - like any other fault
        except Exception as fault:  # noqa: BLE001 - no caller could catch it
            self.on_crash(fault)

    def _looked_for(self, wanted: Wanted, missing: FlowMateError, listing: Listing | Exception) -> None:
        """Check whether a secret that was not found was deleted after it was listed."""
        if isinstance(listing, FlowMateError):
            self._failed(wanted, listing)
        elif isinstance(listing, Exception):
            self.on_crash(listing)
        elif any(secret.id == wanted.summary.id for secret in listing.secrets):
            self._failed(wanted, missing)
        else:
            self._over(wanted)

    def _failed(self, wanted: Wanted, failure: FlowMateError) -> None:
        summary, now = wanted.summary, wanted.began
        self._failures.append((wanted.position, failure))
        self._sightings.failed(summary, failure, wanted.client)
        if _is_hopeless(failure):
            self.wanted.clear()
        if isinstance(failure, RefreshFailedError) and failure.was_sent:
            self._plan.failed(summary, now=now)
        elif isinstance(failure, MaskedSecretError):
            self._plan.masked(summary, now=now)
        self._over(wanted)

    def _over(self, wanted: Wanted) -> None:
        wanted.is_over = True
        self._fetches.discard(wanted)
        self.in_flight -= 1
        self.answered += 1
        self._is_open = self._is_open or self.answered >= _ALONE
        self.on_step(self, wanted.client)

    def when_handled(self, then: Callable[[], object]) -> None:
        """Call a function once the answers that came together are handled; see the engine's method."""
        self._reader.fetcher.api.engine.when_handled(then)

    def outcome(self) -> Outcome:
        """Return the user's outcome, and forget the token."""
        secrets = tuple([secret for _, secret in sorted(self._secrets, key=_position)])
        plan = self._plan
        token = self._reader.tokens.kept(self.username) if self.keeps_token else None
        requests, seconds = self._tally.requests, self._reader.clock.monotonic() - self._began
        missed = len(self.wanted) + sum(position >= 0 for position, _ in self._failures)
        self.close()
        if self._failures:
            return UserFailed(
                username=self.username,
                error=min(self._failures, key=_position)[1],
                secrets=secrets,
                missed=missed,
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
        """Cancel what is in progress, and forget the user's token unless it was cached before."""
        for listing in self._listings:
            listing.drop()
        for wanted in self._fetches:
            wanted.is_over = True  # before the first is cancelled: what that frees may end another
        for wanted in self._fetches:
            self._reader.fetcher.cancel(self.username, wanted.summary.id, wanted)
        if not self._held_before:
            self._reader.tokens.forget(self.username)

    def now(self) -> float:
        """Return the later of this machine's time and upstream's: by the later one, more may be refreshed."""
        clock, served_at = self._reader.clock, self._listing.served_at
        wall = clock.wall()
        return wall if served_at is None else max(wall, served_at + clock.monotonic() - self._listed_at)


def _position(found: tuple[int, object]) -> int:
    return found[0]


def _is_hopeless(failure: FlowMateError) -> bool:
    """Return whether the user's other secrets would fail as well.

    A hanging provider only affects its own secrets. Masking affects the whole user (docs/contract/OBSERVED.md
    § Second look).
    """
    if isinstance(failure, MaskedSecretError):
        return True
    return isinstance(failure, _HOPELESS) and not isinstance(failure, UpstreamTimeoutError)
