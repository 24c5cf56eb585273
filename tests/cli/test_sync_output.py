"""What a sync prints for people: it adds up, names throttling, and fits 80 and 50 columns, in any locale."""

import asyncio
import os
import pty
import re
import subprocess
import sys
import termios

import msgspec
import pytest

from flowmate_async.cli.cluster import WorkerWatch
from flowmate_async.cli.exits import Exit
from flowmate_async.events import RunBegan, UserStored

from .conftest import FLOWMATE, connect, twin_thread

SUMS = re.compile(
    r"([\d,]+) credentials \(([\d,]+) written, ([\d,]+) unchanged, ([\d,]+) skipped, ([\d,]+) failed\)"
)


def numbers(text):
    return [int(part.replace(",", "")) for part in SUMS.search(text).groups()]


class TestSums:
    def test_written_unchanged_skipped_and_failed_are_all_credentials(self, home, monkeypatch, flowmate):
        """On a first night, a second night, and one on which some secrets fail."""
        with twin_thread(users=20) as twin:
            connect(twin, monkeypatch, home)
            everything = len(twin.truth())
            for flags in ([], [], ["--full"]):
                total, *parts = numbers(flowmate("sync", "--all-users", *flags).out)
                assert sum(parts) == total == everything
            assert parts[1] > 0
            for _, secret in sorted(
                place for place, (kind, _) in twin.truth().items() if kind.startswith("OA2")
            )[:3]:
                assert flowmate("sandbox", "break", secret).code == 0
            ended = flowmate("sync", "--all-users", "--full")
            total, *parts = numbers(ended.out)
            assert ended.code == Exit.SOME_FAILED
            assert sum(parts) == total == everything
            assert parts[3] > 0

    def test_the_json_adds_up_too(self, flowmate, connected):
        report = msgspec.json.decode(flowmate("sync", "--all-users", "--json").out)
        parts = report["changed"] + report["unchanged"] + sum(report["left"].values()) + report["missed"]
        assert parts == len(connected.truth())


def test_throttling_shows_with_advice(home, monkeypatch, flowmate):
    with twin_thread(users=20, faults="throttle=0.05 retry_after_seconds=0") as twin:
        connect(twin, monkeypatch, home)
        ended = flowmate("sync", "--all-users", "--json")
        again = flowmate("sync", "--all-users", "--full", "--log-format", "text")
    assert msgspec.json.decode(ended.out)["throttled"] > 0
    assert "Lower --rate" in next(line["message"] for line in ended.events if line["event"] == "throttled")
    assert re.search(r"requests, throttled \d+ times? in", again.out)


def test_accounts_left_out_are_named_only_when_asked(flowmate, connected):
    short = flowmate("sync", "--all-users", "--log-format", "text").err
    assert "Left out 5 accounts (has roles 1, no tenant 2, status DISABLED 2); -v names them" in short
    assert "admin@tenant.example" not in short
    assert "admin@tenant.example (no tenant)" in flowmate("sync", "--all-users", "-v").err


def test_one_is_singular(flowmate, connected):
    (username, _), *_ = connected.truth()
    assert ": 1 user synced, 0 failed;" in flowmate("sync", username).out


def test_marked_is_not_called_removed(home, monkeypatch, flowmate):
    with twin_thread(users=20) as twin:
        connect(twin, monkeypatch, home)
        flowmate("sync", "--all-users")
        _, secret = next(iter(twin.truth()))
        assert flowmate("sandbox", "remove-secret", secret).code == 0
        assert "; 1 marked as removed" in flowmate("sync", "--all-users", "--removed", "mark").out


def test_bare_flowmate_describes_the_commands(flowmate):
    ended = flowmate()
    assert ended.code == 0
    assert re.search(r"status +.*Show the last runs of a store", ended.out)
    assert not re.search(r"│ (sync|status|health|doctor) +│", ended.out)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("columns", [80, 50])
def test_a_terminal_shows_percentage_and_remaining_time(home, monkeypatch, columns):
    """In one line of the terminal, also a narrow one."""
    with twin_thread(users=60) as twin:
        connect(twin, monkeypatch, home)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, columns))
        command = [*FLOWMATE, "sync", "--all-users", "--rate", "200"]
        process = subprocess.Popen(command, stderr=follower, stdout=subprocess.PIPE)
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
        process.communicate()
        os.close(leader)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if "users" in line and "%" in line]
    assert lines
    assert all(len(line) <= columns for line in lines), lines
    assert any(re.search(r"\d+%.*60 users.*\d\d:\d\d", line.replace("/60", " 60")) for line in lines), lines[
        -1
    ]


@pytest.mark.parametrize("flags", [[], ["-W", "error"]], ids=str)
@pytest.mark.parametrize("language", ["C", "C.UTF-8"])
def test_the_log_is_json_lines_in_any_locale(connected, home, language, flags):
    """``2>> log`` with LANG=C and under -W error."""
    environment = os.environ | {"LANG": language, "LC_ALL": language}
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if language == "C" else {}
    for _ in range(2):
        with (home / "log").open("ab") as log:
            command = [sys.executable, *flags, *FLOWMATE[1:], "sync", "--all-users"]
            done = subprocess.run(command, stderr=log, stdout=subprocess.PIPE, env=environment, check=False)
        assert done.returncode == 0
    lines = [msgspec.json.decode(line) for line in (home / "log").read_bytes().splitlines()]
    assert [line["event"] for line in lines if line["event"].startswith("run_")] == [
        "run_began",
        "run_ended",
    ] * 2


class TestCelery:
    """A follower without workers would wait without a word."""

    @staticmethod
    def follow(virtually, *events):
        async def main():
            watch = WorkerWatch()
            for event in events:
                watch(event)
                await asyncio.sleep(10)
            await asyncio.sleep(10)
            watch.cancel()

        virtually(main)

    def test_without_workers_it_says_so(self, virtually, capsys):
        self.follow(virtually, RunBegan("r", resumed=False, total=10))
        assert "Is a `flowmate worker` running" in capsys.readouterr().err

    def test_with_a_worker_it_says_nothing(self, virtually, capsys):
        self.follow(virtually, RunBegan("r", resumed=False, total=10), UserStored("ann", 1, 0.1))
        assert capsys.readouterr().err == ""
