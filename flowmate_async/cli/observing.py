"""Monitoring flags: a metrics port, a metrics file, OpenTelemetry; each is imported only when used."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flowmate_async.cli.exits import print_status
from flowmate_async.cli.log import LogFlags
from flowmate_async.errors import ConfigurationError

if TYPE_CHECKING:
    from flowmate_async.integrations.observable import Observable


@Parameter(name="*", group="Metrics")
@dataclass(frozen=True, kw_only=True)
class WatchFlags(LogFlags):
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
            url = f"http://{self.metrics_host}:{listening_on}/metrics"
            print_status(f"Metrics are served on {url}", event="metrics_served", url=url)
            yield


@Parameter(name="*", group="Metrics")
@dataclass(frozen=True, kw_only=True)
class MetricsFlags(WatchFlags):
    """The same flags for a command that ends by itself and can write a metrics file."""

    metrics_file: Annotated[
        Path | None,
        Parameter(
            env_var="FLOWMATE_METRICS_FILE",
            help="Write how the sync went to this file, however it ends, for node_exporter's textfile "
            "collector.",
        ),
    ] = None

    def check(self) -> None:
        """Validate the flags before anything is sent.

        Raises:
            ConfigurationError: a port or a path is invalid, or an extra is missing.
        """
        super().check()
        if self.metrics_file is not None:
            from flowmate_async.integrations import metrics_file  # noqa: PLC0415 - an extra

            metrics_file.require_metrics_path(self.metrics_file)
