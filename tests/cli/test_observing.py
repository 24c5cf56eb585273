"""``flowmate sync`` under observation: the metrics port, the metrics file, OpenTelemetry."""

import contextlib
import subprocess
import sys
import time
import urllib.request
from urllib.error import HTTPError

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import FLOWMATE, connect, twin_thread

USAGE, UPSTREAM, SOME_FAILED, INTERRUPTED, CRASHED = 2, 3, 1, 130, 70


def samples(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestFile:
    """The metrics file agrees with the exit code, however the sync ends."""

    ARGUMENTS = ("sync", "--all-users", "--metrics-file", "flowmate.prom")

    @pytest.fixture
    def read(self, home):
        return lambda: {
            name[0].removeprefix("flowmate_sync_"): value
            for name, value in samples((home / "flowmate.prom").read_text()).items()
            if len(name) == 1
        }

    def test_it_says_how_the_sync_ended(self, flowmate, connected, home, read):
        assert flowmate(*self.ARGUMENTS).code == 0
        found = read()
        assert (found["last_run_exit_code"], found["last_run_complete"], found["running"]) == (0, 1, 0)
        assert found["last_run_requests"] > 12
        assert found["last_run_secrets"] == len(connected.truth())
        assert time.time() - found["last_success_timestamp_seconds"] < 60
        assert samples((home / "flowmate.prom").read_text())["flowmate_sync_last_run_users", "synced"] == 12
        assert [path.name for path in home.glob("*.prom*")] == ["flowmate.prom"]

    def test_a_failed_sync_keeps_the_last_success(self, flowmate, connected, monkeypatch, read):
        flowmate(*self.ARGUMENTS)
        before = read()
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "rejected-rejected-rejected")
        assert flowmate(*self.ARGUMENTS).code == UPSTREAM
        found = read()
        assert (found["last_run_exit_code"], found["last_run_complete"]) == (UPSTREAM, 0)
        assert found["last_success_timestamp_seconds"] == before["last_success_timestamp_seconds"]

    @pytest.mark.parametrize(
        ("unset", "flags"),
        [
            ("FLOWMATE_STORE_KEY", []),
            ("FLOWMATE_ADMIN_TOKEN", []),
            ("FLOWMATE_STORE", []),
            (None, ["--no-such-flag"]),
            (None, ["--rate", "fast"]),
            (None, ["--config", "missing.toml"]),
            (None, ["--report", "no/such/folder.json"]),
            (None, ["--max-failures", "-1"]),
            (None, ["--notify-command", "'"]),
            (None, ["--metrics-port", "70000"]),
        ],
    )
    def test_a_sync_that_never_starts_writes_it(self, flowmate, connected, monkeypatch, read, unset, flags):
        if unset:
            monkeypatch.delenv(unset)
        ended = flowmate(*self.ARGUMENTS, *flags)
        assert ended.code == USAGE
        found = read()
        assert (found["last_run_exit_code"], found["last_run_complete"]) == (USAGE, 0)
        assert found["last_success_timestamp_seconds"] == 0

    def test_an_environment_variable_names_it_also_for_a_usage_error(
        self, flowmate, connected, monkeypatch, read
    ):
        monkeypatch.setenv("FLOWMATE_METRICS_FILE", "flowmate.prom")
        assert flowmate("sync", "--no-such-flag").code == USAGE
        assert read()["last_run_exit_code"] == USAGE

    @pytest.mark.parametrize("flags", [["--help"], ["--dry-run", "--all-users"]], ids=str)
    def test_what_is_no_sync_writes_none(self, flowmate, connected, home, flags):
        flowmate("sync", "--all-users")
        assert flowmate("sync", "--metrics-file", "flowmate.prom", *flags).code == 0
        assert not (home / "flowmate.prom").exists()

    def test_a_refused_overlap_leaves_it_alone(self, flowmate, connected, home):
        flowmate(*self.ARGUMENTS)
        before = (home / "flowmate.prom").read_bytes()
        with held(home / "credentials.db"):
            ended = flowmate(*self.ARGUMENTS)
        assert ended.code == USAGE
        assert "another run holds" in ended.complaint
        assert (home / "flowmate.prom").read_bytes() == before
        beside = samples((home / "flowmate.refused.prom").read_text())
        assert time.time() - beside["flowmate_sync_refused_timestamp_seconds",] < 60

    def test_a_crash_has_an_exit_code_of_its_own(self, flowmate, connected, monkeypatch, read):
        """An unexpected error must look neither like success nor like failed users."""

        async def crash(*_args, **_options):
            raise ZeroDivisionError

        monkeypatch.setattr("flowmate_async.client.FlowMate.sync", crash)
        ended = flowmate(*self.ARGUMENTS)
        found = read()
        assert ended.code == found["last_run_exit_code"] == CRASHED
        assert found["last_run_complete"] == 0

    def test_some_failed_users_are_told(self, flowmate, connected, home):
        ended = flowmate("sync", "nobody-at-all", "--metrics-file", "flowmate.prom")
        found = samples((home / "flowmate.prom").read_text())
        assert ended.code == found["flowmate_sync_last_run_exit_code",] == SOME_FAILED
        assert found["flowmate_sync_last_run_failed_users", "user_not_found"] == 1

    def test_another_file_is_never_overwritten(self, flowmate, connected, home):
        (home / "novel.txt").write_text("It was a dark and stormy night")
        for flags in ((), ("--no-such-flag",)):
            ended = flowmate("sync", "--all-users", "--metrics-file", "novel.txt", *flags)
            assert ended.code == USAGE
            assert "not a file of metrics" in ended.err
            assert "stormy" in (home / "novel.txt").read_text()

    def test_a_success_that_cannot_be_reported_is_no_success(self, flowmate, connected, home, monkeypatch):
        """The folder vanishes during the sync, as a mount may."""
        (home / "textfiles").mkdir()
        monkeypatch.setattr(
            "flowmate_async.cli.sync_command.show", lambda *_, **__: (home / "textfiles").rmdir()
        )
        monkeypatch.setattr("flowmate_async.integrations.metrics_file.write_running", lambda *_, **__: None)
        ended = flowmate("sync", "--all-users", "--metrics-file", "textfiles/flowmate.prom")
        assert ended.code == USAGE
        assert "cannot be written" in ended.err


@contextlib.contextmanager
def held(store):
    """Hold a store's run lock in another process."""
    code = (
        "import sys; from pathlib import Path; from flowmate_async.stores.run_lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is POSIX")
@pytest.mark.parametrize(
    "delays", [(0, 0.2, 1), pytest.param((0.05, 0.5, 2), marks=pytest.mark.long)], ids=str
)
def test_sigterm_at_any_moment_ends_with_130_and_metrics(home, monkeypatch, delays):
    """From the first line of the command on, before there is a loop or a run."""
    code = (
        "import os, signal, sys, threading, time\n"
        "from flowmate_async.cli import app\n"
        "def kill(): time.sleep(float(sys.argv[1])); os.kill(os.getpid(), signal.SIGTERM)\n"
        "thread = threading.Thread(target=kill, daemon=True)\n"
        "outcome = app._outcome\n"
        "def begun(arguments): thread.start(); return outcome(arguments)\n"
        "app._outcome = begun\n"
        "sys.exit(app.run(sys.argv[2:]))\n"
    )
    flags = ["sync", "--all-users", "--rate", "100", "--burst", "5", "--concurrency", "4"]
    flags += ["--metrics-file", "flowmate.prom"]
    with twin_thread(users=200) as twin:
        connect(twin, monkeypatch, home)
        for delay in delays:
            command = [sys.executable, "-c", code, str(delay), *flags]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == INTERRUPTED, (delay, done.stderr)
            found = samples((home / "flowmate.prom").read_text())
            assert found["flowmate_sync_last_run_exit_code",] == INTERRUPTED, delay
            assert found["flowmate_sync_running",] == 0
            assert "Traceback" not in done.stderr
            (home / "flowmate.prom").unlink()


class TestPort:
    def test_a_running_sync_can_be_looked_at_and_stops_being_ready_when_it_drains(self, home, monkeypatch):
        with twin_thread(users=200, latency_seconds=0.05) as twin:
            connect(twin, monkeypatch, home)
            command = ["sync", "--all-users", "--concurrency", "4", "--metrics-port", "0"]
            process = subprocess.Popen([*FLOWMATE, *command], stderr=subprocess.PIPE, text=True)
            try:
                line = process.stderr.readline()
                base = msgspec.json.decode(line)["url"].removesuffix("/metrics")
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
            "    told.append([type(one).__name__ for one in self._parts.emitter.listeners])\n"
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
