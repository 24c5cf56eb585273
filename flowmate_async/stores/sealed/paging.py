"""Reading data larger than memory, page by page; each page starts after the previous page's last row."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from flowmate_async.errors import StoreError
from flowmate_async.stores.base import Verification
from flowmate_async.stores.sealed.manifests import StoredRow
from flowmate_async.values.secrets import Secret

PAGE = 256
"""How many rows an iterator holds in memory at a time."""


class HasRecordKey(Protocol):
    """A row that names its credential."""

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
        fetch: returns the page after a username and a secret id, of the given number of rows.
        username: if given, only this user's rows are fetched.
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
        StoreError: one cannot be decrypted.
    """
    async for row in rows:
        yield row.username, await open_row(row)


async def verified(rows: AsyncIterable[StoredRow], open_row: OpenRow) -> Verification:
    """Return how many can be decrypted, and which cannot."""
    intact, damaged = 0, []
    async for row in rows:
        try:
            await open_row(row)
        except StoreError:
            damaged.append((row.username, row.secret_id))
        else:
            intact += 1
    return Verification(intact=intact, damaged=tuple(damaged))
