"""The limit is exact, and what arrived proves it."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.sandbox import burst_needed, most_in_window
from flowmate_async.sandbox.admission import TokenBucket

# Eighths of a second are exact in binary, so that a boundary can be met to the point.
MOMENTS = st.lists(st.integers(0, 40), min_size=1, max_size=80).map(
    lambda steps: [sum(steps[: n + 1]) / 8 for n in range(len(steps))]
)


@given(MOMENTS, st.integers(1, 20), st.integers(1, 12))
def test_the_bucket_grants_exactly_what_a_bucket_of_fractions_grants(
    moments: list[float], rate: int, burst: int
) -> None:
    """Neither one more nor one less, however long it runs."""
    now = 0.0
    bucket = TokenBucket(rate=rate, burst=burst, clock=lambda: now)
    level, before = Fraction(burst), Fraction(0)
    for moment in moments:
        now = moment
        level = min(Fraction(burst), level + (Fraction(moment) - before) * rate)
        before = Fraction(moment)
        granted = bucket.take() == 0
        assert granted == (level >= 1)
        level -= granted


def test_rounding_does_not_add_up() -> None:
    """Even if the interval is not exact as a float, eleven hours of tenfold load get every request due."""
    now = 0.0
    bucket = TokenBucket(rate=0.3, burst=2, clock=lambda: now)
    granted = 0
    for number in range(120_001):
        now = number / 3
        granted += bucket.take() == 0
    assert granted in (12_001, 12_002)


@given(MOMENTS, st.integers(1, 20), st.integers(1, 12))
def test_what_a_bucket_grants_needs_no_more_than_its_burst(
    moments: list[float], rate: int, burst: int
) -> None:
    """`burst_needed` covers every window at once; `most_in_window` the windows of one length."""
    clock = iter([0.0, *moments])
    bucket = TokenBucket(rate=rate, burst=burst, clock=lambda: next(clock))
    granted = [moment for moment in moments if bucket.take() == 0]
    assert burst_needed(granted, rate) <= burst + 1e-6
    for seconds in (0, 0.5, 1, 3):
        assert most_in_window(granted, seconds) <= burst + rate * seconds


@given(MOMENTS, st.integers(1, 20))
def test_the_burst_needed_is_the_largest_excess_over_all_windows(moments: list[float], rate: int) -> None:
    """The same as looking at every pair of moments."""
    by_pairs = max(
        last - first + 1 - rate * (moments[last] - moments[first])
        for first in range(len(moments))
        for last in range(first, len(moments))
    )
    assert burst_needed(moments, rate) == pytest.approx(by_pairs)


@given(MOMENTS, st.sampled_from([0, 0.25, 1, 2.5]))
def test_the_most_in_a_window_is_counted_like_by_hand(moments: list[float], seconds: float) -> None:
    """Both ends of the window included."""
    by_hand = max(sum(0 <= other - start <= seconds for other in moments) for start in moments)
    assert most_in_window(moments, seconds) == by_hand


def test_no_arrivals_prove_nothing() -> None:
    """Nothing needs no burst."""
    assert (most_in_window([], 1), burst_needed([], 5)) == (0, 0)


@pytest.mark.anyio
async def test_arrivals_are_kept_when_asked_for(running: Any) -> None:
    """Every counted request, refused ones too; in order; over HTTP as well; reset with the statistics."""
    async with running(record_arrivals=True, rate=0.001, burst=1) as (sandbox, call):
        for _ in range(3):
            await call.get("/secrets/")
        assert sandbox.stats().throttled == 2
        assert len(sandbox.arrivals) == 3
        assert list(sandbox.arrivals) == sorted(sandbox.arrivals)
        assert (await call.admin("GET", "arrivals")).json() == list(sandbox.arrivals)
        sandbox.reset_stats()
        assert sandbox.arrivals == ()


@pytest.mark.anyio
async def test_arrivals_are_not_kept_unasked(running: Any) -> None:
    """They cost memory."""
    async with running() as (sandbox, call):
        await call.get("/secrets/")
        assert sandbox.arrivals == ()
