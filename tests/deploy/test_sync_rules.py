"""The shipped alert rules fire on the metrics files of syncs that went wrong, and on no other."""

import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flowmate_async.integrations.metrics_file import LastRun, write_last_run, write_refused, write_running

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "flowmate-rules.yaml"
HOUR = 3600.0
NOW = 40 * HOUR
"""The time of the evaluation: promtool's tests begin at the epoch."""

GOOD = {"exit_code": 0, "complete": True, "started_at": NOW - 2 * HOUR, "ended_at": NOW - HOUR}
GOOD |= {"succeeded_at": NOW - HOUR, "users": {"synced": 95, "failed": 5}}


def rules():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    found = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    return {name: expr for name, expr in found.items() if name.startswith("FlowMateSync")}


def firing(text, *, now=NOW):
    """Evaluate the rules on one scrape. The expressions are read as the subset of PromQL that they use."""
    values = {}
    for family in text_string_to_metric_families(text):
        values |= {named(sample): sample.value for sample in family.samples}
    return {name for name, expr in rules().items() if holds(expr, values, now)}


def named(sample):
    labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def holds(expr, values, now):
    names = "|".join(map(re.escape, sorted(values, key=len, reverse=True))) or "(?!)"
    users = {
        name: value for name, value in values.items() if name.startswith("flowmate_sync_last_run_users{")
    }
    text = expr.replace(
        "sum without (outcome) (flowmate_sync_last_run_users)", repr(float(sum(users.values())))
    )
    text = text.replace("sum without (outcome)", "").replace("time()", repr(now))
    absent = re.fullmatch(r"absent\((\w+)\)", text)
    if absent:
        return absent[1] not in values
    text = re.sub(names, lambda found: repr(values[found[0]]), text)
    if "flowmate_" in text:  # a metric that is not there: the expression selects nothing
        return False
    assert re.fullmatch(r"[\d\s.e+*<>=()-]+(and[\d\s.e+*<>=()-]+)?", text), text
    return eval(text)  # only numbers and operators are left


CASES = [
    ({}, set()),
    ({"succeeded_at": NOW - 27 * HOUR}, {"FlowMateSyncTooOld"}),
    ({"exit_code": 3, "complete": False}, {"FlowMateSyncFailed"}),
    ({"exit_code": 2}, {"FlowMateSyncNotReported"}),
    ({"exit_code": 1, "users": {"synced": 80, "failed": 20}}, {"FlowMateSyncManyUsersFailed"}),
    ({"exit_code": 1}, set()),
    ({"throttled": 3}, {"FlowMateSyncThrottled"}),
    (
        {"exit_code": 2, "complete": False, "succeeded_at": 0.0, "users": {}},
        {"FlowMateSyncFailed", "FlowMateSyncTooOld"},
    ),
]


def written(tmp_path, **changes):
    path = tmp_path / "flowmate.prom"
    path.unlink(missing_ok=True)
    write_last_run(path, LastRun(**(GOOD | changes)))
    return path.read_text()


@pytest.mark.parametrize(("changes", "alerts"), CASES)
def test_what_goes_wrong_fires_its_alert(tmp_path, changes, alerts):
    assert firing(written(tmp_path, **changes)) == alerts


def test_no_file_fires():
    assert firing("") == {"FlowMateSyncMissing"}


def test_a_killed_sync_fires_and_keeps_what_was_known(tmp_path):
    before = written(tmp_path)
    write_running(tmp_path / "flowmate.prom", started_at=NOW - HOUR)
    text = (tmp_path / "flowmate.prom").read_text()
    assert firing(text) == set()
    assert firing(text, now=NOW + 12 * HOUR) == {"FlowMateSyncKilled"}
    assert "flowmate_sync_last_run_complete 1.0" in text
    assert "flowmate_sync_running 0.0" in before


def test_an_overlap_fires_beside_the_running_sync(tmp_path):
    before = written(tmp_path)
    write_refused(tmp_path / "flowmate.prom")
    beside = (tmp_path / "flowmate.refused.prom").read_text()
    assert (tmp_path / "flowmate.prom").read_text() == before
    assert firing(beside, now=time.time()) == {"FlowMateSyncOverlaps", "FlowMateSyncMissing"}


def test_promtool_accepts_them_and_evaluates_them_alike(tmp_path, program):
    promtool = program("promtool", package="prometheus")
    tests = [
        {
            "interval": "1h",
            "input_series": series(written(tmp_path, **changes)),
            "alert_rule_test": [
                {
                    "eval_time": "40h",
                    "alertname": name,
                    "exp_alerts": [expected(name)] if name in alerts else [],
                }
                for name in sorted(rules())
            ],
        }
        for changes, alerts in CASES
    ]
    document = {"evaluation_interval": "1h", "rule_files": [str(without_texts(tmp_path))], "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    for command in (["check", "rules", RULES], ["test", "rules", tmp_path / "tests.yaml"]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def series(text):
    return [
        {
            "series": named(sample),
            "values": f"{sample.value:.0f}x200",
        }
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def expected(name):
    groups = yaml.safe_load(RULES.read_text())["groups"]
    labels = next(rule["labels"] for group in groups for rule in group["rules"] if rule["alert"] == name)
    return {"exp_labels": labels, "exp_annotations": {}}


def without_texts(folder):
    """Write a copy of the rules without annotations, which promtool would compare too."""
    document = yaml.safe_load(RULES.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations")
    (folder / "rules.yaml").write_text(yaml.safe_dump(document))
    return folder / "rules.yaml"


def test_every_metric_of_the_rules_is_written(tmp_path):
    """A renamed metric would turn an alert off without a word."""
    text = written(tmp_path)
    write_refused(tmp_path / "flowmate.prom")
    text += (tmp_path / "flowmate.refused.prom").read_text()
    named = {name for expr in rules().values() for name in re.findall(r"flowmate_\w+", expr)}
    assert {name for name in named if f"# TYPE {name} gauge" not in text} == set()
