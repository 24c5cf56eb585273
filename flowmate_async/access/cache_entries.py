"""The contents of the credential cache: credentials with their state, and recent failures."""

from collections import OrderedDict

import msgspec

from flowmate_async.clock import LONG_AGO, Clock, Moment
from flowmate_async.containers import LruDict
from flowmate_async.contract.freshness import Timeline
from flowmate_async.engine.coordination import SharedSecret
from flowmate_async.errors import FlowMateError
from flowmate_async.values.secrets import Secret, UnknownSecret

Key = tuple[str, str]
"""Username and secret id."""

_STRUCT_BYTES = 1024
_FREE_FORM_FACTOR = 32
_WIDEST_CHARACTER_BYTES = 4
_UNKNOWN_BYTES = 1024 * 1024

_REVOKED = Timeline(float("-inf"), float("-inf"), float("-inf"), float("-inf"))
"""The timeline of a rejected value, until upstream has been asked for a newer one."""


class CacheStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the cache.

    Attributes:
        entries: cached credentials.
        failures: remembered failures, such as "no such secret".
        hits: credentials served from the cache.
        misses: credentials that callers had to wait for.
        refreshes: values fetched from upstream.
        stale_served: values that were served after their refresh failed, since they were still valid.
    """

    entries: int
    failures: int
    hits: int
    misses: int
    refreshes: int
    stale_served: int


class Entry:
    """One cached credential. Its ``repr`` is the default one, without fields."""

    __slots__ = (
        "announced",
        "bytes",
        "failure",
        "generation",
        "newest",
        "pending_rejections",
        "refreshing",
        "rejected_until",
        "retry_at",
        "saved_timeline",
        "secret",
        "timeline",
    )

    def __init__(self, answer: SharedSecret, when: Timeline, generation: int) -> None:
        self.secret: Secret = answer.secret
        self.bytes: int = _memory_bytes(answer.secret)
        self.newest: bool = answer.newest
        self.timeline: Timeline = when
        self.generation: int = generation
        self.failure: FlowMateError | None = None
        self.retry_at: Moment = LONG_AGO
        self.rejected_until: Moment = LONG_AGO
        self.refreshing: bool = False
        self.announced: bool = False
        self.pending_rejections: int = 0
        self.saved_timeline: Timeline = when

    def revoke(self) -> None:
        """Stop serving it until upstream has been asked again, because an app rejected it."""
        self.timeline = _REVOKED
        if self.failure is None:
            self.retry_at = LONG_AGO  # whether it is upstream's newest is now in doubt

    @property
    def is_revoked(self) -> bool:
        """Whether an app has rejected it."""
        return self.timeline is _REVOKED


class EntryTable(OrderedDict[Key, Entry]):
    """An LRU cache of entries, bounded by number and by bytes.

    Args:
        capacity: maximum number of entries.
        max_bytes: estimated maximum bytes of memory for their secrets.
    """

    def __init__(self, *, capacity: int, max_bytes: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._max_bytes = max_bytes
        self.bytes: int = 0

    def insert(self, key: Key, entry: Entry) -> None:
        """Add an entry as the most recently used one. Evict the least recently used beyond the bounds."""
        self.drop(key)
        self[key] = entry
        self.bytes += entry.bytes
        self._shrink()

    def replace_secret(self, key: Key, entry: Entry, secret: Secret) -> None:
        """Replace an entry's secret with a newer answer that has the same credential."""
        entry.secret = secret
        before, entry.bytes = entry.bytes, _memory_bytes(secret)
        if self.get(key) is entry:
            self.bytes += entry.bytes - before
            self._shrink()

    def drop(self, key: Key) -> None:
        """Remove an entry if it exists."""
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
    """Negative cache: failures that are raised again for a while without another request.

    The oldest are evicted first.

    Args:
        capacity: maximum number of failures.
        clock: both clocks; a failure expires by the earlier one.
    """

    def __init__(self, *, capacity: int, clock: Clock) -> None:
        self._clock = clock
        self._failures: LruDict[Key, tuple[FlowMateError, Moment]] = LruDict(capacity)

    def __len__(self) -> int:
        return len(self._failures)

    def add(self, key: Key, error: FlowMateError, *, seconds: float) -> None:
        """Remember a failure for this long, unless one is remembered already, even an expired one."""
        if key not in self._failures:
            self._failures.put(key, (error.clone(), Moment.after(seconds, self._clock)))

    def raise_if_any(self, key: Key) -> None:
        """Raise the error of a recent failure to fetch it, if any."""
        error, until = self._failures.get(key, (None, LONG_AGO))
        if error is not None:
            if not until.passed(self._clock):
                raise error.clone()
            del self._failures[key]

    def forget(self, key: Key) -> None:
        """Drop the failure of a secret."""
        self._failures.pop(key, None)

    def clear(self) -> None:
        """Drop everything."""
        self._failures.clear()


def _memory_bytes(secret: Secret) -> int:
    """Return about how many bytes of memory a secret takes, at most.

    A part of unknown shape may take many times its JSON: an empty list is two characters and 64 bytes.
    """
    try:
        encoded = msgspec.json.encode(secret)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _UNKNOWN_BYTES
    free_form = isinstance(secret, UnknownSecret) or bool(secret.value.extra)
    size = len(encoded) * (1 if encoded.isascii() else _WIDEST_CHARACTER_BYTES)
    return _STRUCT_BYTES + size * (_FREE_FORM_FACTOR if free_form else 1)
