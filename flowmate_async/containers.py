"""Small containers that several packages use."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruDict(OrderedDict[K, V]):
    """An LRU table: beyond its capacity, the item that was put first is evicted.

    Args:
        capacity: maximum number of items.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity: int = capacity

    def put(self, key: K, value: V) -> None:
        """Set an item as the most recently used one."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.capacity:
            self.popitem(last=False)


def chunked(items: Sequence[V], size: int) -> Iterator[Sequence[V]]:
    """Yield the items in chunks of this size; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
