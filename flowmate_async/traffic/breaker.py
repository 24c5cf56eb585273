"""The circuit breaker: when many users meet a sick upstream at once, nobody else is sent there for a while.

A 401 may be a dead token, and a dead token is replaced; but many 401s across many users at once mean a sick
server (docs/contract/OBSERVED.md § Errors), and impersonating everybody anew would make it sicker.
"""

import enum
import random
from collections import deque
from collections.abc import Callable, Hashable
from contextvars import ContextVar

import msgspec

from flowmate_async.clock import Clock

_subject: ContextVar[Hashable] = ContextVar("flowmate_async_subject", default="the tenant")


def current_subject() -> Hashable:
    """Whose requests are sent now."""
    return _subject.get()


class on_behalf_of:  # noqa: N801 - a context manager, called like a function
    """Within, and in tasks started within, requests are this user's: however many tokens the user gets."""

    __slots__ = ("_subject", "_token")

    def __init__(self, subject: Hashable) -> None:
        self._subject = subject

    def __enter__(self) -> None:
        self._token = _subject.set(self._subject)

    def __exit__(self, *_exception: object) -> None:
        _subject.reset(self._token)


class BreakerState(enum.Enum):
    """The classic three."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When the breaker opens, and for how long.

    Attributes:
        window_seconds: how far back it looks.
        failures: so many failures within the window open it…
        subjects: …if so many different users met them…
        share: …and they are at least this share of all answers within the window.
        open_seconds: how long it stays open the first time; doubled each time a probe fails.
        max_open_seconds: the longest it stays open.
        probes: requests that are let through at once when it is half-open.
    """

    window_seconds: float = 10.0
    failures: int = 20
    subjects: int = 5
    share: float = 0.5
    open_seconds: float = 5.0
    max_open_seconds: float = 60.0
    probes: int = 3


class BreakerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The breaker as it stands."""

    state: str
    opened: int
    refused: int


class Breaker:
    """A circuit breaker over everything one client sends.

    Args:
        policy: see :class:`BreakerPolicy`.
        clock: the time it keeps.
        on_open: called with the seconds it will stay open.
        uniform: the source of jitter.

    Attributes:
        epoch: how often it has opened.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        *,
        clock: Clock,
        on_open: Callable[[float], object],
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._on_open = on_open
        self._uniform = uniform
        self._seen: deque[tuple[float, Hashable]] = deque()
        self._failed = 0
        self._open_until: float | None = None
        self._open_seconds = policy.open_seconds
        self._probing = 0
        self._refused = 0
        self.epoch = 0

    @property
    def state(self) -> BreakerState:
        """Closed, open or half-open."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock.monotonic() < self._open_until else BreakerState.HALF_OPEN

    def closed_for(self) -> float | None:
        """Seconds until it is worth asking again; ``None`` when :meth:`refused_for` would let one through."""
        if self._open_until is None:
            return None
        seconds = self._open_until - self._clock.monotonic()
        if seconds <= 0 and self._probing < self._policy.probes:
            return None
        return max(seconds, self._policy.open_seconds / 10)

    def refused_for(self) -> float | None:
        """Seconds until it is worth asking again; ``None`` when a request may be sent.

        Whoever may send must report back with :meth:`note`, naming the :attr:`epoch`.
        """
        seconds = self.closed_for()
        if seconds is not None:
            self._refused += 1
        elif self._open_until is not None:
            self._probing += 1
        return seconds

    def note(self, *, subject: Hashable, failed: bool | None, epoch: int) -> None:
        """How a request that was let through ended.

        Args:
            subject: whose request it was.
            failed: upstream was sick; ``None`` when the end says nothing of its health.
            epoch: the epoch it was let through in; an answer from an earlier one says nothing new.
        """
        if epoch != self.epoch:
            return
        if failed is None:
            self._probing = max(0, self._probing - 1)
            return
        if self._open_until is not None:
            self._note_probe(failed=failed)
            return
        now = self._clock.monotonic()
        self._seen.append((now, subject if failed else None))
        self._failed += failed
        self._trim(now)
        if failed and self._is_sick():
            self._open()

    def statistics(self) -> BreakerStatistics:
        """The breaker as it stands."""
        return BreakerStatistics(state=self.state.value, opened=self.epoch, refused=self._refused)

    def _note_probe(self, *, failed: bool) -> None:
        """Of the requests let through while half-open, one success closes and one failure opens again."""
        self._probing = max(0, self._probing - 1)
        if failed:
            self._open_seconds = min(2 * self._open_seconds, self._policy.max_open_seconds)
            self._open()
        else:
            self._open_until = None
            self._open_seconds = self._policy.open_seconds
            self._probing = 0

    def _open(self) -> None:
        seconds = self._open_seconds * self._uniform(1.0, 1.25)
        self._open_until = self._clock.monotonic() + seconds
        self._seen.clear()
        self._failed = 0
        self._probing = 0
        self.epoch += 1
        self._on_open(seconds)

    def _is_sick(self) -> bool:
        if self._failed < self._policy.failures or self._failed < self._policy.share * len(self._seen):
            return False
        subjects = {subject for _, subject in self._seen if subject is not None}
        return len(subjects) >= self._policy.subjects

    def _trim(self, now: float) -> None:
        while self._seen and self._seen[0][0] < now - self._policy.window_seconds:
            _, subject = self._seen.popleft()
            self._failed -= subject is not None
