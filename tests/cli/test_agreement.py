"""Killed at any step, a sync, an upgrade or a migration leaves all that is told in agreement.

The real command is killed with SIGTERM, which it can still report, and with SIGKILL, which it cannot.
"""

import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import FLOWMATE, connect, twin_thread

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX"),
    pytest.mark.timeout(300),
]

INTERRUPTED = 130
USERS = 80
SYNC = ("sync", "--all-users", "--full", "--rate", "400", "--burst", "10", "--json")
FILES = ("--metrics-file", "flowmate.prom", "--report", "report.json")
STEPS = ["start", "run_began", "some users", "most users", "run_ended"]
FIXTURES = Path(__file__).parents[1] / "stores" / "fixtures"


def metrics(home):
    path = home / "flowmate.prom"
    text = path.read_text() if path.exists() else ""
    return {
        sample.name.removeprefix("flowmate_sync_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


@pytest.fixture
def done(flowmate):
    """Run a command to its end in this process, and return what it prints."""

    def run(*arguments):
        ended = flowmate(*arguments)
        assert ended.code == 0, ended.err
        return ended.out

    return run


@pytest.fixture
def status(done):
    return lambda: msgspec.json.decode(done("status", "--json"))


def status_by_a_process():
    return msgspec.json.decode(subprocess.check_output([*FLOWMATE, "status", "--json"]))


def seconds(text):
    return 0.0 if text is None else datetime.fromisoformat(text).timestamp()


def reached(step, process, twin, before):
    """Wait until a sync is that far."""
    deadline = time.monotonic() + 60
    wanted = {"some users": USERS * 0.3, "most users": USERS * 0.8}.get(step)
    while process.poll() is None and time.monotonic() < deadline:
        if step == "start":
            time.sleep(0.4)
            return
        if wanted is None:
            line = process.stderr.readline()
            if f'"event":"{step}"' in line:
                return
        elif twin.stats()["impersonations"] - before >= wanted:
            return
        else:
            time.sleep(0.01)


def killed(step, number, twin):
    """Run a sync and kill it at a step. Return its exit code and what it printed."""
    before = twin.stats()["impersonations"]
    command = [*FLOWMATE, *SYNC, *FILES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        reached(step, process, twin, before)
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    return process.returncode, msgspec.json.decode(out) if out else None


def require_agreement(home, code, printed, before, known):
    """What was told after a kill, or after a good end."""
    told = metrics(home)
    last = known["runs"][0] if known["runs"] else None
    success = told.get("last_success_timestamp_seconds", 0.0)
    if code >= 0:
        assert success == pytest.approx(seconds(known["last_success_at"]), abs=0.002)
    else:  # what could not be told makes no sync look better than it was
        assert success <= seconds(known["last_success_at"]) + 0.002
    if code == -signal.SIGKILL:
        began = last is not None and (not before or last["run_id"] != before["runs"][0]["run_id"])
        if began and not last["complete"] and sum(last["users"].values()):
            assert told["running"] == 1
        return
    if code < 0:  # before the command could handle the signal
        return
    assert told["last_run_exit_code"] == code
    assert told["running"] == 0
    complete = "error" not in printed and printed["complete"]
    assert told["last_run_complete"] == complete
    if "error" in printed:
        assert printed["error"]["exit_code"] == code == INTERRUPTED
    else:
        report = msgspec.json.decode((home / "report.json").read_bytes())
        assert report["run_id"] == printed["run_id"] == last["run_id"]
        assert report["complete"] == complete == last["complete"]
        assert (code == 0) == complete
        assert report["totals"]["synced"] == printed["synced"] == last["users"]["synced"]


def every(*steps, first=None):
    """The first steps with one signal each, the two in turn; in the long version all steps with both."""
    numbers = (signal.SIGTERM, signal.SIGKILL)
    daily = len(steps) if first is None else first
    return [
        pytest.param(step, number, marks=() if turn == place % 2 and place < daily else pytest.mark.long)
        for place, step in enumerate(steps)
        for turn, number in enumerate(numbers)
    ]


@pytest.mark.parametrize(("night", "number"), every("first", "second"))
def test_a_killed_sync(home, monkeypatch, done, status, night, number):
    """At every step one kill, and after each the next sync, which resumes."""
    with twin_thread(users=USERS) as twin:
        connect(twin, monkeypatch, home)
        if night == "second":
            done(*SYNC, *FILES)
        for step in STEPS:
            before = status() if (home / "credentials.db").exists() else None
            code, printed = killed(step, number, twin)
            assert code in (0, INTERRUPTED, -number), (step, code)
            if (home / "credentials.db").exists():
                require_agreement(home, code, printed, before, status())
        printed = msgspec.json.decode(done(*SYNC, *FILES))
        known = status_by_a_process()
        require_agreement(home, 0, printed, None, known)
        assert known["runs"][0]["users"] == {"synced": USERS, "failed": 0}


@pytest.mark.parametrize(("delay", "number"), every(0.3, 0.9, 0.6, 1.2, first=2))
def test_a_killed_migration_changes_nothing_that_is_told(
    home, monkeypatch, flowmate, done, status, delay, number
):
    """The source's status and the metrics stay. Run again, the migration is complete."""
    with twin_thread(users=USERS) as twin:
        connect(twin, monkeypatch, home)
        done(*SYNC, *FILES)
        told, known = metrics(home), status()
        migrate = ("store", "migrate", "sqlite:///copy.db")
        with subprocess.Popen(
            [*FLOWMATE, *migrate], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(delay)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert metrics(home) == told
        assert status()["runs"] == known["runs"]
        if process.returncode != 0:
            again = flowmate(*migrate)
            # The signal may also have come between the end of the copy and the end of the process.
            assert again.code == 0 or "holds a complete copy of this store already" in again.err, again.err
        done("store", "verify", "--store", "sqlite:///copy.db")


@pytest.mark.parametrize(("delay", "number"), every(0.3, 0.7, 0.5, 0.9, first=2))
def test_a_killed_upgrade_leaves_the_same_status(home, monkeypatch, done, status, delay, number):
    """Before, after the kill, and after the upgrade was run again."""
    path = home / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript((FIXTURES / "sqlite-format-4.sql").read_text())
    connection.close()
    path.chmod(0o600)
    monkeypatch.setenv("FLOWMATE_STORE", f"sqlite:///{path}")
    monkeypatch.setenv("FLOWMATE_STORE_KEY", b"0123456789abcdef0123456789abcdef".hex())
    runs = status()["runs"]
    assert runs
    command = [*FLOWMATE, "store", "upgrade"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert status()["runs"] == runs
    for backup in home.glob("old.db.format-*"):
        backup.rename(home / f"kept-{backup.name}")
    done("store", "upgrade")
    assert status()["runs"] == runs
