"""deploy/: alerting rules and dashboard are valid PromQL and use only metrics that the library exports."""

import json
from pathlib import Path

import msgspec
import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from flowmate_async import FlowMate
from flowmate_async.cli.app import run
from flowmate_async.engine.coordination import CoordinationStatistics
from flowmate_async.integrations.metrics_file import write_refused
from flowmate_async.integrations.prometheus import FlowMateCollector
from tests.cli.conftest import connect

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = [
    pytest.param(rule, id=rule["alert"])
    for group in yaml.safe_load((DEPLOY / "prometheus" / "flowmate-rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((DEPLOY / "grafana" / "flowmate-dashboard.json").read_text())
PANELS = [pytest.param(panel, id=panel["title"]) for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


class Sharing:
    """A client whose statistics include those of sharing over Redis."""

    def __init__(self, fm):
        self._fm = fm

    def stats(self):
        return msgspec.structs.replace(self._fm.stats(), coordination=CoordinationStatistics())


@pytest.fixture(scope="module")
def exported(tmp_path_factory, twin):
    """The names of all series: of a client that shares over Redis, and of the metrics file of a sync."""
    registry = CollectorRegistry()
    registry.register(FlowMateCollector(Sharing(FlowMate(admin_token="an-invented-admin-token"))))
    families = [*registry.collect(), *text_string_to_metric_families(_metrics_file(tmp_path_factory, twin))]
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def _metrics_file(tmp_path_factory, twin):
    folder = tmp_path_factory.mktemp("metrics")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        connect(twin, patch, folder)
        assert run(["sync", "--all-users", "--metrics-file", str(folder / "flowmate.prom")]) == 0
    write_refused(folder / "flowmate.prom")
    return "".join(path.read_text() for path in sorted(folder.glob("*.prom")))


def names(expression):
    """The metrics of an expression, which must be valid."""
    for variable, value in (("$__rate_interval", "5m"), ("$job", ".*")):
        expression = expression.replace(variable, value)
    found = set()

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert found, expression
    return found


@pytest.mark.parametrize("rule", RULES)
class TestRules:
    def test_its_expression_uses_exported_metrics(self, rule, exported):
        assert names(rule["expr"]) <= exported

    def test_it_has_a_severity_and_says_what_happened(self, rule):
        assert rule["alert"].startswith("FlowMate")
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= set(rule["annotations"])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_uses_exported_metrics_of_the_chosen_source(panel, exported):
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert names(target["expr"]) <= exported
        assert "$job" in target["expr"]


def test_panels_do_not_overlap():
    seen = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & seen, panel["title"]
        assert place["x"] + place["w"] <= 24
        seen |= cells


def test_panels_have_ids_of_their_own():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_alerts_have_names_of_their_own():
    alerts = [rule.values[0]["alert"] for rule in RULES]
    assert len(set(alerts)) == len(alerts)
