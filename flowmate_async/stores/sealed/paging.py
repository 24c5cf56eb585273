"""Reading what does not fit into memory, a page at a time; each page follows the last row of the last."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from flowmate_async.errors import StoreError
from flowmate_async.stores.base import Verification
from flowmate_async.stores.sealed.manifests import StoredRow
from flowmate_async.values.secrets import Secret

PAGE = 256
"""How many rows an iterator holds in memory at a time."""


class HasRecordKey(Protocol):
    """A row that says which place it is of."""

    @property
    def username(self) -> str: ...  # noqa: D102
    @property
    def secret_id(self) -> str: ...  # noqa: D102


Row = TypeVar("Row", bound=HasRecordKey)


async def in_key_order(
    fetch: Callable[[str, str, int], Awaitable[list[Row]]], username: str | None
) -> AsyncIterator[Row]:
    """Yield every row, by username and secret id.

    Args:
        fetch: the page after a username and a secret id, of so many rows.
        username: whose rows alone are fetched, if anybody's.
    """
    last = (username or "", "")
    while page := await fetch(*last, PAGE):
        for row in page:
            yield row
        last = (page[-1].username, page[-1].secret_id)


OpenRow = Callable[[StoredRow], Awaitable[Secret]]


async def opened(rows: AsyncIterable[StoredRow], open_row: OpenRow) -> AsyncIterator[tuple[str, Secret]]:
    """Yield every (username, credential).

    Raises:
        StoreError: one does not open.
    """
    async for row in rows:
        yield row.username, await open_row(row)


async def verified(rows: AsyncIterable[StoredRow], open_row: OpenRow) -> Verification:
    """Return how many open, and which do not."""
    intact, damaged = 0, []
    async for row in rows:
        try:
            await open_row(row)
        except StoreError:
            damaged.append((row.username, row.secret_id))
        else:
            intact += 1
    return Verification(intact=intact, damaged=tuple(damaged))
