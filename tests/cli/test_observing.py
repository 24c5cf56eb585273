"""``flowmate sync`` under observation: the metrics port, the metrics file, OpenTelemetry."""

import subprocess
import sys
import time
import urllib.request
from urllib.error import HTTPError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowmate_async.cli.observing import MetricsFlags

from .conftest import FLOWMATE, connect, twin_process

USAGE, UPSTREAM, SOME_FAILED, INTERRUPTED = 2, 3, 1, 130


def samples(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestFile:
    def test_it_says_how_the_sync_ended(self, flowmate, connected, home):
        assert flowmate("sync", "--all-users", "--metrics-file", "flowmate.prom").code == 0
        found = samples((home / "flowmate.prom").read_text())
        assert found["flowmate_sync_exit_code",] == 0
        assert found["flowmate_sync_complete",] == 1
        assert found["flowmate_users_total", "synced"] == 12
        assert time.time() - found["flowmate_sync_ended_timestamp_seconds",] < 60
        assert [path.name for path in home.glob("*.prom*")] == ["flowmate.prom"]

    def test_the_next_sync_replaces_it_also_when_it_fails(self, flowmate, connected, home, monkeypatch):
        flowmate("sync", "--all-users", "--metrics-file", "flowmate.prom")
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "rejected-rejected-rejected")
        assert flowmate("sync", "--all-users", "--metrics-file", "flowmate.prom").code == UPSTREAM
        found = samples((home / "flowmate.prom").read_text())
        assert found["flowmate_sync_exit_code",] == UPSTREAM
        assert found["flowmate_sync_complete",] == 0

    @pytest.mark.anyio
    async def test_a_crash_never_looks_like_success(self, fm, tmp_path):
        """An unexpected error, for which no exit code is defined."""

        async def crash():
            flags = MetricsFlags(metrics_file=tmp_path / "flowmate.prom")
            async with flags.observing(fm, leaving=lambda: False):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await crash()
        found = samples((tmp_path / "flowmate.prom").read_text())
        assert found["flowmate_sync_exit_code",] == UPSTREAM
        assert found["flowmate_sync_complete",] == 0

    def test_some_failed_users_are_told(self, flowmate, connected, home):
        ended = flowmate("sync", "nobody-at-all", "--metrics-file", "flowmate.prom")
        found = samples((home / "flowmate.prom").read_text())
        assert ended.code == found["flowmate_sync_exit_code",] == SOME_FAILED

    def test_another_file_is_never_overwritten(self, flowmate, connected, home):
        (home / "novel.txt").write_text("It was a dark and stormy night")
        ended = flowmate("sync", "--all-users", "--metrics-file", "novel.txt")
        assert ended.code == USAGE
        assert "not a file of metrics" in ended.complaint
        assert "stormy" in (home / "novel.txt").read_text()


class TestPort:
    def test_a_running_sync_can_be_looked_at_and_stops_being_ready_when_it_drains(self, home, monkeypatch):
        with twin_process("--users", "200", "--seed", "7", "--latency", "0.05") as twin:
            connect(twin, monkeypatch, home)
            command = ["sync", "--all-users", "--concurrency", "4", "--metrics-port", "0"]
            process = subprocess.Popen([*FLOWMATE, *command], stderr=subprocess.PIPE, text=True)
            try:
                line = process.stderr.readline()
                base = line.strip().rpartition(" ")[2].removesuffix("/metrics")
                deadline = time.monotonic() + 30
                while not (found := samples(self.get(base + "/metrics"))).get(
                    ("flowmate_users_total", "synced")
                ):
                    assert time.monotonic() < deadline
                assert found["flowmate_concurrency_limit",] == 4
                assert self.get(base + "/readyz") == "ready\n"
                process.terminate()
                while self.get(base + "/readyz") == "ready\n":
                    assert time.monotonic() < deadline
                assert self.get(base + "/healthz") == "ok\n"
                process.stderr.read()
                assert process.wait(timeout=30) == INTERRUPTED
            finally:
                process.kill()
                process.wait()
                process.stderr.close()

    @staticmethod
    def get(url):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except HTTPError as refused:
            return refused.read().decode()

    def test_a_port_that_is_taken_ends_it_before_anything_is_sent(self, flowmate, connected):
        before = connected.total()
        port = connected.url.rpartition(":")[2]
        ended = flowmate("sync", "--all-users", "--metrics-port", port)
        assert ended.code == USAGE
        assert "in use" in ended.complaint
        assert connected.total() == before

    @pytest.mark.parametrize("port", ["-1", "65536", "http"])
    def test_nonsense_is_no_port(self, flowmate, connected, port):
        assert flowmate("sync", "--all-users", "--metrics-port", port).code == USAGE


class TestUnused:
    """Nothing costs anything when unused."""

    def test_no_observer_is_imported_or_told(self, connected, home):
        """A sync loads neither package, and the client reports only to its own counters."""
        code = (
            "import sys\n"
            "import flowmate_async.client as client\n"
            "from flowmate_async.cli.app import run\n"
            "told = []\n"
            "enter = client.FlowMate.__aenter__\n"
            "async def entered(self):\n"
            "    told.append([type(one).__name__ for one in self._emitter._listeners])\n"
            "    return await enter(self)\n"
            "client.FlowMate.__aenter__ = entered\n"
            "for name in ('prometheus_client', 'opentelemetry'):\n"
            "    sys.modules.pop(name, None)\n"
            "code = run(['sync', '--all-users'])\n"
            "loaded = [name for name in sys.modules if name.startswith('flowmate_async.integrations.')]\n"
            "assert not [name for name in sys.modules if name.split('.')[0] == 'opentelemetry']\n"
            "print(code, told, loaded)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "0 [[]] []"

    @pytest.mark.parametrize(
        ("flag", "missing", "extra"),
        [
            (["--metrics-port", "0"], "prometheus_client", "prometheus"),
            (["--metrics-file", "x.prom"], "prometheus_client", "prometheus"),
            (["--otel"], "opentelemetry", "otel"),
        ],
    )
    def test_a_missing_extra_is_named(self, connected, home, flag, missing, extra):
        code = (
            "import sys\n"
            f"sys.modules[{missing!r}] = None\n"
            "from flowmate_async.cli.app import run\n"
            f"sys.exit(run(['sync', '--all-users', *{flag!r}]))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == USAGE
        assert f"flowmate-async[{extra}]" in done.stderr
        assert "Traceback" not in done.stderr


def test_opentelemetry_makes_spans_of_a_sync(connected, home):
    """As ``opentelemetry-instrument`` would have it: the application's global provider."""
    code = (
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "exporter, provider = InMemorySpanExporter(), TracerProvider()\n"
        "provider.add_span_processor(SimpleSpanProcessor(exporter))\n"
        "trace.set_tracer_provider(provider)\n"
        "from flowmate_async.cli.app import run\n"
        "code = run(['sync', '--all-users', '--otel'])\n"
        "print(code, sum(span.name == 'POST /impersonate' for span in exporter.get_finished_spans()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 12"
