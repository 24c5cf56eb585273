"""The alert rules about the health of credentials, evaluated on the metrics files of syncs."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flowmate_async.cli.app import run
from flowmate_async.integrations.metrics_file import LastRun, write_last_run
from tests.cli.conftest import connect, twin_thread

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "flowmate-rules.yaml"
OAUTH = "OA2_AUTHORIZATION_CODE"


def rules():
    [group] = [
        one for one in yaml.safe_load(RULES.read_text())["groups"] if one["name"] == "flowmate-credentials"
    ]
    return group["rules"]


def gauges(path):
    """The credentials in a metrics file, by health and type."""
    families = text_string_to_metric_families(path.read_text())
    [found] = [family for family in families if family.name == "flowmate_credentials"]
    return {(one.labels["health"], one.labels["type"]): one.value for one in found.samples}


def written(path, credentials):
    write_last_run(
        path, LastRun(exit_code=0, complete=True, started_at=1.0, ended_at=2.0, credentials=credentials)
    )
    return gauges(path)


def test_every_combination_is_exported_so_that_graphs_fall(tmp_path):
    found = written(tmp_path / "flowmate.prom", {("broken", OAUTH): 3, ("expiring", "NEW_TYPE"): 1})
    assert found["broken", OAUTH] == 3
    assert found["expiring", "NEW_TYPE"] == 1
    assert found["broken", "API_KEY"] == found["provider_outage", OAUTH] == 0
    assert written(tmp_path / "flowmate.prom", {})["broken", OAUTH] == 0


def test_a_sync_exports_what_is_broken(tmp_path, monkeypatch, capsys):
    with twin_thread(users=2) as twin:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        connect(twin, monkeypatch, tmp_path)
        made = twin.ask("/_sandbox/secrets", {"type": OAUTH, "owners": ["user-000000@tenant.example"]})
        twin.ask(f"/_sandbox/secrets/{yaml.safe_load(made)['id']}/break", method="POST")
        path = tmp_path / "flowmate.prom"
        assert run(["sync", "--all-users", "--metrics-file", str(path)]) == 1
        found = {labels: count for labels, count in gauges(path).items() if count}
    capsys.readouterr()
    assert run(["health", "--json"]) == 1
    shown = [yaml.safe_load(line) for line in capsys.readouterr().out.splitlines()]
    assert found == Counter((one["state"], one["type"]) for one in shown)
    assert found["broken", OAUTH] >= 1


CASES = [
    ("broken", "0x24 30x24", 25, ["FlowMateCredentialsBreaking"]),
    ("broken", "100x24 110x24", 25, []),
    ("broken", "100x24 130x24", 25, ["FlowMateCredentialsBreaking"]),
    ("broken", "100x96", 90, []),
    ("broken", "0x24 4x24", 25, []),
    ("provider_outage", "0x24 7x24", 25, []),
    ("provider_outage", "0x24 7x24", 27, ["FlowMateProviderOutage"]),
    ("unreadable", "0x24 2x24", 25, ["FlowMateCredentialsUnreadable"]),
    ("expiring", "0x24 9x24", 27, []),
]


@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize(("health", "values", "hour", "fires"), CASES)
def test_alerts_fire_on_changes_and_not_on_old_ones(tmp_path, program, health, values, hour, fires, sources):
    """A metrics file and workers with the same store export the same credentials."""
    promtool = program("promtool", package="prometheus")
    bare = [{key: rule[key] for key in ("alert", "expr", "for") if key in rule} for rule in rules()]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": bare}]}))
    test = {
        "interval": "1h",
        "input_series": [
            {
                "series": f'flowmate_credentials{{health="{health}",type="SIMPLE",instance="{source}"}}',
                "values": values,
            }
            for source in range(sources)
        ],
        "alert_rule_test": [
            {
                "eval_time": f"{hour}h",
                "alertname": rule["alert"],
                "exp_alerts": [{}] if rule["alert"] in fires else [],
            }
            for rule in bare
        ],
    }
    document = {"evaluation_interval": "1h", "rule_files": [str(tmp_path / "rules.yaml")], "tests": [test]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
