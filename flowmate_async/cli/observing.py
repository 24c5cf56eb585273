"""Monitoring flags: a metrics port, a metrics file, OpenTelemetry; each is imported only when used."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from anyio import to_thread
from cyclopts import Parameter

from flowmate_async.cli.exits import Exit, print_status
from flowmate_async.errors import ConfigurationError
from flowmate_async.system.private_files import require_replaceable

if TYPE_CHECKING:
    from flowmate_async.integrations.observable import Observable

_BEGINS = b"# HELP flowmate_"


class Observed:
    """How a command ended, for the metrics file; the default is an unexpected end.

    Attributes:
        exit_code: the command's exit code.
        complete: whether every user was tried.
    """

    def __init__(self) -> None:
        self.began: float = time.time()
        self.exit_code: int = Exit.UPSTREAM
        self.complete = False


@Parameter(name="*", group="Metrics")
@dataclass(frozen=True, kw_only=True)
class WatchFlags:
    """Monitoring flags; all off by default, and then nothing of this is imported."""

    metrics_port: Annotated[
        int | None,
        Parameter(
            env_var="FLOWMATE_METRICS_PORT",
            help="Serve /metrics (Prometheus), /healthz and /readyz on this port; 0 for a free one.",
        ),
    ] = None
    metrics_host: Annotated[
        str, Parameter(env_var="FLOWMATE_METRICS_HOST", help="Where to listen; 0.0.0.0 in a container.")
    ] = "127.0.0.1"
    otel: Annotated[
        bool,
        Parameter(
            env_var="FLOWMATE_OTEL",
            negative=(),
            help="Make OpenTelemetry spans and metrics, as when started by opentelemetry-instrument.",
        ),
    ] = False

    def check(self) -> None:
        """Validate the flags before anything is sent.

        Raises:
            ConfigurationError: a port is invalid, or an extra is missing.
        """
        if self.metrics_port is not None and not 0 <= self.metrics_port < 65536:
            raise ConfigurationError("--metrics-port is from 0 to 65535")
        if self.metrics_port is not None:
            import flowmate_async.integrations.prometheus  # noqa: PLC0415 - an extra
        if self.otel:
            import flowmate_async.integrations.opentelemetry  # noqa: F401, PLC0415 - an extra

    @asynccontextmanager
    async def watched(
        self, fm: "Observable", *, leaving: Callable[[], bool], problem: Callable[[], str] = lambda: ""
    ) -> AsyncIterator[None]:
        """In the block, serve metrics and create spans as the flags say.

        Args:
            fm: the entered client.
            leaving: whether the command is shutting down, or not ready for work for another reason.
            problem: problems besides the client's own, for ``/readyz``.

        Raises:
            ConfigurationError: the port is taken.
        """
        async with AsyncExitStack() as stack:
            if self.otel:
                from flowmate_async.integrations import opentelemetry  # noqa: PLC0415 - an extra

                stack.enter_context(opentelemetry.instrument(fm))
            if self.metrics_port is not None:
                await stack.enter_async_context(self._served(fm, self.metrics_port, leaving, problem))
            yield

    @asynccontextmanager
    async def _served(
        self, fm: "Observable", port: int, leaving: Callable[[], bool], problem: Callable[[], str]
    ) -> AsyncIterator[None]:
        from flowmate_async.integrations import prometheus  # noqa: PLC0415 - an extra

        def ready() -> bool:
            return not leaving() and prometheus.is_ready(fm)

        def degraded() -> str:
            return "; ".join(filter(None, (problem(), prometheus.problem_of(fm))))

        async with prometheus.serve(
            fm, host=self.metrics_host, port=port, ready=ready, degraded=degraded
        ) as listening_on:
            print_status(f"Metrics are served on http://{self.metrics_host}:{listening_on}/metrics")
            yield


@Parameter(name="*", group="Metrics")
@dataclass(frozen=True, kw_only=True)
class MetricsFlags(WatchFlags):
    """The same flags for a command that ends by itself and can write a metrics file at the end."""

    metrics_file: Annotated[
        Path | None,
        Parameter(
            env_var="FLOWMATE_METRICS_FILE",
            help="Write the metrics to this file at the end, for node_exporter's textfile collector.",
        ),
    ] = None

    def check(self) -> None:
        """Validate the flags before anything is sent.

        Raises:
            ConfigurationError: a port or a path is invalid, or an extra is missing.
        """
        super().check()
        if self.metrics_file is not None:
            require_replaceable(self.metrics_file, begins=_BEGINS, what="a file of metrics")
            import flowmate_async.integrations.prometheus  # noqa: F401, PLC0415 - an extra

    @asynccontextmanager
    async def observing(self, fm: "Observable", *, leaving: Callable[[], bool]) -> AsyncIterator[Observed]:
        """In the block, run the configured monitoring; afterwards write the metrics file.

        Args:
            fm: the entered client.
            leaving: whether the command is shutting down, and so not ready for work.

        Raises:
            ConfigurationError: the port is taken, or the file cannot be written.
        """
        observed = Observed()
        async with self.watched(fm, leaving=leaving):
            try:
                yield observed
            finally:
                if self.metrics_file is not None:
                    from flowmate_async.integrations import prometheus  # noqa: PLC0415 - an extra

                    seconds = time.time() - observed.began
                    run = prometheus.RunEnd(observed.exit_code, observed.complete, seconds)
                    await to_thread.run_sync(prometheus.write_file, self.metrics_file, fm, run)
