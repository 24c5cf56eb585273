"""All of a user's secrets: every page, each once, counted against upstream's own total.

Pages are unsorted and shift under inserts and deletes (docs/contract/OBSERVED.md § Listing), so a listing is
believed only when it agrees with ``meta.total``; otherwise it is fetched again, in one page.
"""

from functools import partial

import msgspec

from flowmate_async.api import Api
from flowmate_async.errors import IncompleteListingError
from flowmate_async.events import Emitter, Relisted
from flowmate_async.models import SecretSummary
from flowmate_async.protocol import LIST
from flowmate_async.tokens import UserTokens

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
        page_size: secrets a page.
    """

    def __init__(self, api: Api, *, tokens: UserTokens, emitter: Emitter, page_size: int) -> None:
        self._api = api
        self._tokens = tokens
        self._emitter = emitter
        self._page_size = page_size

    async def list(self, username: str) -> Listing:
        """Every secret of a user.

        Raises:
            IncompleteListingError: the listing kept disagreeing with its own total.
        """
        size = self._page_size
        for attempt in range(_ATTEMPTS):
            found, totals, served_at = await self._pages(username, size)
            # A total that changed on the way tells of a shift, even where the last one agrees with the count.
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
        self, username: str, size: int
    ) -> tuple[dict[str, SecretSummary], set[int], float | None]:
        """The secrets of all pages by id, every total that the pages gave, and the time of the last one."""
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
            # Without a total, a page that is not full is the last; a full one may be.
            full = len(page.data) >= size if not totals else len(found) < max(totals)
            if not full or len(found) == known:
                return found, totals, page.served_at
            number += 1
