"""deploy/kubernetes: its manifests fit each other and the command, and what they run works."""

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import yaml

from flowmate_async import __version__
from flowmate_async.cli import interrupts
from flowmate_async.cli.app import app
from flowmate_async.cli.exits import Exit

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
FILES = [path for path in sorted(FOLDER.rglob("*.yaml")) if "patch" not in path.name]
MANIFESTS = [
    manifest
    for path in FILES
    if path.name != "kustomization.yaml"
    for manifest in yaml.safe_load_all(path.read_text())
]
KUSTOMIZATIONS = {
    path.parent.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.rglob("kustomization.yaml"))
}
PROVIDED = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in MANIFESTS}
SETTINGS = PROVIDED["ConfigMap", "flowmate"]["data"]
CLUSTER_SETTINGS = SETTINGS | yaml.safe_load((FOLDER / "cluster" / "settings-patch.yaml").read_text())["data"]
SECRETS = {
    PurePosixPath(name).name
    for kustomization in KUSTOMIZATIONS.values()
    for generator in kustomization["secretGenerator"]
    for name in generator["files"]
}


def pods(manifests):
    """Every pod's specification, by the name of what makes it."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield manifest["metadata"]["name"], spec["template"]["spec"]


PODS = dict(pods(MANIFESTS))
LASTING = {name: PODS[name] for name in ("flowmate-sync", "flowmate-worker")}
"""The pods in which the library's own commands run for hours."""


def test_there_is_one_of_each_kind():
    assert set(PODS) == {"flowmate-sync", "flowmate-doctor", "flowmate-worker", "integration-worker"}
    assert all({"apiVersion", "kind", "metadata"} <= set(manifest) for manifest in MANIFESTS)
    assert len(PROVIDED) == len(MANIFESTS)


def check_references(pod, settings):
    """Check that the volumes, secrets with their keys, settings and ports that a pod names exist."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert all(
            ("ConfigMap", one["configMapRef"]["name"]) in PROVIDED for one in container.get("envFrom", ())
        )
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports
                assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")
    for volume in volumes.values():
        if "secret" in volume:
            assert volume["secret"]["secretName"] == "flowmate"
            assert {item["key"] for item in volume["secret"].get("items", ())} <= SECRETS
        else:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in PROVIDED
    check_paths(pod, settings)


def check_paths(pod, settings):
    """Check that every path in arguments and variables is on something mounted."""
    for container in pod["containers"]:
        mounts = [PurePosixPath(mount["mountPath"]) for mount in container["volumeMounts"]]
        named = [one["value"] for one in container.get("env", ()) if "value" in one]
        named += settings.values() if "envFrom" in container else []
        named += container.get("args", [])
        paths = [re.sub(r"^sqlite:///|^postgresql:.*=", "", text) for text in named]
        for path in [PurePosixPath(text) for text in paths if text.startswith("/")]:
            assert any(path.is_relative_to(mount) for mount in mounts), path


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
class TestPods:
    def test_what_it_names_is_there(self, pod):
        settings = CLUSTER_SETTINGS if pod is PODS["flowmate-worker"] else SETTINGS
        check_references(pod, settings)

    def test_secrets_are_mounted_as_the_library_accepts_them(self, pod):
        (mounted,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert mounted["defaultMode"] == 0o440
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]

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
                    assert one["valueFrom"]["secretKeyRef"]["key"] in SECRETS

    def test_it_may_do_nothing_but_its_work(self, pod):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }

    def test_no_service_of_the_namespace_is_a_setting(self, pod):
        """A Service called flowmate-metrics would have Kubernetes set FLOWMATE_METRICS_PORT."""
        assert pod["enableServiceLinks"] is False


@pytest.fixture
def home_of_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_the_settings_are_variables_that_are_read():
    flags = [*app["sync"].assemble_argument_collection(), *app["worker"].assemble_argument_collection()]
    known = {name for argument in flags for name in argument.parameter.env_var or ()}
    assert set(CLUSTER_SETTINGS) <= known | {"FLOWMATE_STORE_KEY_FILE", "FLOWMATE_BROKER_URL_FILE"}


@pytest.mark.parametrize("pod", LASTING.values(), ids=LASTING)
class TestLasting:
    def test_it_has_resources_and_an_image_that_is_named_by_kustomize(self, pod):
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            for kustomization in KUSTOMIZATIONS.values():
                (image,) = kustomization["images"]
                assert image == {"name": container["image"], "newTag": __version__}

    def test_its_probes_ask_the_port_that_it_serves(self, pod):
        for container in pod["containers"]:
            arguments = container["args"]
            port = arguments[arguments.index("--metrics-port") + 1]
            assert [str(one["containerPort"]) for one in container["ports"]] == [port]
            assert arguments[arguments.index("--metrics-host") + 1] == "0.0.0.0"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
            (ingress,) = PROVIDED["NetworkPolicy", "flowmate"]["spec"]["ingress"]
            assert [str(one["port"]) for one in ingress["ports"]] == [port]


def test_doctor_has_the_image_of_the_version():
    assert PODS["flowmate-doctor"]["containers"][0]["image"] == f"registry.example/flowmate:{__version__}"


def test_a_worker_is_told_what_a_cluster_needs():
    (container,) = PODS["flowmate-worker"]["containers"]
    assert CLUSTER_SETTINGS["FLOWMATE_STORE"].startswith("postgresql://"), "a store that all of them reach"
    replicas = PROVIDED["Deployment", "flowmate-worker"]["spec"]["replicas"]
    processes = int(CLUSTER_SETTINGS["FLOWMATE_PROCESSES"])
    assert processes == replicas + 1, "the rate's share of each without Redis"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_there_is_time_to_drain():
    drain = 2 * interrupts._DRAIN_SECONDS
    for name, pod in PODS.items():
        if name != "flowmate-doctor":
            assert pod["terminationGracePeriodSeconds"] >= drain + 5
    assert f"given {interrupts._DRAIN_SECONDS:.0f} s" in PAGE


def test_exit_codes_that_no_retry_helps_fail_the_job():
    spec = PROVIDED["CronJob", "flowmate-sync"]["spec"]["jobTemplate"]["spec"]
    (rule,) = [rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert rule["onExitCodes"]["values"] == [Exit.SOME_FAILED]  # 2 may be a database that is away
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "a failure policy needs it"


def test_every_resource_and_patch_of_a_kustomization_exists():
    for name, kustomization in KUSTOMIZATIONS.items():
        patches = [patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch]
        for resource in [*kustomization["resources"], *patches]:
            assert (FOLDER / name / resource).exists(), resource


@pytest.fixture(params=["nightly", "cluster"])
def rendered(request, tmp_path):
    """What kubectl makes of a kustomization, with invented secrets."""
    kubectl = shutil.which("kubectl") or shutil.which("kustomize")
    if kubectl is None:
        pytest.skip(
            "neither kubectl nor kustomize is installed; the tests above look at the files themselves"
        )
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    for name, kustomization in KUSTOMIZATIONS.items():
        for generator in kustomization["secretGenerator"]:
            for file in generator["files"]:
                path = tmp_path / "kubernetes" / name / file
                path.parent.mkdir(exist_ok=True)
                path.write_text("invented")
    build = "kustomize" if Path(kubectl).name == "kubectl" else "build"
    command = [kubectl, build, tmp_path / "kubernetes" / request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_rendered_manifests_fit_each_other(rendered, home_of_nobody):
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in rendered}
    for pod in dict(pods(rendered)).values():
        check_references(pod, by_name["ConfigMap", "flowmate"]["data"])
        for container in pod["containers"]:
            assert container["image"] == f"registry.example/flowmate:{__version__}"
            _, _, unused = app.parse_args(container["args"], exit_on_error=False, print_error=False)
            assert not unused
    claimed = any(
        "persistentVolumeClaim" in volume
        for pod in dict(pods(rendered)).values()
        for volume in pod["volumes"]
    )
    assert claimed == (("PersistentVolumeClaim", "flowmate") in by_name)


def test_rendered_pods_are_covered_by_the_network_policy(rendered):
    by_kind = {one["kind"]: one for one in rendered}
    selected = by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    for manifest in rendered:
        spec = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            assert selected.items() <= spec["template"]["metadata"]["labels"].items()
    opened = {port["port"] for rule in by_kind["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]}
    needed = {53, 443} | ({5432, 6379} if "Deployment" in by_kind else set())
    assert opened == needed


@pytest.mark.parametrize("name", ["flowmate-doctor", "flowmate-sync"])
def test_what_a_pod_runs_works(name, as_deployed, secrets, tmp_path):
    (container,) = PODS[name]["containers"]
    arguments = [
        "0" if text == "9464" else "127.0.0.1" if text == "0.0.0.0" else text for text in container["args"]
    ]
    (tmp_path / "data").mkdir()
    done = as_deployed(arguments, SETTINGS, {"/secrets": secrets, "/data": tmp_path / "data"})
    assert done.returncode == 0, done.stderr
    if name == "flowmate-sync":
        assert (tmp_path / "data" / "report.json").stat().st_size
        assert (tmp_path / "data" / "credentials.db").stat().st_size
