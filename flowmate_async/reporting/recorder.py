"""Recorder: how a call went over time, sampled from ``fm.stats()``, in bounded memory.

Requests have no extra cost. When there are too many samples, each pair is merged and the step is doubled, so
that a minute and a day both end with a few hundred samples; sums stay exact.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from flowmate_async.stats import Latency, Stats

MOST_SAMPLES = 240
FIRST_STEP_SECONDS = 0.25


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A slice of time: what happened in it, and the flow-control state at its end.

    Attributes:
        at_seconds: its end, since the call began; it begins where the one before ends.
        requests: answers.
        synced: users synced.
        failed: users that failed.
        throttled: answers that asked everyone to wait.
        retries: requests sent again.
        rate: requests/s allowed; ``None`` without a limit.
        concurrency: requests in flight allowed.
        in_flight: requests on the wire.
        waiting: requests that wait for their turn.
        breaker: ``closed``, ``open`` or ``half-open``.
    """

    at_seconds: float
    requests: int
    synced: int
    failed: int
    throttled: int
    retries: int
    rate: float | None
    concurrency: int
    in_flight: int
    waiting: int
    breaker: str


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed of one call.

    Attributes:
        seconds: how long it was watched.
        rate: requests/s as configured; ``None`` without a limit.
        concurrency: requests in flight as configured.
        samples: how it went over time.
        latency: by endpoint.
        answers: by endpoint and HTTP status.
        broken: requests without an answer, by kind of failure.
        retries: requests sent again, by kind of error.
        throttled: answers that asked everyone to wait.
        elsewhere: whether the workers of a cluster sent the requests unobserved; then only users are
            reported.
    """

    seconds: float
    rate: float | None
    concurrency: int
    samples: tuple[Sample, ...]
    latency: dict[str, Latency]
    answers: dict[str, dict[int, int]]
    broken: dict[str, int]
    retries: dict[str, int]
    throttled: int
    elsewhere: bool = False


class Recorder:
    """Samples a client's counters.

    Args:
        stats: the client's.
        monotonic: the time, in seconds.
        most: maximum number of samples kept; even.
        step_seconds: the initial time between two samples.
        elsewhere: see :class:`Observation`.

    Attributes:
        step_seconds: the current time between two samples.
    """

    def __init__(
        self,
        stats: Callable[[], Stats],
        *,
        monotonic: Callable[[], float],
        most: int = MOST_SAMPLES,
        step_seconds: float = FIRST_STEP_SECONDS,
        elsewhere: bool = False,
    ) -> None:
        self._stats = stats
        self._monotonic = monotonic
        self._most = most
        self._elsewhere = elsewhere
        self.step_seconds: float = step_seconds
        self._began = monotonic()
        self._before = _Counts.of(stats())
        self._samples: list[Sample] = []

    def sample(self) -> None:
        """Record what has happened since the previous sample."""
        stats = self._stats()
        now, limiter = _Counts.of(stats), stats.traffic.limiter
        was, self._before = self._before, now
        self._samples.append(
            Sample(
                at_seconds=self._monotonic() - self._began,
                requests=now.requests - was.requests,
                synced=now.synced - was.synced,
                failed=now.failed - was.failed,
                throttled=now.throttled - was.throttled,
                retries=now.retries - was.retries,
                rate=limiter.current_rate,
                concurrency=limiter.current_concurrency,
                in_flight=stats.traffic.in_flight,
                waiting=limiter.waiting,
                breaker=stats.traffic.breaker.state,
            )
        )
        if len(self._samples) >= self._most:
            pairs = zip(self._samples[::2], self._samples[1::2], strict=True)
            self._samples = [_merged(first, second) for first, second in pairs]
            self.step_seconds *= 2

    def observation(self) -> Observation:
        """Return what was observed so far."""
        stats = self._stats()
        return Observation(
            seconds=self._monotonic() - self._began,
            rate=stats.traffic.limiter.rate,
            concurrency=stats.traffic.limiter.concurrency,
            samples=tuple(self._samples),
            latency=stats.latency,
            answers=stats.answers,
            broken=stats.broken,
            retries=stats.retries,
            throttled=stats.throttled,
            elsewhere=self._elsewhere,
        )


@contextmanager
def recording(stats: Callable[[], Stats], *, elsewhere: bool = False) -> Iterator[Recorder]:
    """In the block, sample a fresh client on the running loop's timer.

    Args:
        stats: the client's, and its worker processes'.
        elsewhere: whether its requests are sent by processes that do not report.
    """
    loop = asyncio.get_running_loop()
    recorder = Recorder(stats, monotonic=loop.time, elsewhere=elsewhere)

    timer: asyncio.TimerHandle

    def wait() -> None:
        nonlocal timer
        timer = loop.call_later(recorder.step_seconds, tick)

    def tick() -> None:
        recorder.sample()
        wait()

    wait()
    try:
        yield recorder
    finally:
        timer.cancel()
        recorder.sample()


class _Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Counters that only grow."""

    requests: int
    synced: int
    failed: int
    throttled: int
    retries: int

    @classmethod
    def of(cls, stats: Stats) -> "_Counts":
        return cls(
            requests=sum(stats.requests.values()),
            synced=stats.users.get("synced", 0),
            failed=stats.users.get("failed", 0),
            throttled=stats.throttled,
            retries=sum(stats.retries.values()),
        )


def _merged(first: Sample, second: Sample) -> Sample:
    """Merge two neighbouring samples: sums of events, the later end, the worse state."""
    rates = [rate for rate in (first.rate, second.rate) if rate is not None]
    return Sample(
        at_seconds=second.at_seconds,
        requests=first.requests + second.requests,
        synced=first.synced + second.synced,
        failed=first.failed + second.failed,
        throttled=first.throttled + second.throttled,
        retries=first.retries + second.retries,
        rate=min(rates, default=None),
        concurrency=min(first.concurrency, second.concurrency),
        in_flight=max(first.in_flight, second.in_flight),
        waiting=max(first.waiting, second.waiting),
        breaker=first.breaker if second.breaker == "closed" else second.breaker,
    )
