"""deploy/Dockerfile and deploy/compose: linted, their commands run; the image is built where a daemon is."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import anyio
import pytest
import yaml

from flowmate_async import __version__
from flowmate_async.cli.app import app
from flowmate_async.integrations import prometheus
from tests.cli.conftest import FLOWMATE
from tests.distributed.redis_server import redis_server

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if name in ("sync", "worker")}
IMAGE = f"flowmate:{__version__}"


def instructions():
    """The Dockerfile's instructions and their arguments, in order."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments.strip()


INSTRUCTIONS = list(instructions())
LAST_STAGE = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def only(name, among=LAST_STAGE):
    (found,) = [arguments for one, arguments in among if one == name]
    return found


class TestDockerfile:
    def test_every_stage_is_a_slim_python_of_a_supported_version(self):
        stages = [arguments.split()[0] for name, arguments in INSTRUCTIONS if name == "FROM"]
        supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
        for stage in stages:
            version = re.fullmatch(r"python:(3\.\d+)-slim", stage)
            assert f"Programming Language :: Python :: {version[1]}" in supported

    def test_it_does_not_run_as_root(self):
        user = only("USER")
        assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), "by number, so that runAsNonRoot can check it"
        assert f"--uid {user.partition(':')[0]} " in only("RUN")
        names = [name for name, _ in LAST_STAGE]
        assert names.index("USER") > names.index("RUN")

    def test_it_has_no_credential_and_fetches_nothing_else(self):
        for name, arguments in INSTRUCTIONS:
            assert name not in ("ADD", "ARG")
            assert not re.search(r"(TOKEN|KEY|PASSWORD)\w*=", arguments)

    def test_it_copies_what_exists_and_is_not_ignored(self):
        ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n")
        assert "*" in ignored
        for name in copied():
            assert (ROOT / name).exists()
            assert f"!{name}" in ignored

    def test_its_extras_exist(self):
        (extras,) = re.findall(r"'\.\[([\w,]+)\]'", only("RUN", INSTRUCTIONS[: -len(LAST_STAGE)]))
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(extras.split(",")) <= set(known)

    def test_what_it_copies_is_enough_to_build_the_package(self, tmp_path):
        for name in copied():
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, tmp_path)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
        subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, timeout=60)
        (wheel,) = (tmp_path / "dist").glob(f"flowmate_async-{__version__}-*.whl")
        listed = subprocess.run(
            ["git", "ls-files", "flowmate_async"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert set(listed.stdout.split()) <= set(zipfile.ZipFile(wheel).namelist())

    def test_it_is_built_and_started(self):
        builder = next((name for name in ("docker", "buildah") if works(name)), None)
        if builder is None:
            pytest.skip("no Docker daemon and no buildah: the Dockerfile is only linted")
        build = ["docker", "build"] if builder == "docker" else ["buildah", "build"]
        command = [*build, "--file", "deploy/Dockerfile", "--tag", IMAGE, "."]
        subprocess.run(command, cwd=ROOT, check=True, timeout=600)
        if builder == "docker":
            run = ["docker", "run", "--rm", "--read-only", IMAGE, "--version"]
            done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
            assert __version__ in done.stdout


def copied():
    """The names that the first stage copies from the context."""
    for name, arguments in INSTRUCTIONS[: -len(LAST_STAGE)]:
        if name == "COPY":
            yield from arguments.split()[:-1]


def works(builder):
    return (
        shutil.which(builder) is not None
        and subprocess.run([builder, "info"], capture_output=True, timeout=30, check=False).returncode == 0
    )


class TestHealthcheck:
    def command(self, port):
        exposed = only("EXPOSE")
        assert f"FLOWMATE_METRICS_PORT={exposed}" in only("ENV").replace("  ", " ")
        words = json.loads(only("HEALTHCHECK").partition("CMD ")[2])
        assert words[0] == "python"
        return [sys.executable, *(word.replace(exposed, str(port)) for word in words[1:])]

    @pytest.mark.anyio
    async def test_it_passes_while_metrics_are_served(self, fm):
        async with prometheus.serve(fm, port=0) as port:
            done = await anyio.run_process(self.command(port), check=False)
        assert done.returncode == 0, done.stderr

    def test_it_fails_where_nothing_listens(self, unused_port):
        done = subprocess.run(self.command(unused_port), capture_output=True, check=False, timeout=30)
        assert done.returncode == 1


@pytest.fixture
def unused_port():
    return 9  # the discard service, which nobody runs


def test_a_sync_works_with_a_read_only_root_file_system(twin, secrets, tmp_path):
    """As the image does: only one folder can be written to, and not even /tmp."""
    data = tmp_path / "data"
    data.mkdir()
    job = [*FLOWMATE, *shlex.split("sync --all-users --store sqlite:///credentials.db --report r.json")]
    script = (
        f"mount --bind {data} {data} && mount -o remount,bind,ro / && cd {data} "
        f"&& ! touch {tmp_path}/writable 2>/dev/null && exec {shlex.join(job)}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=os.environ
        | {
            "FLOWMATE_BASE_URL": twin.url,
            "FLOWMATE_ADMIN_TOKEN_FILE": str(secrets / "admin-token"),
            "FLOWMATE_STORE_KEY_FILE": str(secrets / "store.key"),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system can be made read-only here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert {"credentials.db", "r.json"} <= {path.name for path in data.iterdir()}


@pytest.mark.parametrize("service", OURS.values(), ids=OURS)
class TestServices:
    def test_its_command_is_one(self, service, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        _, _, unused = app.parse_args(service["command"], exit_on_error=False, print_error=False)
        assert not unused

    def test_its_settings_are_variables_that_are_read(self, service):
        arguments = app[service["command"][0]].assemble_argument_collection()
        known = {name for argument in arguments for name in argument.parameter.env_var or ()}
        known |= {"FLOWMATE_STORE_KEY_FILE", "FLOWMATE_BROKER_URL_FILE"}
        assert set(service["environment"]) <= known

    def test_it_may_do_nothing_but_its_work(self, service):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["image"] == IMAGE

    def test_its_paths_are_mounted(self, service):
        for value in service["environment"].values():
            if value.startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"]
        assert "socket:/var/run/postgresql" in service["volumes"]


def test_what_services_name_is_declared():
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert volumes <= set(COMPOSE["volumes"])
    dockerfile = (
        DEPLOY / "compose" / OURS["worker"]["build"]["context"] / OURS["worker"]["build"]["dockerfile"]
    )
    assert dockerfile.is_file()


def test_the_workers_share_the_rate_with_the_sync_that_follows():
    worker = OURS["worker"]
    assert int(worker["environment"]["FLOWMATE_PROCESSES"]) == worker["deploy"]["replicas"] + 1


def test_redis_and_the_database_are_not_reachable_from_outside():
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert COMPOSE["services"][name]["networks"] == ["inside"]
        assert "ports" not in COMPOSE["services"][name]
    assert COMPOSE["services"]["postgres"]["command"][-1] == "listen_addresses="


@pytest.fixture
def redis(program):
    with redis_server(program("redis-server", package="redis-server")) as server:
        yield server


def test_a_sync_by_a_worker_works(twin, secrets, redis, tmp_path):
    """The commands of compose.yaml with its settings; a SQLite store stands for the database's socket."""
    (secrets / "broker-url").write_text(redis.url)
    (secrets / "broker-url").chmod(0o400)
    settings = {
        name: value.replace("/run/secrets", str(secrets))
        for name, value in OURS["worker"]["environment"].items()
    }
    settings |= {
        "FLOWMATE_BASE_URL": twin.url,
        "FLOWMATE_RATE": "200",
        "FLOWMATE_STORE": f"sqlite:///{tmp_path}/credentials.db",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMATE_")} | settings
    with subprocess.Popen(
        [*FLOWMATE, *OURS["worker"]["command"]], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            done = subprocess.run(
                [*FLOWMATE, *OURS["sync"]["command"]],
                env=env,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
        finally:
            worker.terminate()
    assert done.returncode == 0, done.stderr
    assert "12 users" in done.stdout
