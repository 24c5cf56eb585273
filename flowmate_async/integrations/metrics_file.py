"""Metrics file: how the last sync went, as gauges for node_exporter's textfile collector.

A nightly job ends before Prometheus can scrape it, so nothing here is a counter: each gauge describes the
last run. The time of the last success is carried over from file to file, so that it survives failed runs. No
metric names a user or a secret. Needs the extra ``prometheus``.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from flowmate_async.errors import ConfigurationError
from flowmate_async.system.private_files import require_replaceable

try:
    from prometheus_client import CollectorRegistry, write_to_textfile
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.parser import text_string_to_metric_families
    from prometheus_client.registry import Collector
except ImportError as _missing:
    raise ConfigurationError(
        "a metrics file needs prometheus_client, which is not installed",
        advice="Install the extra: pip install 'flowmate-async[prometheus]'",
    ) from _missing

from flowmate_async.integrations.health_gauge import health_gauge

__all__ = ["LastRun", "require_metrics_path", "write_last_run", "write_refused", "write_running"]

_BEGINS = b"# HELP flowmate_"
_PREFIX = "flowmate_sync_"
_RUNNING = f"{_PREFIX}running"
_STARTED = f"{_PREFIX}started_timestamp_seconds"
_SUCCESS = f"{_PREFIX}last_success_timestamp_seconds"


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """How a sync ended.

    Attributes:
        exit_code: the process's exit code.
        complete: whether every user was tried; this is what counts as a success.
        started_at: when the process began, in seconds since the Unix epoch.
        ended_at: when it ended.
        succeeded_at: the newest success that is known, in seconds since the epoch; 0 for none.
        users: users by outcome, as ``synced``.
        failures: failed users by kind of error.
        secrets: credentials stored or found unchanged.
        requests: requests that were answered.
        throttled: answers that asked to wait.
        retries: requests that were sent again.
        credentials: credentials that do not plainly work, by state and type.
    """

    exit_code: int
    complete: bool
    started_at: float
    ended_at: float
    succeeded_at: float = 0.0
    users: Mapping[str, int] = {}
    failures: Mapping[str, int] = {}
    secrets: int = 0
    requests: int = 0
    throttled: int = 0
    retries: int = 0
    credentials: Mapping[tuple[str, str], int] = {}


def require_metrics_path(path: Path) -> None:
    """Refuse a path where metrics cannot or must not be written.

    Args:
        path: the metrics file; it may be missing.

    Raises:
        ConfigurationError: its folder cannot be written to, or something else has its name.
    """
    require_replaceable(path, begins=_BEGINS, what="a file of metrics")


def write_last_run(path: Path, run: LastRun) -> None:
    """Write how a sync ended, replacing the file atomically.

    The umask decides who can read the file, since the collector must.

    Args:
        path: ends in ``.prom``, as the collector requires.
        run: how the sync ended.

    Raises:
        ConfigurationError: it cannot be written.
    """
    _write(path, [*_ended(run), *_running(None), _succeeded(path, run.succeeded_at)])


def write_running(path: Path, *, started_at: float) -> None:
    """Note in the file that a sync runs; what it says of the last run stays.

    If the process is killed, this note stays, which tells a killed run from one that never began.

    Args:
        path: the metrics file.
        started_at: when the sync began, in seconds since the Unix epoch.

    Raises:
        ConfigurationError: it cannot be written.
    """
    kept = [one for one in _read(path) if one.name not in (_RUNNING, _STARTED, _SUCCESS)]
    _write(path, [*kept, *_running(started_at), _succeeded(path, 0.0)])


def write_refused(path: Path) -> None:
    """Note that a sync did not start because another run holds the store.

    The running sync's metrics are left alone: this goes to a file beside it, ``NAME.refused.prom``.

    Args:
        path: the metrics file of the sync that runs.

    Raises:
        ConfigurationError: it cannot be written.
    """
    beside = path.with_name(f"{path.stem}.refused{path.suffix}")
    require_metrics_path(beside)
    text = "When a sync was last refused because another run held the store."
    _write(beside, [_gauge(f"{_PREFIX}refused_timestamp_seconds", text, time.time())])


def _ended(run: LastRun) -> Iterator[Metric]:
    last = f"{_PREFIX}last_run_"
    yield _gauge(f"{last}exit_code", "The exit code of the last sync.", run.exit_code)
    yield _gauge(f"{last}complete", "1 when the last sync tried every user.", run.complete)
    yield _gauge(f"{last}start_timestamp_seconds", "When the last sync began.", run.started_at)
    yield _gauge(f"{last}end_timestamp_seconds", "When the last sync ended.", run.ended_at)
    yield _gauge(
        f"{last}duration_seconds", "How long the last sync took.", max(0.0, run.ended_at - run.started_at)
    )
    yield _labelled(f"{last}users", "Users of the last sync.", "outcome", run.users)
    yield _labelled(f"{last}failed_users", "Users that failed in the last sync.", "error", run.failures)
    yield _gauge(f"{last}secrets", "Credentials that the last sync stored or found unchanged.", run.secrets)
    yield _gauge(f"{last}requests", "Requests of the last sync that were answered.", run.requests)
    yield _gauge(f"{last}throttled", "Answers that asked the last sync to wait.", run.throttled)
    yield _gauge(f"{last}retries", "Requests that the last sync sent again.", run.retries)
    yield health_gauge(run.credentials)


def _running(started_at: float | None) -> Iterator[Metric]:
    yield _gauge(_RUNNING, "1 while a sync runs, or after one was killed.", started_at is not None)
    yield _gauge(_STARTED, "When the running sync began; 0 when none runs.", started_at or 0.0)


def _succeeded(path: Path, at: float) -> Metric:
    found = (one.value for family in _read(path) if family.name == _SUCCESS for one in family.samples)
    earlier = max(found, default=0.0)
    return _gauge(_SUCCESS, "When a sync last tried every user; 0 for never.", max(at, earlier))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family


def _read(path: Path) -> list[Metric]:
    """Return the metrics of an earlier file; none if it is missing or damaged."""
    try:
        return list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _write(path: Path, families: Iterable[Metric]) -> None:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    try:
        write_to_textfile(os.fspath(path), registry)
    except OSError as problem:
        reason = problem.strerror
    else:
        return
    raise ConfigurationError(
        f"the metrics file {path} cannot be written: {reason}",
        advice="Free some disk space, or check the path",
    )
