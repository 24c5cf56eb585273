"""The circuit breaker: it stops all requests for a while when upstream fails for many users at once.

A single 401 may mean an expired token, which is replaced. Many 401s across many users at once mean a failing
server (docs/contract/OBSERVED.md § Errors), and impersonating every user again would add to its load.
"""

import enum
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable

import msgspec

from flowmate_async.clock import Clock


class BreakerState(enum.Enum):
    """The three usual states."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When the breaker opens, and for how long.

    Attributes:
        window_seconds: the length of the sliding window.
        failures: the number of failures within the window that opens it…
        subjects: …if they affect at least this many different users…
        share: …and make up at least this share of all answers within the window.
        open_seconds: how long it stays open the first time; doubled each time a probe fails.
        max_open_seconds: the maximum time it stays open.
        probes: maximum number of concurrent probes when it is half-open.
    """

    window_seconds: float = 10.0
    failures: int = 20
    subjects: int = 5
    share: float = 0.5
    open_seconds: float = 5.0
    max_open_seconds: float = 60.0
    probes: int = 3


class BreakerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of a breaker.

    Attributes:
        state: ``"closed"``, ``"open"`` or ``"half-open"``.
        opened: how often it has opened.
        refused: requests not sent because it was open.
    """

    state: str
    opened: int
    refused: int


class Breaker:
    """A circuit breaker for everything one client sends.

    Args:
        policy: see :class:`BreakerPolicy`.
        clock: the client's clock.
        on_open: called with the seconds for which it stays open.
        on_close: called when a probe succeeded.
        uniform: the source of jitter.

    Attributes:
        epoch: how often it has opened.
        closed: whether every request may be sent.
    """

    def __init__(
        self,
        policy: BreakerPolicy,
        *,
        clock: Clock,
        on_open: Callable[[float], object],
        on_close: Callable[[], object] = lambda: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._on_open = on_open
        self._on_close = on_close
        self._uniform = uniform
        self._answers = _Answers(policy.window_seconds)
        self._failures: deque[tuple[float, Hashable]] = deque()
        self._subjects: Counter[Hashable] = Counter()
        self._open_until: float | None = None
        self._open_seconds = policy.open_seconds
        self._probing = 0
        self._refused = 0
        self.epoch: int = 0
        self.closed: bool = True

    @property
    def state(self) -> BreakerState:
        """Closed, open or half-open."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self._clock.monotonic() < self._open_until else BreakerState.HALF_OPEN

    def failing_subjects(self) -> int:
        """Return how many subjects had failures within the window."""
        self._forget_old(self._clock.monotonic())
        return len(self._subjects)

    def closed_for(self) -> float | None:
        """Return the seconds until a retry makes sense; ``None`` if :meth:`refused_for` would admit one."""
        if self._open_until is None:
            return None
        seconds = self._open_until - self._clock.monotonic()
        if seconds <= 0 and self._probing < self._policy.probes:
            return None
        return max(seconds, self._policy.open_seconds / 10)

    def refused_for(self) -> float | None:
        """Return the seconds until a retry makes sense; ``None`` if a request may be sent.

        A caller that may send must report the outcome to :meth:`note`, with the current :attr:`epoch`.
        """
        seconds = self.closed_for()
        if seconds is not None:
            self._refused += 1
        elif self._open_until is not None:
            self._probing += 1
        return seconds

    def note_good(self, answers: int, now: float) -> None:
        """Record good answers of the current epoch while the breaker is closed.

        Args:
            answers: how many there are.
            now: the current time, in seconds of the monotonic clock.
        """
        self._answers.count(answers, now)

    def note(self, *, subject: Hashable, failed: bool | None, epoch: int) -> None:
        """Record how an admitted request ended.

        Args:
            subject: whose request it was.
            failed: whether upstream failed; ``None`` if the outcome says nothing about its health.
            epoch: the epoch in which it was admitted; answers from an earlier one are ignored.
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
        self._answers.count(1, now)
        if failed:
            self._failures.append((now, subject))
            self._subjects[subject] += 1
            if self._is_sick(now):
                self._open()

    def statistics(self) -> BreakerStatistics:
        """Return the breaker's statistics."""
        return BreakerStatistics(state=self.state.value, opened=self.epoch, refused=self._refused)

    def _note_probe(self, *, failed: bool) -> None:
        """Record a probe: one success closes the breaker, one failure opens it again."""
        self._probing = max(0, self._probing - 1)
        if failed:
            self._open_seconds = min(2 * self._open_seconds, self._policy.max_open_seconds)
            self._open()
        else:
            self._open_until = None
            self.closed = True
            self._open_seconds = self._policy.open_seconds
            self._probing = 0
            self._on_close()

    def _open(self) -> None:
        seconds = self._open_seconds * self._uniform(1.0, 1.25)
        self._open_until = self._clock.monotonic() + seconds
        self.closed = False
        self._answers = _Answers(self._policy.window_seconds)
        self._failures.clear()
        self._subjects.clear()
        self._probing = 0
        self.epoch += 1
        self._on_open(seconds)

    def _is_sick(self, now: float) -> bool:
        self._forget_old(now)
        policy = self._policy
        enough = max(policy.failures, policy.share * self._answers.within(now))
        return len(self._failures) >= enough and len(self._subjects) >= policy.subjects

    def _forget_old(self, now: float) -> None:
        while self._failures and self._failures[0][0] < now - self._policy.window_seconds:
            _, subject = self._failures.popleft()
            self._subjects[subject] -= 1
            if not self._subjects[subject]:
                del self._subjects[subject]


class _Answers:
    """Approximate answer count over a sliding window of ten buckets, in constant memory."""

    __slots__ = ("_grain_seconds", "_latest", "_latest_until", "_slices", "_window_seconds")

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._grain_seconds = window_seconds / 10
        self._slices: deque[tuple[float, int]] = deque()
        self._latest = 0
        self._latest_until = float("-inf")

    def count(self, answers: int, now: float) -> None:
        """Count answers."""
        if now >= self._latest_until:
            self._slices.append((self._latest_until, self._latest))
            self._forget_old(now)
            self._latest, self._latest_until = 0, now + self._grain_seconds
        self._latest += answers

    def within(self, now: float) -> int:
        """Return the count within the window that ends now."""
        self._forget_old(now)
        return self._latest + sum(answers for _, answers in self._slices)

    def _forget_old(self, now: float) -> None:
        if self._latest_until <= now - self._window_seconds:
            self._latest = 0
        while self._slices and self._slices[0][0] <= now - self._window_seconds:
            self._slices.popleft()
