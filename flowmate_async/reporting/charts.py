"""Charts as geometry: numbers in, SVG paths and axis labels out. Pure; the template sets colours and sizes.

Every plot is drawn in a box of 1000 by 100, which the page stretches; labels are text outside the box, so
that they stay readable at any width.
"""

import math
from collections.abc import Callable, Sequence

import msgspec

from flowmate_async.reporting.recorder import Sample
from flowmate_async.stats import Latency

WIDTH, HEIGHT = 1000.0, 100.0
_SPARSE_SECONDS = 2.0
_TINY = 1e-9
_LEAST_POWER = -12
"""A quarter of a millisecond: all shorter latencies share the first bar."""

_LEAST_BARS = 8


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One series: its name, its look (a class of the style sheet), and its path."""

    name: str
    look: str
    path: str


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """A chart over time.

    Attributes:
        title: what it shows.
        unit: the unit of its numbers.
        top: the value at its upper edge.
        seconds: the time at its right edge.
        lines: the lines, in drawing order.
        marks: horizontal positions of marked moments.
        marked: what the marks are.
        peak: the largest number.
        mean: the mean over time.
    """

    title: str
    unit: str
    top: float
    seconds: float
    lines: tuple[Line, ...]
    peak: float
    mean: float
    marks: tuple[float, ...] = ()
    marked: str = ""


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of a histogram: its label, its count, and its box."""

    upper_seconds: float
    count: int
    x: float
    y: float
    width: float
    height: float


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """The latency histogram of one endpoint; the bars' widths double."""

    endpoint: str
    latency: Latency
    bars: tuple[Bar, ...]


class DayBar(msgspec.Struct, frozen=True, kw_only=True):
    """One day of a bar chart: how long ago it ended, its count, and its box."""

    days_ago: int
    count: int
    x: float
    y: float
    width: float
    height: float


def days(counts: Sequence[int]) -> tuple[DayBar, ...]:
    """Return a bar for each day.

    Args:
        counts: one for each day, the last one ends now.
    """
    tallest, width = max(*counts, 1), WIDTH / len(counts)
    return tuple(
        DayBar(
            days_ago=len(counts) - 1 - number,
            count=count,
            x=number * width + width * 0.08,
            y=HEIGHT * (1 - count / tallest),
            width=width * 0.84,
            height=HEIGHT * count / tallest,
        )
        for number, count in enumerate(counts)
    )


def over_time(
    title: str,
    samples: Sequence[Sample],
    *,
    unit: str,
    series: Sequence[tuple[str, str, Callable[[Sample], float | None]]],
    marks: tuple[str, Callable[[Sample], int]] | None = None,
    mean: float | None = None,
) -> Plot:
    """Draw a gauge: a value at each sample.

    Args:
        title: what it shows.
        samples: the slices of time.
        unit: the unit of the numbers.
        series: name, look and number of each line; a number may be missing.
        marks: what is marked, and how often it happened in a slice.
        mean: over time, of a series whose numbers are smoothed; ``None`` to take it from the first series.
    """
    seconds = max((sample.at_seconds for sample in samples), default=0.0)
    numbers = [(name, look, [read(sample) for sample in samples]) for name, look, read in series]
    peak = max((number for _, _, column in numbers for number in column if number is not None), default=0.0)
    top = nice_ceiling(peak)
    edges = [sample.at_seconds for sample in samples]
    return Plot(
        title=title,
        unit=unit,
        top=top,
        seconds=seconds,
        lines=tuple(
            Line(
                name=name, look=look, path=_steps(edges, column, seconds, top, closed=look.startswith("area"))
            )
            for name, look, column in numbers
        ),
        peak=peak,
        mean=_mean(edges, numbers[0][2]) if mean is None else mean,
        marks=() if marks is None else _marked(samples, seconds, marks[1]),
        marked="" if marks is None else marks[0],
    )


def speed_over_time(
    title: str, samples: Sequence[Sample], *, unit: str, line: tuple[str, str], count: Callable[[Sample], int]
) -> Plot:
    """Draw how often something happened, per second.

    Args:
        title: what it shows.
        samples: the slices of time.
        unit: the unit of the rate.
        line: name and look of the line.
        count: returns how often it happened in a slice.
    """
    series = [(*line, per_second(count, samples))]
    seconds = samples[-1].at_seconds if samples else 0.0
    mean = sum(map(count, samples)) / seconds if seconds > 0 else 0.0
    return over_time(title, samples, unit=unit, series=series, mean=mean)


def per_second(read: Callable[[Sample], int], samples: Sequence[Sample]) -> Callable[[Sample], float]:
    """Return each sample's count as a rate, averaged over two seconds if samples are closer than that."""
    speeds: dict[float, float] = {}
    for index, sample in enumerate(samples):
        first = index
        while first > 0 and sample.at_seconds - _start(samples, first) < _SPARSE_SECONDS:
            first -= 1
        taken = sample.at_seconds - _start(samples, first)
        speeds[sample.at_seconds] = sum(map(read, samples[first : index + 1])) / max(taken, _TINY)
    return lambda sample: speeds[sample.at_seconds]


def histogram(endpoint: str, latency: Latency) -> Histogram:
    """Return bars whose bounds double, the first from 0; their counts add up to the latency's."""
    counts: dict[int, int] = {}
    for upper, count in latency.buckets.items():
        power = max(_LEAST_POWER, math.ceil(math.log2(upper) - _TINY))
        counts[power] = counts.get(power, 0) + count
    first, last = min(counts, default=0), max(counts, default=0)
    powers = range(first, max(last + 1, first + _LEAST_BARS))
    tallest, width = max(counts.values(), default=1), WIDTH / len(powers)
    return Histogram(
        endpoint=endpoint,
        latency=latency,
        bars=tuple(
            Bar(
                upper_seconds=2.0**power,
                count=counts.get(power, 0),
                x=number * width + width * 0.08,
                y=HEIGHT * (1 - counts.get(power, 0) / tallest),
                width=width * 0.84,
                height=HEIGHT * counts.get(power, 0) / tallest,
            )
            for number, power in enumerate(powers)
        ),
    )


def nice_ceiling(number: float) -> float:
    """Round up to the next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    if number <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(number))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= number - _TINY * power)


def _start(samples: Sequence[Sample], index: int) -> float:
    return samples[index - 1].at_seconds if index else 0.0


def _steps(
    edges: Sequence[float], column: Sequence[float | None], seconds: float, top: float, *, closed: bool
) -> str:
    """Return a step path: each number applies since the previous sample; closed at the bottom for areas."""
    parts: list[str] = []
    left, drawing = 0.0, False
    for edge, number in zip(edges, column, strict=True):
        right = WIDTH * edge / max(seconds, _TINY)
        if number is None:
            drawing = False
        else:
            y = HEIGHT * (1 - number / top)
            parts.append(f"{'L' if drawing else 'M'}{left:.1f} {y:.2f}L{right:.1f} {y:.2f}")
            drawing = True
        left = right
    if closed and parts:
        return f"M0 {HEIGHT:.0f}L" + "".join(parts)[1:] + f"L{left:.1f} {HEIGHT:.0f}Z"
    return "".join(parts)


def _marked(samples: Sequence[Sample], seconds: float, count: Callable[[Sample], int]) -> tuple[float, ...]:
    return tuple(
        round(WIDTH * sample.at_seconds / max(seconds, _TINY), 1) for sample in samples if count(sample)
    )


def _mean(edges: Sequence[float], column: Sequence[float | None]) -> float:
    starts = [0.0, *edges[:-1]]
    spans = [
        (end - start, number)
        for start, end, number in zip(starts, edges, column, strict=True)
        if number is not None
    ]
    total = sum(span for span, _ in spans)
    return sum(span * number for span, number in spans) / total if total > 0 else 0.0
