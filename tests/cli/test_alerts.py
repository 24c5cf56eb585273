"""``flowmate status``, ``sync --on-failure`` and ``sync --ping-url``: who learns how a sync ended."""

import contextlib
import http.server
import sys
import threading
import time

import msgspec
import pytest

from .conftest import connect, twin_thread
from .test_log import validate
from .test_observing import held

USAGE, UPSTREAM, SOME_FAILED = 2, 3, 1


@contextlib.contextmanager
def monitor(status=200):
    """A monitor that records its pings."""
    pings = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            pings.append((self.path, msgspec.json.decode(body)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a-uuid", pings
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestPing:
    def test_start_and_success(self, flowmate, connected):
        with monitor() as (url, pings):
            assert flowmate("sync", "--all-users", "--ping-url", url).code == 0
        assert [path for path, _ in pings] == ["/a-uuid/start", "/a-uuid"]
        assert pings[1][1]["users"] == {"synced": 12, "failed": 0}
        assert pings[0][1]["run_id"] == pings[1][1]["run_id"] is not None

    @pytest.mark.parametrize(("others", "last"), [(1, ""), (0, "/fail")])
    def test_some_failed_users_are_no_failure_of_the_sync(self, flowmate, connected, others, last):
        """But if every user failed, nothing was stored, which is not a success."""
        users = [username for username, _ in connected.truth()][:others]
        with monitor() as (url, pings):
            assert flowmate("sync", "nobody-at-all", *users, "--ping-url", url).code == SOME_FAILED
        assert [path for path, _ in pings] == ["/a-uuid/start", f"/a-uuid{last}"]
        assert pings[1][1]["failures"] == {"user_not_found": 1}
        assert "nobody-at-all" not in str(pings)

    @pytest.mark.parametrize("how", ["no token", "unknown flag", "rejected token"])
    def test_failure(self, flowmate, connected, monkeypatch, how):
        flags = ["--no-such-flag"] if how == "unknown flag" else []
        if how == "no token":
            monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        if how == "rejected token":
            monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "rejected-rejected-rejected")
        with monitor() as (url, pings):
            monkeypatch.setenv("FLOWMATE_PING_URL", url)
            code = flowmate("sync", "--all-users", *flags).code
        assert code in (USAGE, UPSTREAM)
        assert [path for path, _ in pings] == ["/a-uuid/fail"]
        assert pings[0][1]["exit_code"] == code

    def test_a_refused_overlap_does_not_ping(self, flowmate, connected, home):
        """The sync that runs pings by itself."""
        flowmate("sync", "--all-users")
        with held(home / "credentials.db"), monitor() as (url, pings):
            assert flowmate("sync", "--all-users", "--ping-url", url).code == USAGE
        assert pings == []

    def test_a_monitor_that_refuses_changes_nothing_and_is_named(self, flowmate, connected):
        with monitor(status=404) as (url, pings):
            ended = flowmate("sync", "--all-users", "--ping-url", url)
        assert ended.code == 0
        assert len(pings) == 2
        assert [line["event"] for line in ended.events if line["level"] == "warning"] == ["not_pinged"] * 2
        assert "a-uuid" not in ended.err

    @pytest.mark.parametrize("url", ["ftp://example.com", "http://elsewhere.example/x", "nonsense"])
    def test_a_url_that_cannot_work_is_refused_without_being_shown(self, flowmate, connected, url):
        ended = flowmate("sync", "--all-users", "--ping-url", url + "/a-secret")
        assert ended.code == USAGE
        assert "the ping URL cannot be used" in ended.complaint
        assert "a-secret" not in ended.err


class TestOnFailure:
    @pytest.fixture
    def command(self, home):
        (home / "told.py").write_text(
            "import os, sys; open('told', 'a').write(os.environ['FLOWMATE_EXIT_CODE'] + sys.stdin.read())"
            "; print('mailed')"
        )
        return f"{sys.executable} told.py"

    @pytest.mark.parametrize(
        ("flags", "code", "kind"),
        [
            (["nobody-at-all"], SOME_FAILED, None),
            (["--no-such-flag"], USAGE, "usage"),
            (["--all-users", "--store", "memory:"], USAGE, "configuration"),
            (["--all-users", "--base-url", "http://127.0.0.1:9"], UPSTREAM, "upstream_unavailable"),
        ],
        ids=str,
    )
    def test_it_runs_with_what_is_known(
        self, flowmate, connected, home, command, flags, code, kind, short_waits
    ):
        ended = flowmate("sync", *flags, "--on-failure", command)
        told = (home / "told").read_text()
        assert ended.code == code
        assert told.startswith(f"{code}{{")
        about = msgspec.json.decode(told.removeprefix(str(code)))
        assert (about["exit_code"], about["error"]) == (code, kind)
        assert [line["message"] for line in ended.events if line["event"] == "on_failure_output"] == [
            "mailed"
        ]

    def test_it_does_not_run_after_a_good_sync(self, flowmate, connected, home, command):
        assert flowmate("sync", "--all-users", "--on-failure", command).code == 0
        assert not (home / "told").exists()

    @pytest.mark.parametrize("command", ["false", "/no/such/program"])
    def test_its_own_failure_is_a_warning(self, flowmate, connected, command):
        ended = flowmate("sync", "nobody-at-all", "--on-failure", command)
        assert ended.code == SOME_FAILED
        assert ended.events[-1]["event"] == "on_failure_failed"

    def test_it_inherits_the_environment_and_the_first_lines_it_prints_are_shown(
        self, flowmate, connected, home, monkeypatch
    ):
        monkeypatch.setenv("UNTOUCHED", "yes")
        script = (
            "import os, sys; [print(os.environ['UNTOUCHED'], line, file=sys.stderr) for line in range(25)]"
        )
        (home / "many.py").write_text(script)
        ended = flowmate("sync", "--no-such-flag", "--on-failure", f"{sys.executable} many.py")
        shown = [line["message"] for line in ended.events if line["event"] == "on_failure_output"]
        assert shown == [f"yes {number}" for number in range(20)]


class TestStatus:
    def test_of_a_store_without_runs(self, flowmate, connected):
        flowmate("sync", "--all-users", "--base-url", "http://127.0.0.1:9")
        ended = flowmate("status")
        assert (ended.code, ended.out) == (0, "No sync has begun yet\n")
        assert flowmate("status", "--max-age", "26h").code == SOME_FAILED

    def test_of_a_success_and_a_failure_after_it(self, flowmate, connected, monkeypatch):
        flowmate("sync", "--all-users")
        flowmate("sync", "--all-users", "--full")
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "rejected-rejected-rejected")
        flowmate("sync", "--all-users", "--users-file", "x")
        shown = flowmate("status", "--max-age", "1h")
        assert shown.code == 0
        assert shown.out.count("complete") == 2
        assert "12 synced, 0 failed" in shown.out
        assert "Last success: " in shown.out

    def test_failures_are_counted_by_kind(self, flowmate, connected):
        (username, _), *_ = connected.truth()
        flowmate("sync", "nobody-at-all", username)
        found = self.status(flowmate)
        assert found["ok"]
        assert found["running"] is False
        assert found["runs"][0]["failures"] == {"user_not_found": 1}
        assert found["runs"][0]["users"] == {"synced": 1, "failed": 1}
        assert found["runs"][0]["complete"]
        assert found["runs"][0]["ended_at"] == found["last_success_at"]

    def test_an_interrupted_run_is_no_success(self, home, monkeypatch, flowmate, short_waits):
        with twin_thread(users=40) as twin:
            connect(twin, monkeypatch, home)
            assert flowmate("sync", "--all-users").code == 0
            before = self.status(flowmate)
            twin.ask("/_sandbox/faults", {"rules": [{"kind": "error", "routes": ["POST /impersonate"]}]})
            assert flowmate("sync", "--all-users", "--full").code == UPSTREAM
        found = self.status(flowmate)
        assert [run["complete"] for run in found["runs"]] == [False, True]
        assert found["last_success_at"] == before["last_success_at"]

    def test_too_old_a_success_ends_with_1(self, flowmate, connected):
        flowmate("sync", "--all-users")
        time.sleep(0.01)
        ended = flowmate("status", "--max-age", "0m")
        assert ended.code == SOME_FAILED
        assert "more than 0m" in ended.complaint
        assert flowmate("status", "--max-age", "1m").code == 0

    @pytest.mark.parametrize(
        "flags", [["--max-age", "yesterday"], ["--max-age", "-1h"], ["--limit", "0"]], ids=str
    )
    def test_nonsense_is_refused(self, flowmate, connected, flags):
        assert flowmate("status", *flags).code == USAGE

    def test_old_runs_have_no_counts_and_the_limit_holds(self, flowmate, connected):
        for _ in range(4):
            flowmate("sync", "--all-users")
        found = self.status(flowmate, "--limit", "3")
        assert [run["users"] for run in found["runs"]] == [{"synced": 12, "failed": 0}] * 2 + [None]

    def test_a_missing_store_is_an_error(self, flowmate, connected):
        assert flowmate("status", "--store", "sqlite:///missing.db").code == USAGE

    @staticmethod
    def status(flowmate, *flags):
        found = msgspec.json.decode(flowmate("status", "--json", *flags).out)
        validate(found, "status")
        return found
