"""docs/kubernetes.md: its manifests are YAML, fit each other, and ask for commands that exist."""

import re
from pathlib import Path, PurePosixPath

import pytest
import yaml

from flowmate_async.cli import interrupts
from flowmate_async.cli.app import app
from flowmate_async.cli.exits import Exit

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
MANIFESTS = [
    manifest
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    for manifest in yaml.safe_load_all(block)
]
SETTINGS = next(manifest["data"] for manifest in MANIFESTS if manifest["kind"] == "ConfigMap")
PROVIDED = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in MANIFESTS}


def pods():
    """Every pod's specification, by the name of what makes it."""
    for manifest in MANIFESTS:
        spec = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield manifest["metadata"]["name"], spec["template"]["spec"]


PODS = dict(pods())
LASTING = {name: PODS[name] for name in ("flowmate-sync", "flowmate-worker")}
"""The pods in which the library's own commands run for hours."""


def test_there_is_one_of_each_kind():
    assert list(PODS) == ["flowmate-sync", "flowmate-doctor", "flowmate-worker", "integration-worker"]
    assert all({"apiVersion", "kind", "metadata"} <= set(manifest) for manifest in MANIFESTS)


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
class TestPods:
    def test_what_it_names_is_there(self, pod):
        """Volumes, secrets with their keys, settings and ports."""
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            for source in container.get("envFrom", ()):
                assert ("ConfigMap", source["configMapRef"]["name"]) in PROVIDED
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports
                    assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")
        for volume in volumes.values():
            if "secret" in volume:
                secret = PROVIDED["Secret", volume["secret"]["secretName"]]
                keys = {item["key"] for item in volume["secret"].get("items", ())}
                assert keys <= set(secret["stringData"])
            else:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in PROVIDED

    def test_secrets_are_mounted_as_the_library_accepts_them(self, pod):
        (mounted,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert mounted["defaultMode"] == 0o440
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]

    def test_every_path_is_on_something_mounted(self, pod):
        for container in pod["containers"]:
            mounts = [PurePosixPath(mount["mountPath"]) for mount in container["volumeMounts"]]
            named = [one["value"] for one in container.get("env", ()) if "value" in one]
            given = {one["name"] for one in container.get("env", ())}
            named += [SETTINGS[name] for name in SETTINGS if "envFrom" in container and name not in given]
            named += container.get("args", [])
            paths = [re.sub(r"^sqlite:///", "", text) for text in named]
            for path in [PurePosixPath(text) for text in paths if text.startswith("/")]:
                assert any(path.is_relative_to(mount) for mount in mounts), path

    def test_its_command_is_one(self, pod, home_of_nobody):
        for container in pod["containers"]:
            if "args" in container:
                _, _, unused = app.parse_args(container["args"], exit_on_error=False, print_error=False)
                assert not unused

    def test_no_container_runs_a_shell_or_holds_a_token(self, pod):
        for container in pod["containers"]:
            assert "command" not in container
            for one in container.get("env", ()):
                if one["name"].endswith(("TOKEN", "KEY", "PASSWORD")):
                    source = one["valueFrom"]["secretKeyRef"]
                    assert source["key"] in PROVIDED["Secret", source["name"]]["stringData"]


@pytest.fixture
def home_of_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_the_settings_are_variables_that_are_read():
    flags = app["sync"].assemble_argument_collection()
    known = {name for argument in flags for name in argument.parameter.env_var or ()}
    assert set(SETTINGS) <= known | {"FLOWMATE_STORE_KEY_FILE"}


@pytest.mark.parametrize("pod", LASTING.values(), ids=LASTING)
class TestLasting:
    def test_it_may_do_nothing_but_its_work(self, pod):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]

    def test_its_probes_ask_the_port_that_it_serves(self, pod):
        for container in pod["containers"]:
            arguments = container["args"]
            port = arguments[arguments.index("--metrics-port") + 1]
            assert [str(one["containerPort"]) for one in container["ports"]] == [port]
            assert arguments[arguments.index("--metrics-host") + 1] == "0.0.0.0"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_a_worker_is_told_what_a_cluster_needs():
    (container,) = PODS["flowmate-worker"]["containers"]
    given = {one["name"]: one.get("value") for one in container["env"]}
    flags = app["worker"].assemble_argument_collection()
    known = {name for argument in flags for name in argument.parameter.env_var or ()}
    assert set(given) <= known | {"FLOWMATE_BROKER_URL_FILE", "PGPASSWORD"}
    assert given["FLOWMATE_STORE"].startswith("postgresql://"), "a store that all of them reach"
    replicas = PROVIDED["Deployment", "flowmate-worker"]["spec"]["replicas"]
    assert int(given["FLOWMATE_PROCESSES"]) == replicas + 1, "the rate's share of each without Redis"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_there_is_time_to_drain():
    drain = 2 * interrupts._DRAIN_SECONDS
    for name, pod in PODS.items():
        if name != "flowmate-doctor":
            assert pod["terminationGracePeriodSeconds"] >= drain + 5
    assert f"given {interrupts._DRAIN_SECONDS:.0f} s" in PAGE


def test_exit_codes_that_no_retry_helps_fail_the_job():
    (cron,) = [manifest for manifest in MANIFESTS if manifest["kind"] == "CronJob"]
    spec = cron["spec"]["jobTemplate"]["spec"]
    (rule,) = [rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["onExitCodes"]["values"] == [Exit.SOME_FAILED]  # 2 may be a database that is away
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "a failure policy needs it"


def test_no_service_of_the_namespace_is_a_setting():
    """A Service called flowmate-metrics would have Kubernetes set FLOWMATE_METRICS_PORT."""
    assert all(pod["enableServiceLinks"] is False for pod in PODS.values())
