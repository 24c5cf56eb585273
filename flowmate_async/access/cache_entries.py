"""What the cache of credentials holds: each with what is known of it, and failures that still count."""

from collections import OrderedDict

import msgspec

from flowmate_async.clock import LONG_AGO, Clock, Moment
from flowmate_async.contract.freshness import Timeline
from flowmate_async.engine.coordination import SharedSecret
from flowmate_async.errors import FlowMateError
from flowmate_async.values.secrets import Secret, memory_bytes

Key = tuple[str, str]
"""Username and secret id."""

_CALLED_IN = Timeline(float("-inf"), float("-inf"), float("-inf"), float("-inf"))
"""Of a value that was rejected, until upstream has been asked for a newer one."""


class CacheStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The cache as it stands, and what it did so far.

    Attributes:
        entries: credentials held.
        failures: failures remembered, as "no such secret".
        hits: credentials served from the cache.
        misses: credentials that had to be waited for.
        refreshes: values that came from upstream.
        stale_served: values served although their refresh had failed, since they were still valid.
    """

    entries: int
    failures: int
    hits: int
    misses: int
    refreshes: int
    stale_served: int


class Entry:
    """One credential as it is held; its ``repr`` is the default one, without fields."""

    __slots__ = (
        "bytes",
        "failure",
        "generation",
        "newest",
        "refreshing",
        "rejected_until",
        "rejecters",
        "retry_at",
        "secret",
        "timeline",
        "told",
        "unrejected",
    )

    def __init__(self, answer: SharedSecret, when: Timeline, generation: int) -> None:
        self.secret: Secret = answer.secret
        self.bytes: int = memory_bytes(answer.secret)
        self.newest: bool = answer.newest
        self.timeline: Timeline = when
        self.generation: int = generation
        self.failure: FlowMateError | None = None
        self.retry_at: Moment = LONG_AGO
        self.rejected_until: Moment = LONG_AGO
        self.refreshing: bool = False
        self.told: bool = False
        self.rejecters: int = 0
        self.unrejected: Timeline = when

    def call_in(self) -> None:
        """Stop serving it until upstream has been asked again, since an app rejected it."""
        self.timeline = _CALLED_IN
        if self.failure is None:
            self.retry_at = LONG_AGO  # it was upstream's newest, and that is what is in doubt

    @property
    def called_in(self) -> bool:
        """Whether an app rejected it since it came."""
        return self.timeline is _CALLED_IN


class EntryTable(OrderedDict[Key, Entry]):
    """An LRU cache of entries, bounded by their number and by their bytes.

    Args:
        capacity: the most entries.
        max_bytes: the most bytes of memory that their secrets may take, as estimated.
    """

    def __init__(self, *, capacity: int, max_bytes: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._max_bytes = max_bytes
        self.bytes: int = 0

    def insert(self, key: Key, entry: Entry) -> None:
        """Add an entry as the most recently used one, and drop the least recently used beyond the bounds."""
        self.drop(key)
        self[key] = entry
        self.bytes += entry.bytes
        self._shrink()

    def replace_secret(self, key: Key, entry: Entry, secret: Secret) -> None:
        """Replace an entry's secret by a newer answer with the same credential."""
        entry.secret = secret
        before, entry.bytes = entry.bytes, memory_bytes(secret)
        if self.get(key) is entry:
            self.bytes += entry.bytes - before
            self._shrink()

    def drop(self, key: Key) -> None:
        """Forget an entry, if it is there."""
        entry = self.pop(key, None)
        if entry is not None:
            self.bytes -= entry.bytes

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self.bytes = 0

    def _shrink(self) -> None:
        while len(self) > self._capacity or self.bytes > self._max_bytes:
            self.drop(next(iter(self)))


class RecentFailures:
    """Failures that are answered again for a while, so that asking again and again costs nothing.

    The oldest go first when there are too many.

    Args:
        capacity: most failures held.
        clock: both clocks; a failure ends with the earlier one.
    """

    def __init__(self, *, capacity: int, clock: Clock) -> None:
        self._capacity = capacity
        self._clock = clock
        self._failures: OrderedDict[Key, tuple[FlowMateError, Moment]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def add(self, key: Key, error: FlowMateError, *, seconds: float) -> None:
        """Remember a failure for so long, unless one is remembered, be it over."""
        if key in self._failures:
            return
        self._failures[key] = (error.clone(), Moment.after(seconds, self._clock))
        while len(self._failures) > self._capacity:
            self._failures.popitem(last=False)

    def raise_if_any(self, key: Key) -> None:
        """Raise what fetching it failed with a moment ago, if it did."""
        error, until = self._failures.get(key, (None, LONG_AGO))
        if error is not None:
            if not until.passed(self._clock):
                raise error.clone()
            del self._failures[key]

    def forget(self, key: Key) -> None:
        """Drop what is held of a secret."""
        self._failures.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._failures.clear()
