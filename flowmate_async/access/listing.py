"""Listings of all of a user's secrets: every page, without duplicates, checked against upstream's total.

Pages are unsorted and shift under inserts and deletes (docs/contract/OBSERVED.md § Listing). So a listing is
trusted only if it agrees with ``meta.total``; otherwise it is fetched again, in one page.
"""

import asyncio
from collections.abc import Callable

import msgspec

from flowmate_async.access.api import Api, ApiLimits
from flowmate_async.access.user_tokens import UserTokens
from flowmate_async.clock import Clock
from flowmate_async.contract.protocol import LIST, list_secrets
from flowmate_async.engine.awaiting import mark_retrieved
from flowmate_async.engine.call import Call, Identity, Outcome, Tally
from flowmate_async.engine.priority import Priority, current_priority
from flowmate_async.errors import FlowMateError, IncompleteListingError
from flowmate_async.events import Emitter, Relisted
from flowmate_async.values.models import SecretPage, SecretSummary

_ATTEMPTS = 3
_HEADROOM = 50
_LARGEST_PAGE = 1_000_000


class Listing(msgspec.Struct, frozen=True, gc=False):
    """A user's secrets.

    Attributes:
        secrets: the secrets without duplicates, in the order they came.
        proven: whether it was checked against upstream's total; ``False`` if upstream gave none.
        served_at: upstream's own time of the last page, in seconds since the Unix epoch, if it gave one.
    """

    secrets: tuple[SecretSummary, ...]
    proven: bool
    served_at: float | None = None


OnListed = Callable[[Listing | Exception], object]
"""Takes the listing or the error."""


class Lister:
    """Fetches listings.

    Args:
        api: reads pages.
        tokens: the users' tokens.
        emitter: told of listings that are fetched again.
        page_size: secrets per page.
        limits: how many pages, secrets and seconds one listing may take.
        clock: the client's clock.

    Attributes:
        api: reads pages.
        tokens: the users' tokens.
        emitter: see above.
        limits: see above.
        clock: see above.
    """

    def __init__(
        self,
        api: Api,
        *,
        tokens: UserTokens,
        emitter: Emitter,
        page_size: int,
        limits: ApiLimits,
        clock: Clock,
    ) -> None:
        self.api: Api = api
        self.tokens: UserTokens = tokens
        self.emitter: Emitter = emitter
        self.limits: ApiLimits = limits
        self.clock: Clock = clock
        self._page_size = page_size

    def begin(
        self, username: str, then: OnListed, *, priority: Priority, tally: Tally | None = None
    ) -> "ListingUnderWay":
        """Start to list a user's secrets.

        Args:
            username: the user.
            then: called once with the listing or the error: an ``IncompleteListingError`` if it kept
                disagreeing with its own total, or exceeds a limit.
            priority: the queue its requests wait in.
            tally: counts the requests.

        Raises:
            InvalidIdError: the username may not be sent.
        """
        under_way = ListingUnderWay(self, username, then, priority, tally, self._page_size)
        under_way.ask()
        return under_way

    async def list(self, username: str, priority: Priority | None = None) -> Listing:
        """Return every secret of a user.

        Args:
            username: the user.
            priority: the queue its requests wait in; the caller's priority by default.

        Raises:
            IncompleteListingError: the listing kept disagreeing with its own total, or exceeds a limit.
        """
        future: asyncio.Future[Listing] = asyncio.get_running_loop().create_future()

        def listed(listing: Listing | Exception) -> None:
            if future.done():
                return
            if isinstance(listing, Exception):
                future.set_exception(listing)
            else:
                future.set_result(listing)

        under_way = self.begin(
            username, listed, priority=current_priority() if priority is None else priority
        )
        try:
            return await future
        except asyncio.CancelledError:
            mark_retrieved(future)
            under_way.drop()
            raise


class ListingUnderWay:
    """The progress of one listing over all attempts. Bounded, since a hostile upstream might never end it."""

    __slots__ = (
        "_attempts",
        "_began",
        "_found",
        "_identity",
        "_lister",
        "_number",
        "_page",
        "_pages",
        "_priority",
        "_size",
        "_tally",
        "_then",
        "_totals",
        "_username",
    )

    def __init__(  # noqa: PLR0917 - made by the lister only
        self,
        lister: Lister,
        username: str,
        then: OnListed,
        priority: Priority,
        tally: Tally | None,
        size: int,
    ) -> None:
        self._lister = lister
        self._username = username
        self._identity: Identity = lister.tokens.identity(username)
        self._then = then
        self._priority = priority
        self._tally = tally
        self._size = size
        self._began = lister.clock.monotonic()
        self._attempts = self._pages = 0
        self._number = 1
        self._found: dict[str, SecretSummary] = {}
        self._totals: set[int] = set()
        self._page: _Page | None = None

    def ask(self) -> None:
        """Request the next page."""
        api = self._lister.api
        request = list_secrets(number=self._number, size=self._size, username=self._username)
        self._page = page = _Page(
            request, self._identity, api.plain_limits, self._priority, self._tally, listing=self
        )
        api.engine.submit(page)

    def drop(self) -> None:
        """Abandon the listing: nothing waits for it any longer."""
        page, self._page = self._page, None
        if page is not None:
            self._lister.api.engine.drop(page)

    @property
    def is_wanted(self) -> bool:
        """Whether anything waits for the listing."""
        return self._page is not None

    def received(self, outcome: Outcome) -> None:
        """Handle the outcome of a page."""
        if self._page is None:
            return  # dropped while in flight
        self._page = None
        try:
            if isinstance(outcome, Exception):
                raise outcome  # noqa: TRY301 - like any other failure
            listing = self._with(self._lister.api.read_page(outcome))
            if listing is None:
                self.ask()
                return
        except FlowMateError as error:
            self._then(error.about(username=self._username))
        except Exception as error:  # noqa: BLE001 - no caller could catch it
            self._then(error)
        else:
            self._then(listing)

    def _with(self, page: SecretPage) -> Listing | None:
        """Return the listing if this page completes it; otherwise set the next page."""
        found, totals = self._found, self._totals
        known = len(found)
        for summary in page.data:
            found[summary.id] = summary
        if page.total is not None:
            totals.add(page.total)
        self._check_bounds(max(len(found), *totals) if totals else len(found))
        # Without a total, a page that is not full is the last one; a full page may be.
        full = len(page.data) >= self._size if not totals else len(found) < max(totals)
        if full and len(found) > known:
            self._number += 1
            return None
        # A total that changed between pages shows a shift, even if the last one agrees with the count.
        if not totals or totals == {len(found)}:
            return Listing(tuple(found.values()), proven=bool(totals), served_at=page.served_at)
        self._begin_again(max(totals))
        return None

    def _begin_again(self, total: int) -> None:
        """List again in one page, so that nothing can shift between pages; upstream has no maximum size."""
        self._attempts += 1
        if self._attempts == _ATTEMPTS:
            raise IncompleteListingError(
                f"{_ATTEMPTS} listings in a row disagreed with their own totals",
                advice="Try again when the user's secrets are not being changed",
                endpoint=LIST,
                username=self._username,
            )
        self._lister.emitter.emit(Relisted(self._username))
        self._size = max(self._size, min(total + _HEADROOM, _LARGEST_PAGE))
        self._found, self._totals, self._number = {}, set(), 1

    def _check_bounds(self, secrets: int) -> None:
        """Count one more page of a listing that has, or claims to have, that many secrets.

        Raises:
            IncompleteListingError: a limit is exceeded.
        """
        self._pages += 1
        limits = self._lister.limits
        if secrets > limits.max_listing_secrets:
            raise self._beyond(f"{secrets} secrets", "max_listing_secrets", limits.max_listing_secrets)
        if self._pages > limits.max_listing_pages:
            raise self._beyond(f"{self._pages} pages", "max_listing_pages", limits.max_listing_pages)
        seconds = self._lister.clock.monotonic() - self._began
        if seconds > limits.max_listing_seconds:
            raise self._beyond(f"{seconds:.0f} s", "max_listing_seconds", limits.max_listing_seconds)

    def _beyond(self, what: str, limit: str, allowed: float) -> IncompleteListingError:
        return IncompleteListingError(
            f"the listing takes {what}, more than the {allowed:g} allowed",
            advice=f"Raise ApiLimits.{limit} if the listing is genuine",
            endpoint=LIST,
            username=self._username,
        )


class _Page(Call, eq=False, kw_only=True):
    """The call for one page."""

    listing: ListingUnderWay

    @property
    def is_wanted(self) -> bool:
        """Whether anything waits for the listing."""
        return self.listing.is_wanted

    def receive(self, outcome: Outcome) -> None:
        """Hand the outcome over."""
        self.listing.received(outcome)
