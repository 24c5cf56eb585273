"""Pages of a list: ``page[size]`` and ``page[number]``, and the effect of invalid values.

docs/contract/OBSERVED.md § Listing and § Second look, "Requests". Pure.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TypeVar
from urllib.parse import parse_qs

import msgspec

_DEFAULT_SIZE = 30
_DEFAULT_NUMBER = 1
_LEADING_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,300})(?![0-9])")

Item = TypeVar("Item")


class NegativeSkipError(ValueError):
    """The database refuses to skip a negative number of items; readers are shown the message."""


class Page(msgspec.Struct, frozen=True):
    """The requested page."""

    number: int = _DEFAULT_NUMBER
    size: int = _DEFAULT_SIZE


class PageMeta(msgspec.Struct, frozen=True, rename="camel"):
    """The ``meta`` of a list. Page and size are echoed however large they are."""

    page: Decimal
    per_page: Decimal
    total: int
    total_pages: int


def page_of(query: str) -> Page:
    """Read the page from a query string with literal or %-encoded brackets; the first of several counts."""
    if not query:
        return Page()
    asked = parse_qs(query, keep_blank_values=True)
    return Page(
        number=_leading_integer(asked.get("page[number]", [""])[0]) or _DEFAULT_NUMBER,
        size=_leading_integer(asked.get("page[size]", [""])[0]) or _DEFAULT_SIZE,
    )


def slice_of(items: Sequence[Item], page: Page) -> tuple[Sequence[Item], PageMeta]:
    """Cut one page out of all items, empty past the end; raise ``NegativeSkipError`` before the start."""
    # A negative size means "this many at most" to the database: size -1 gives one item.
    limit = abs(page.size)
    start = (page.number - 1) * page.size
    if start < 0:
        raise NegativeSkipError(f"BSON field 'skip' value must be >= 0, actual value '{start}'")
    pages = max(1, -(-len(items) // page.size))
    number, size = Decimal(page.number), Decimal(page.size)
    meta = PageMeta(page=number, per_page=size, total=len(items), total_pages=pages)
    return items[start : start + limit], meta


def _leading_integer(text: str) -> int:
    """Read digits as the upstream's language does: as the nearest double."""
    found = _LEADING_INTEGER.match(text)
    return int(Decimal(repr(float(found[1])))) if found else 0
