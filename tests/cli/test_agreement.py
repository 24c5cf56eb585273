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

from .conftest import FLOWMATE, connect, twin_process

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


def status(*flags):
    done = subprocess.run(
        [*FLOWMATE, "status", "--json", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)


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


def require_agreement(home, code, printed, before):
    """What was told after a kill, or after a good end."""
    told, known = metrics(home), status()
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("night", ["first", "second"])
def test_a_killed_sync(home, monkeypatch, night, number):
    """At every step one kill, and after each the next sync, which resumes."""
    with twin_process("--users", str(USERS), "--seed", "7") as twin:
        connect(twin, monkeypatch, home)
        if night == "second":
            done = subprocess.run([*FLOWMATE, *SYNC, *FILES], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        for step in STEPS:
            before = status() if (home / "credentials.db").exists() else None
            code, printed = killed(step, number, twin)
            assert code in (0, INTERRUPTED, -number), (step, code)
            if (home / "credentials.db").exists():
                require_agreement(home, code, printed, before)
        done = subprocess.run([*FLOWMATE, *SYNC, *FILES], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        require_agreement(home, 0, msgspec.json.decode(done.stdout), None)
        assert status()["runs"][0]["users"] == {"synced": USERS, "failed": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("delay", [0.3, 0.6, 0.9, 1.2])
def test_a_killed_migration_changes_nothing_that_is_told(home, monkeypatch, number, delay):
    """The source's status and the metrics stay. Run again, the migration is complete."""
    with twin_process("--users", str(USERS), "--seed", "7") as twin:
        connect(twin, monkeypatch, home)
        assert subprocess.run([*FLOWMATE, *SYNC, *FILES], capture_output=True, check=False).returncode == 0
        told, known = metrics(home), status()
        command = [*FLOWMATE, "store", "migrate", "sqlite:///copy.db"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(delay)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert metrics(home) == told
        assert status()["runs"] == known["runs"]
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        verified = subprocess.run(
            [*FLOWMATE, "store", "verify", "--store", "sqlite:///copy.db"], capture_output=True, check=False
        )
        assert verified.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("delay", [0.3, 0.5, 0.7, 0.9])
def test_a_killed_upgrade_leaves_the_same_status(home, monkeypatch, number, delay):
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
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert status()["runs"] == runs
