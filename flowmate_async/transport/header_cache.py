"""Values derived from a request's headers, kept while the headers live: a user's token is checked once."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from flowmate_async.redaction import Headers

T = TypeVar("T")

_MAX_KEPT = 4096
"""Maximum :class:`Headers` whose derived value is kept, since a caller may hold any number of them."""


class HeaderCache(Generic[T]):
    """A weak-keyed table from :class:`Headers` to a value that is derived from them.

    Args:
        derive: makes it; ``None`` is not kept.
    """

    __slots__ = ("_derive", "_kept")

    def __init__(self, derive: Callable[[Headers], T | None]) -> None:
        self._derive = derive
        self._kept: dict[int, tuple[weakref.ref[Headers], T]] = {}

    def of(self, headers: Headers) -> T | None:
        """Return what is derived from these headers."""
        key = id(headers)
        kept = self._kept.get(key)
        if kept is not None and kept[0]() is headers:
            return kept[1]
        derived = self._derive(headers)
        if derived is not None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            table = self._kept
            table[key] = (weakref.ref(headers, lambda _: table.pop(key, None)), derived)
        return derived

    def forget(self) -> None:
        """Drop everything."""
        self._kept.clear()
