"""How long credentials and answers are valid, on both clocks; ``contract/freshness.py`` has the rules."""

from collections.abc import Callable

from flowmate_async.access.cache_entries import Entry, Key
from flowmate_async.clock import Clock, Moment
from flowmate_async.contract.freshness import FreshnessPolicy, State, Timeline, timeline
from flowmate_async.engine.coordination import Acceptable, SharedSecret
from flowmate_async.errors import CredentialExpiredError


class Validity:
    """The freshness rules at this moment.

    Args:
        policy: see :class:`FreshnessPolicy`.
        clock: wall time for ``expires``, monotonic time for ages.
        uniform: the source of jitter.
    """

    def __init__(
        self, policy: FreshnessPolicy, *, clock: Clock, uniform: Callable[[float, float], float]
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._uniform = uniform

    def timeline(self, answer: SharedSecret) -> Timeline:
        """Return the timeline of an answer, which another process may have received a while ago."""
        return timeline(
            answer.secret,
            wall=self._clock.wall() - answer.age_seconds,
            monotonic=self._clock.monotonic() - answer.age_seconds,
            jitter=self._uniform(0.0, 1.0),
            policy=self._policy,
        )

    def is_fresh(self, answer: SharedSecret) -> bool:
        """Return whether an answer needs no early refresh."""
        return self._state(answer, 0.0) is State.FRESH

    def lasting(self, min_valid: float) -> Acceptable:
        """Return a function that checks whether an answer is valid for that many seconds."""
        return lambda answer: self._state(answer, min_valid) is not State.EXPIRED

    def _state(self, answer: SharedSecret, min_valid: float) -> State:
        return self.timeline(answer).state(
            wall=self._clock.wall(), monotonic=self._clock.monotonic(), min_valid_seconds=min_valid
        )

    def lasts(self, entry: Entry, min_valid: float) -> bool:
        """Return whether an entry is valid now and for that many seconds."""
        remaining = self.remaining(entry)
        return remaining > 0 and remaining >= min_valid

    def remaining(self, entry: Entry) -> float:
        """Return for how many more seconds an entry is valid."""
        return entry.timeline.remaining_seconds(wall=self._clock.wall(), monotonic=self._clock.monotonic())

    def refresh_due_in(self, entry: Entry) -> float | None:
        """Return the seconds until an entry's early refresh is due; ``None`` for never."""
        when, clock = entry.timeline, self._clock
        due = min(when.refresh_at_wall - clock.wall(), when.refresh_at_monotonic - clock.monotonic())
        return None if due == float("inf") else max(due, entry.retry_at.remaining_seconds(clock))

    def too_short(self, key: Key, entry: Entry, min_valid: float) -> CredentialExpiredError:
        """Return the error for upstream's newest credential that is not valid for long enough."""
        username, secret_id = key
        remaining = self.remaining(entry)
        if entry.secret.expires_at is None and remaining > 0:
            what = f"its end is unknown, so it is served for {remaining:.0f} s and not for {min_valid:.0f} s"
            advice = "Ask for less, or raise session_ttl_seconds or oauth_ttl_seconds of FreshnessPolicy"
        elif remaining <= 0:
            what = "upstream's newest credential has expired"
            advice = "The user must connect the app again, unless the clock of this machine is wrong"
        else:
            what = f"upstream's newest credential is valid for {remaining:.0f} s, not for {min_valid:.0f} s"
            advice = "Ask for less: upstream makes a new one only when less than 15 minutes are left"
        return CredentialExpiredError(what, advice=advice, username=username, secret_id=secret_id)

    def cool_down(self) -> float:
        """Return the duration of a cool-down in seconds."""
        return self._policy.cool_down_seconds * self._uniform(1.0, 1.5)

    def after_cool_down(self) -> Moment:
        """Return the end of a cool-down that begins now."""
        return Moment.after(self.cool_down(), self._clock)
