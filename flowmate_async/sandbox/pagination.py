"""Pages of a list: `page[size]` and `page[number]`, and what nonsense in them means.

docs/contract/OBSERVED.md § Listing. Pure.
"""

import re
from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

__all__ = ["Page", "PageMeta", "page_of", "slice_of"]

_DEFAULT_SIZE = 30
_DEFAULT_NUMBER = 1
_LEADING_INTEGER = re.compile(r"\s*([+-]?\d{1,15})")

Item = TypeVar("Item")


class Page(msgspec.Struct, frozen=True):
    """Which page is asked for."""

    number: int = _DEFAULT_NUMBER
    size: int = _DEFAULT_SIZE


class PageMeta(msgspec.Struct, frozen=True, rename="camel"):
    """The `meta` of a list."""

    page: int
    per_page: int
    total: int
    total_pages: int


def page_of(query: str) -> Page:
    """Read the page from a query string with literal or %-encoded brackets."""
    if not query:
        return Page()
    asked = dict(parse_qsl(query, keep_blank_values=True))
    return Page(
        number=_leading_integer(asked.get("page[number]", "")) or _DEFAULT_NUMBER,
        size=_leading_integer(asked.get("page[size]", "")) or _DEFAULT_SIZE,
    )


def slice_of(items: Sequence[Item], page: Page) -> tuple[Sequence[Item], PageMeta]:
    """Cut one page out of all items. A page past the end is empty, not an error."""
    # A negative size means "this many at most" to the database: size -1 gives one item.
    limit = abs(page.size)
    start = max(0, (page.number - 1) * page.size)
    pages = max(1, -(-len(items) // page.size))
    meta = PageMeta(page=page.number, per_page=page.size, total=len(items), total_pages=pages)
    return items[start : start + limit], meta


def _leading_integer(text: str) -> int:
    found = _LEADING_INTEGER.match(text)
    return int(found[1]) if found else 0
