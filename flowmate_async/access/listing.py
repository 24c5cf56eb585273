"""All of a user's secrets: every page, each once, counted against upstream's own total.

Pages are unsorted and shift under inserts and deletes (docs/contract/OBSERVED.md § Listing), so a listing is
believed only when it agrees with ``meta.total``; otherwise it is fetched again, in one page.
"""

from functools import partial

import msgspec

from flowmate_async.access.api import Api, ApiLimits
from flowmate_async.access.user_tokens import UserTokens
from flowmate_async.clock import Clock
from flowmate_async.contract.protocol import LIST
from flowmate_async.errors import IncompleteListingError
from flowmate_async.events import Emitter, Relisted
from flowmate_async.values.models import SecretSummary

_ATTEMPTS = 3
_HEADROOM = 50
_LARGEST_PAGE = 1_000_000


class Listing(msgspec.Struct, frozen=True):
    """A user's secrets.

    Attributes:
        secrets: each once, in the order they came.
        proven: counted against upstream's total; ``False`` when upstream gave none.
        served_at: upstream's own time of its last page, in seconds since the Unix epoch, when it gave one.
    """

    secrets: tuple[SecretSummary, ...]
    proven: bool
    served_at: float | None = None


class Lister:
    """Fetches listings.

    Args:
        api: fetches pages.
        tokens: as whom.
        emitter: told of listings that are fetched again.
        page_size: secrets per page.
        limits: how many pages, secrets and seconds one listing may take.
        clock: times it.
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
        self._api = api
        self._tokens = tokens
        self._emitter = emitter
        self._page_size = page_size
        self._limits = limits
        self._clock = clock

    async def list(self, username: str) -> Listing:
        """Return every secret of a user.

        Raises:
            IncompleteListingError: the listing kept disagreeing with its own total, or is beyond a limit.
        """
        size = self._page_size
        progress = _Progress(username, self._limits, self._clock)
        for attempt in range(_ATTEMPTS):
            found, totals, served_at = await self._pages(username, size, progress)
            # A total that changed on the way shows a shift, even if the last one agrees with the count.
            if not totals or totals == {len(found)}:
                return Listing(tuple(found.values()), proven=bool(totals), served_at=served_at)
            if attempt < _ATTEMPTS - 1:
                self._emitter.emit(Relisted(username))
            # What fits one page cannot shift between two; upstream has no maximum size.
            size = max(size, min(max(totals) + _HEADROOM, _LARGEST_PAGE))
        raise IncompleteListingError(
            f"{_ATTEMPTS} listings in a row disagreed with their own totals",
            advice="Try again when the user's secrets are not being changed",
            endpoint=LIST,
            username=username,
        )

    async def _pages(
        self, username: str, size: int, progress: "_Progress"
    ) -> tuple[dict[str, SecretSummary], set[int], float | None]:
        """Return the secrets of all pages by id, all totals they gave, and the time of the last page."""
        found: dict[str, SecretSummary] = {}
        totals: set[int] = set()
        number = 1
        while True:
            page = await self._tokens.call(
                username, partial(self._api.list_secrets_page, username=username, number=number, size=size)
            )
            known = len(found)
            found.update((summary.id, summary) for summary in page.data)
            totals |= {page.meta.total} if page.meta is not None else set()
            progress.note_page(max([len(found), *totals]))
            # Without a total, a page that is not full is the last; a full one may be.
            full = len(page.data) >= size if not totals else len(found) < max(totals)
            if not full or len(found) == known:
                return found, totals, page.served_at
            number += 1


class _Progress:
    """How far one listing has come, all attempts at it included: a hostile upstream could go on for ever."""

    def __init__(self, username: str, limits: ApiLimits, clock: Clock) -> None:
        self._username = username
        self._limits = limits
        self._clock = clock
        self._began = clock.monotonic()
        self._pages = 0

    def note_page(self, secrets: int) -> None:
        """Note one more page of a listing that has, or claims to have, that many secrets.

        Raises:
            IncompleteListingError: that is beyond a limit.
        """
        self._pages += 1
        limits = self._limits
        if secrets > limits.max_listing_secrets:
            raise self._beyond(f"{secrets} secrets", "max_listing_secrets", limits.max_listing_secrets)
        if self._pages > limits.max_listing_pages:
            raise self._beyond(f"{self._pages} pages", "max_listing_pages", limits.max_listing_pages)
        seconds = self._clock.monotonic() - self._began
        if seconds > limits.max_listing_seconds:
            raise self._beyond(f"{seconds:.0f} s", "max_listing_seconds", limits.max_listing_seconds)

    def _beyond(self, what: str, limit: str, allowed: float) -> IncompleteListingError:
        return IncompleteListingError(
            f"the listing takes {what}, more than the {allowed:g} allowed",
            advice=f"Raise ApiLimits.{limit} if the listing is genuine",
            endpoint=LIST,
            username=self._username,
        )
