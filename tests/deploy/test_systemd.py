"""deploy/systemd and deploy/logrotate: the units are valid and their command works; logs are rotated."""

import configparser
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from flowmate_async.cli.app import app
from flowmate_async.cli.exits import Exit

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICE = DEPLOY / "systemd" / "flowmate-sync.service"
PROGRAM = "/opt/flowmate/bin/flowmate"


class Unit(configparser.RawConfigParser):
    """A unit file: names keep their case and can be repeated, with all values in one list."""

    def __init__(self, path):
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str
        self.values: dict[str, list[str]] = {}
        joined = re.sub(r"\\\n\s*", "", path.read_text())
        self.read_string(joined)
        for line in joined.splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                self.values.setdefault(name, []).append(value)


UNIT = Unit(SERVICE)
COMMAND = shlex.split(UNIT["Service"]["ExecStart"])


def test_the_units_are_valid(program, tmp_path):
    analyze = program("systemd-analyze", package="systemd")
    for path in (DEPLOY / "systemd").glob("flowmate-sync.*"):
        text = path.read_text().replace(PROGRAM, "/bin/true")  # which must exist to be verified
        (tmp_path / path.name).write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "flowmate-sync" in line]
    assert not ours, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_service_can_do_little_else(program):
    analyze = program("systemd-analyze", package="systemd")
    command = [analyze, "security", "--offline=true", "--no-pager", "--threshold=25", str(SERVICE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_the_service_runs_as_a_user_that_is_created():
    created = (DEPLOY / "systemd" / "flowmate.conf").read_text()
    assert f"\nu {UNIT['Service']['User']} " in created


def test_a_timer_starts_it_every_night():
    timer = Unit(DEPLOY / "systemd" / "flowmate-sync.timer")
    assert re.fullmatch(r"\*-\*-\* \d\d:\d\d:\d\d", timer["Timer"]["OnCalendar"])
    assert timer["Install"]["WantedBy"] == "timers.target"


def test_no_credential_is_in_a_unit_or_in_the_configuration():
    for path in (DEPLOY / "systemd").iterdir():
        assert not re.search(r"FLOWMATE_(ADMIN_TOKEN|STORE_KEY)=", path.read_text())
    assert [value for value in UNIT.values["Environment"] if "%d/" not in value] == []


def test_its_command_and_its_exit_codes_are_the_librarys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    arguments = [text for text in COMMAND[1:] if text not in ("--config", "/etc/flowmate/config.toml")]
    _, _, unused = app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert not unused
    service = UNIT["Service"]
    assert service["RestartPreventExitStatus"].split() == [str(int(Exit.SOME_FAILED)), str(int(Exit.USAGE))]
    assert service["SuccessExitStatus"] == str(int(Exit.INTERRUPTED))


def test_what_the_service_runs_works(as_deployed, secrets, tmp_path):
    assert COMMAND[0] == PROGRAM
    for folder in ("etc", "state/metrics"):
        (tmp_path / folder).mkdir(parents=True)
    config = (DEPLOY / "systemd" / "config.toml").read_text()
    state = tmp_path / "state"
    (tmp_path / "etc" / "config.toml").write_text(config.replace("/var/lib/flowmate", str(state)))
    settings = dict(value.split("=", 1) for value in UNIT.values["Environment"])
    folders = {"%d": secrets, "/etc/flowmate": tmp_path / "etc", "/var/lib/flowmate": state}
    done = as_deployed(COMMAND[1:], settings, folders)
    assert done.returncode == 0, done.stderr
    private = {path.name: path.stat().st_mode & 0o077 for path in state.iterdir() if path.is_file()}
    assert {"credentials.db", "report.html", "report.json"} <= set(private)
    assert not any(private.values()), "others can enter the folder, for the metrics"
    assert "flowmate_sync" in (state / "metrics" / "flowmate.prom").read_text()


def test_its_folders_are_its_own():
    state, logs = UNIT["Service"]["StateDirectory"].split(), UNIT["Service"]["LogsDirectory"]
    paths = [text for text in COMMAND if text.startswith("/var/lib/")]
    store = tomllib.loads((DEPLOY / "systemd" / "config.toml").read_text())["store"]
    for path in [*paths, store.removeprefix("sqlite:///")]:
        assert any(Path(path).parent == Path("/var/lib", folder) for folder in state), path
    assert UNIT["Service"]["StandardError"].startswith(f"append:/var/log/{logs}/")


@pytest.fixture
def rotated(program, tmp_path):
    """Run the logrotate file over folders of the test, as often as wanted."""
    logrotate = program("logrotate", package="logrotate", folders="usr/sbin/logrotate")
    text = (DEPLOY / "logrotate" / "flowmate").read_text()
    for old, new in {
        "/var/log/flowmate": str(tmp_path / "log"),
        "/var/lib/flowmate": str(tmp_path / "state"),
        "su flowmate flowmate": "",  # a user that does not exist here
        "create 0640 flowmate flowmate": "create 0640",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "rotate.conf").write_text(text)
    (tmp_path / "rotate.conf").chmod(0o600)
    for folder in ("log", "state"):
        (tmp_path / folder).mkdir(mode=0o700)

    def run():
        command = [logrotate, "--force", "--state", tmp_path / "rotate.state", tmp_path / "rotate.conf"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    return run


def test_logs_and_reports_are_rotated(rotated, tmp_path):
    log, report = tmp_path / "log" / "sync.jsonl", tmp_path / "state" / "report.html"
    log.write_text("{}\n")
    report.write_text("<html>")
    shutil.copy(log, tmp_path / "state" / "credentials.db")
    rotated()
    assert {path.name for path in log.parent.iterdir()} == {"sync.jsonl", "sync.jsonl.1"}
    assert not log.read_text()
    (old,) = report.parent.glob("report.html-*")
    assert old.read_text() == "<html>"
    assert not report.exists(), "the next sync makes it"
    assert (tmp_path / "state" / "credentials.db").read_text()
