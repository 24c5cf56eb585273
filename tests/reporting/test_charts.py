"""Charts show the counted values, and stay within their box."""

import re

from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.reporting.charts import HEIGHT, WIDTH, histogram, nice_ceiling, over_time, per_second
from flowmate_async.reporting.recorder import Sample
from flowmate_async.stats import Histogram

durations = st.lists(st.floats(1e-9, 3600), min_size=1, max_size=60)
counts = st.lists(
    st.tuples(st.floats(0.01, 100), st.integers(0, 10**6), st.one_of(st.none(), st.floats(0, 1e6))),
    min_size=1,
    max_size=40,
)


def recorded(seconds):
    made = Histogram()
    for one in seconds:
        made.record(one)
    return made.latency()


@given(durations)
def test_every_answer_is_in_the_bar_of_its_duration(seconds):
    latency = recorded(seconds)
    bars = histogram("GET /", latency).bars
    assert sum(bar.count for bar in bars) == len(seconds)
    for bar in bars:
        expected = sum(
            bar.upper_seconds / 2 < one <= bar.upper_seconds or (bar is bars[0] and one <= bar.upper_seconds)
            for one in seconds
        )
        assert bar.count == expected
        assert 0 <= bar.x < bar.x + bar.width <= WIDTH
        assert 0 <= bar.y <= HEIGHT
        assert abs(bar.y + bar.height - HEIGHT) < 1e-9


@given(st.floats(1e-6, 1e12))
def test_an_axis_ends_at_a_round_number_above(number):
    top = nice_ceiling(number)
    assert number * (1 - 1e-9) <= top <= 2.5 * number * (1 + 1e-9)
    assert re.fullmatch(r"(1|2|2\.5|5)(0*)(\.0)?e[+-]\d+|(10*|20*|250*|2\.5|50*)", f"{top:.10g}") or top < 1


@given(counts)
def test_lines_stay_in_their_box_and_end_at_the_right_edge(slices):
    samples, now = [], 0.0
    for seconds, requests, rate in slices:
        now += seconds
        samples.append(
            Sample(
                at_seconds=now,
                requests=requests,
                synced=0,
                failed=0,
                throttled=requests % 2,
                retries=0,
                rate=rate,
                concurrency=64,
                in_flight=3,
                waiting=0,
                breaker="closed",
            )
        )
    speed = per_second(lambda sample: sample.requests, samples)
    series = [("speed", "area one", speed), ("rate", "line", lambda sample: sample.rate)]
    plot = over_time("t", samples, unit="u", series=series, marks=("m", lambda sample: sample.throttled))
    assert plot.seconds == now
    for line in plot.lines:
        points = [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([\d. e-]+)", line.path)]
        assert all(0 <= x <= WIDTH + 0.1 for x, _ in points)
        assert all(-0.01 <= y <= HEIGHT + 0.01 for _, y in points)
    assert all(0 <= mark <= WIDTH for mark in plot.marks)
    assert len(plot.marks) == sum(requests % 2 for _, requests, _ in slices)
    assert abs(max(x for x, _ in points) - WIDTH) < 0.1 if slices[-1][2] is not None else True
