"""What commands print for machines: JSON Lines without exception, errors as objects, and their schemas."""

import logging
import re
import subprocess
import sys
import warnings
from datetime import datetime
from importlib import resources
from pathlib import Path

import jsonschema
import msgspec
import pytest

from .conftest import FLOWMATE

ROOT = Path(__file__).parents[2]
USAGE, UPSTREAM, CRASHED = 2, 3, 70
SNAKE = re.compile(r"[a-z][a-z0-9_]*")
CHECKER = jsonschema.FormatChecker()


@CHECKER.checks("date-time", raises=ValueError)
def is_moment(text):
    """RFC 3339 with a zone; the library checks no dates by itself."""
    return not isinstance(text, str) or datetime.fromisoformat(text).tzinfo is not None


def validate(value, name):
    text = resources.files("flowmate_async.reporting").joinpath("schemas", f"{name}.v1.json").read_bytes()
    schema = msgspec.json.decode(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator, format_checker=CHECKER)


def names(value):
    """Every name in a JSON value."""
    if isinstance(value, dict):
        yield from value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from names(part)


class TestEveryLine:
    def test_of_a_good_sync(self, flowmate, connected):
        ended = flowmate("sync", "--all-users")
        for line in ended.events:
            validate(line, "events")
        assert [line["event"] for line in ended.events][:1] == ["run_began"]
        assert {line["run_id"] for line in ended.events} == {ended.events[0]["run_id"]} != {None}

    @pytest.mark.parametrize(
        ("flags", "code"),
        [
            (["--no-such-flag"], USAGE),
            (["--rate", "fast"], USAGE),
            (["--users-file", "missing.txt"], USAGE),
            (["--all-users", "--config", "missing.toml"], USAGE),
            (["--log-format", "xml"], USAGE),
            (["nobody-at-all"], 1),
            (["--all-users", "--base-url", "http://127.0.0.1:9"], UPSTREAM),
        ],
        ids=str,
    )
    def test_of_a_sync_that_fails(self, flowmate, connected, flags, code, monkeypatch, short_waits):
        monkeypatch.setenv("FLOWMATE_TOKEN", "misspelled")
        ended = flowmate("sync", *flags)
        assert ended.code == code
        assert ended.events[0] | {"ts": ""} == {
            "ts": "",
            "level": "warning",
            "event": "misspelled_variable",
            "run_id": None,
            "message": "FLOWMATE_TOKEN is set, and nothing reads it. Did you mean FLOWMATE_ADMIN_TOKEN?",
            "variable": "FLOWMATE_TOKEN",
        }
        for line in ended.events:
            validate(line, "events")
        assert {line["level"] for line in ended.events[1:]} & {"warning", "error"}

    def test_of_libraries_warnings_and_bugs(self, flowmate, connected, monkeypatch):
        async def crash(*_args, **_options):
            logging.getLogger("a.library").warning("a record")
            warnings.warn("a warning", stacklevel=1)
            raise ZeroDivisionError

        monkeypatch.setattr("flowmate_async.client.FlowMate.sync", crash)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            ended = flowmate("sync", "--all-users", "--json")
        assert ended.code == CRASHED
        for line in ended.events:
            validate(line, "events")
        assert [line.get("logger") for line in ended.events] == ["a.library", "py.warnings", None]
        assert "ZeroDivisionError" in ended.events[-1]["traceback"]
        validate(msgspec.json.decode(ended.out), "error")

    def test_names_are_snake_case(self, flowmate, connected):
        ended = flowmate("sync", "--all-users", "--json")
        for value in (*ended.events, msgspec.json.decode(ended.out)):
            assert [name for name in names(value) if not SNAKE.fullmatch(name) and "." not in name] == []


class TestFormat:
    @pytest.mark.parametrize(
        ("arguments", "variable", "as_json"),
        [
            (["sync", "--no-such-flag"], None, True),
            (["sync", "--no-such-flag", "--log-format", "text"], None, False),
            (["sync", "--no-such-flag", "--log-format=text"], None, False),
            (["sync", "--no-such-flag"], "text", False),
            (["sync", "--no-such-flag", "--log-format", "json"], "text", True),
            (["store", "migrate", "--no-such-flag"], None, True),
            (["store", "rekey", "--no-such-flag"], None, True),
            (["worker", "--no-such-flag"], None, True),
            (["list", "--no-such-flag"], None, False),
            (["list", "--no-such-flag"], "json", True),
        ],
        ids=str,
    )
    def test_json_is_the_default_of_unattended_commands(
        self, flowmate, monkeypatch, arguments, variable, as_json
    ):
        if variable:
            monkeypatch.setenv("FLOWMATE_LOG_FORMAT", variable)
        ended = flowmate(*arguments)
        assert ended.code == USAGE
        assert ended.err.startswith("{" if as_json else "flowmate: ")

    def test_text_is_the_default_on_a_terminal(self, flowmate, connected, monkeypatch):
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        assert flowmate("sync", "--no-such-flag").err.startswith("flowmate: ")

    def test_text_in_a_file_is_lines_for_people(self, flowmate, connected):
        ended = flowmate("sync", "--all-users", "--log-format", "text")
        assert re.match(r"Run \w+ began\nRun \w+ complete\nLeft out 5 accounts", ended.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["sync", "--no-such-flag"],
        ["sync", "--all-users", "--store", "memory:"],
        ["users", "--base-url", "http://elsewhere.example"],
        ["list", "nobody-at-all"],
        ["health", "--since", "yesterday"],
        ["store", "list", "--store", "sqlite:///missing.db"],
        ["doctor", "--probe", "-1"],
    ],
    ids=str,
)
def test_json_prints_an_object_on_failure(flowmate, connected, arguments):
    ended = flowmate(*arguments, "--json")
    assert ended.code != 0
    found = msgspec.json.decode(ended.out)
    validate(found, "error")
    assert found["error"]["exit_code"] == ended.code
    assert found["error"]["message"] in ended.complaint
    assert found["error"]["advice"] in ended.complaint


class TestSchemas:
    def test_the_totals_fit(self, flowmate, connected):
        validate(msgspec.json.decode(flowmate("sync", "--all-users", "--json").out), "totals")

    def test_the_report_fits_and_has_no_internal_blobs(self, flowmate, connected, home):
        assert flowmate("sync", "--all-users", "--report", "report.json").code == 0
        report = msgspec.json.decode((home / "report.json").read_bytes())
        validate(report, "report")
        assert len(report["users"]) == 12
        assert not {"seen", "renewed"} & set(names(report))

    def test_they_are_made_of_what_is_printed(self):
        done = subprocess.run([sys.executable, "tools/schemas.py", "--check"], cwd=ROOT, check=False)
        assert done.returncode == 0

    @pytest.mark.parametrize("name", ["report", "totals", "events", "error"])
    def test_they_reject_something_else(self, name):
        with pytest.raises(jsonschema.ValidationError):
            validate({"run": 1}, name)


COMMANDS = [
    ["users", "--json"],
    ["list", "{user}", "--json"],
    ["get", "{user}", "{secret}"],
    ["get", "{user}", "{secret}", "--reveal"],
    ["store", "list", "--json"],
    ["store", "get", "{user}", "{secret}", "--reveal"],
    ["health", "--json"],
    ["sync", "--all-users", "--dry-run", "--json"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_names_and_times_are_the_same_everywhere(flowmate, connected, command):
    """snake_case, ISO 8601 in UTC, and none of upstream's spellings."""
    flowmate("sync", "--all-users")
    user, secret = next(place for place, (kind, _) in connected.truth().items() if kind.startswith("OA2"))
    ended = flowmate(*(part.format(user=user, secret=secret) for part in command))
    lines = ended.out.splitlines() if "--json" in command else [ended.out]
    assert lines
    for line in lines:
        value = msgspec.json.decode(line)
        assert [name for name in names(value) if not SNAKE.fullmatch(name)] == []
        moments = [part for name, part in pairs(value) if name.endswith("_at") or name == "since"]
        assert all(
            part is None or (part.endswith("Z") and datetime.fromisoformat(part)) for part in moments
        ), moments


def pairs(value):
    if isinstance(value, dict):
        yield from value.items()
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from pairs(part)


def test_descriptors_that_share_a_log_stay_json_lines(connected, home):
    """``flowmate sync >> log 2>> log``, with -W error."""
    with (home / "log").open("ab") as log:
        command = [sys.executable, "-W", "error", *FLOWMATE[1:], "sync", "--all-users", "--json"]
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
    assert done.returncode == 0
    lines = [msgspec.json.decode(line) for line in (home / "log").read_bytes().splitlines()]
    assert [("ts" in line, "run_id" in line) for line in lines].count((False, True)) == 1
