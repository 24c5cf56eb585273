"""The report as one self-contained HTML page, which cannot run scripts or load anything.

Names and messages come from upstream and are untrusted: the template escapes everything, control characters
in every printed text are made visible, and the content-security policy allows only this style sheet.
"""

import base64
import hashlib
import math
import unicodedata
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from flowmate_async.errors import ConfigurationError
from flowmate_async.reporting import charts
from flowmate_async.reporting.reconnecting import NeedsReconnecting
from flowmate_async.reporting.recorder import Observation
from flowmate_async.reporting.summary import Head, Summary
from flowmate_async.sync.report import SyncReport

MOST_LEFT_OUT = 200
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co"})
"""Unicode categories of control, bidirectional and other invisible characters."""


def render(head: Head, summary: Summary, reconnect: NeedsReconnecting) -> bytes:
    """Return the page.

    Raises:
        ConfigurationError: Jinja is not installed.
    """
    style = resources.files("flowmate_async.reporting").joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    observed = head.observed
    sent_here = observed is not None and not observed.elsewhere
    text: str = _template().render(
        head=head,
        summary=summary,
        reconnect=reconnect,
        left_out=head.call.left_out[:MOST_LEFT_OUT] if head.call else (),
        sent_here=sent_here,
        untold=_unreported(observed, head.call) if observed is not None and sent_here else 0,
        plots=[] if observed is None else _plots(observed, sent_here=sent_here),
        histograms=_histograms(observed) if observed is not None and sent_here else [],
        style=style,
        style_digest=digest,
    )
    return text.encode()


def require_engine() -> None:
    """Refuse a page early when Jinja is not installed.

    Raises:
        ConfigurationError: it is not.
    """
    _template()


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - an extra
    except ImportError:
        missing = True
    else:
        missing = False
    if missing:
        raise ConfigurationError(
            "a report as HTML needs Jinja, which is not installed",
            advice="Install the extra: pip install 'flowmate-async[report]'; or write report.json",
        )
    environment = Environment(
        loader=PackageLoader("flowmate_async.reporting", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(whole=whole, short=short, seconds=duration, when=moment)
    return environment.get_template("report.html.jinja")


def visible(value: Any) -> Any:
    """Return a text with its control, bidirectional and other invisible characters escaped."""
    if not isinstance(value, str) or hasattr(value, "__html__") or (value.isascii() and value.isprintable()):
        return value
    return "".join(_shown(letter) for letter in value)


def _shown(letter: str) -> str:
    if letter == "\n" or unicodedata.category(letter) not in _UNSEEN:
        return letter
    return f"\\u{ord(letter):04x}"


def whole(number: float) -> str:
    """Format a count with separators."""
    return f"{number:,.0f}"


def short(number: float) -> str:
    """Format a number with about three digits."""
    if number >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """Format seconds in a suitable unit."""
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(epoch: float) -> str:
    """Format a time in UTC."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _unreported(observed: Observation, call: SyncReport | None) -> int:
    """Requests of the call's users that were not reported, because a worker process had died."""
    seen = sum(observed.broken.values()) + sum(sum(by.values()) for by in observed.answers.values())
    return 0 if call is None else max(0, call.requests - seen)


def _plots(observed: Observation, *, sent_here: bool) -> list[charts.Plot]:
    samples = observed.samples
    plots = []
    if sent_here:
        line = ("answered", "area one")
        plots.append(
            charts.speed_over_time(
                "Requests", samples, unit="requests/s", line=line, count=lambda sample: sample.requests
            )
        )
    plots.append(
        charts.speed_over_time(
            "Users",
            samples,
            unit="users/s",
            line=("done", "area two"),
            count=lambda sample: sample.synced + sample.failed,
        )
    )
    if sent_here:
        plots += [_rate_plot(observed)] if observed.rate is not None else []  # without a limit it is empty
        plots += [_concurrency_plot(observed)]
    return [plot for plot in plots if plot.seconds > 0 and math.isfinite(plot.peak)]


def _rate_plot(observed: Observation) -> charts.Plot:
    series: list[Any] = [("allowed", "area three", lambda sample: sample.rate)]
    if observed.rate is not None:
        series.append(("configured", "line dashed", lambda _: observed.rate))
    return charts.over_time(
        "Rate limit",
        observed.samples,
        unit="requests/s",
        series=series,
        marks=("throttled by FlowMate", lambda sample: sample.throttled),
    )


def _concurrency_plot(observed: Observation) -> charts.Plot:
    return charts.over_time(
        "Concurrency",
        observed.samples,
        unit="requests",
        series=[
            ("in flight", "area four", lambda sample: sample.in_flight),
            ("allowed", "line solid", lambda sample: sample.concurrency),
        ],
        marks=("breaker open", lambda sample: sample.breaker != "closed"),
    )


def _histograms(observed: Observation) -> list[charts.Histogram]:
    return [charts.histogram(endpoint, latency) for endpoint, latency in sorted(observed.latency.items())]
