"""The commands of all pages run as printed, in order, in one shell per page.

They talk to a sandbox that has the user and the secret of the examples. What is not run is in ``pages.py``,
with the reason, and is at least parsed. Programs that need a daemon have stand-ins (``stand_ins.py``).
"""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from flowmate_async.cli.app import app
from flowmate_async.sandbox import Sandbox, SandboxOptions
from tests.distributed.redis_server import redis_server
from tests.docs import pages as printed
from tests.docs import stand_ins

ROOT = printed.ROOT
RUN = [
    page
    for page in printed.pages()
    if any(fence.language == "console" and not fence.reason for fence in printed.fences(page))
]
SPARE_SECONDS = 110

NEEDED = {
    "docs/cookbook/fastapi.md": ("fastapi", "uvicorn"),
    "docs/cookbook/django.md": ("django", "uvicorn", "gunicorn"),
    "docs/cookbook/arq.md": ("arq",),
    "docs/cookbook/processes.md": ("fastapi", "uvicorn"),
    "docs/cookbook/pytest-asyncio.md": ("pytest_asyncio",),
    "docs/cookbook/error-tracking.md": ("sentry_sdk", "structlog"),
    "docs/cookbook/reconnect.md": ("fastapi", "uvicorn", "standardwebhooks"),
}
"""Packages that a page needs, of the dependency group ``cookbook``."""

INDEX = "docs/cookbook/index.md"
"""Starts the sandbox of every page of the cookbook."""

SHORT = ("docs/cookbook/fastapi.md", "docs/cookbook/script.md")
"""Pages of the cookbook that everyday test runs include."""

WITH_REDIS = ("docs/cookbook/celery.md", "docs/cookbook/arq.md")

SHOWN = {
    "docs/tutorial.md": ["0 damaged", "3 requests for 100 jobs"],
    "docs/cookbook/arq.md": ["{'done'}"],
    "docs/cookbook/celery.md": ["{'done'}"],
    "docs/cookbook/django.md": ["async: ", "sync: "],
    "docs/cookbook/error-tracking.md": ["1 event, no credential in it", "shows as types and ids"],
    "docs/cookbook/fastapi.md": ['"status":"200","cache":"0"', '"cache":"1"', "Please reconnect the app."],
    "docs/cookbook/opentelemetry.md": ["http.response.status_code"],
    "docs/cookbook/processes.md": ["process ", "wrong: ", "right: ", "threads: 8 credentials, 2 requests"],
    "docs/cookbook/pytest-asyncio.md": ["1 passed"],
    "docs/cookbook/reconnect.md": ["customer-a: please reconnect (refused)\ncustomer-a: works again (ok)"],
    "docs/cookbook/rotate-token.md": ["before: ", "after: "],
    "docs/cookbook/script.md": ["API_KEY ['", "the key has "],
    "docs/cookbook/second-night.md": ["21 users", "0 damaged"],
}
"""What a page's commands must print."""


@pytest.fixture
def twin():
    """A sandbox with the user and the secret that the examples name."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox(SandboxOptions(users=20, seed=7))) as running,
    ):
        running.world.add_user("abc123")
        running.world.add_secret(
            "abc123",
            type="API_KEY",
            value={"key": "an-invented-key", "headerName": "X-Key"},
            secret_id="66761aedcf268b4d68470e27",
        )
        yield running


@pytest.fixture
def skipped(tmp_path):
    """The file in which stand-ins write what they did not do."""
    return tmp_path.with_name(f"{tmp_path.name}-skipped")


@pytest.fixture
def programs(tmp_path, skipped):
    """A folder with the commands of this environment, and with stand-ins for those that need a daemon."""
    folder = tmp_path.with_name(f"{tmp_path.name}-bin")
    folder.mkdir()
    kubectl = shlex.quote(shutil.which("kubectl") or "")
    lines = {"flowmate": "-m flowmate_async", "python": ""} | {
        name: f"{stand_ins.__file__} {skipped} {kubectl} {name}" for name in stand_ins.NAMES
    }
    for name, arguments in lines.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (folder / name).chmod(stat.S_IRWXU)
    return folder


@pytest.fixture
def environment(twin, tmp_path, programs):
    """What the commands find set."""
    (tmp_path / "report.sh").write_text('#!/bin/sh\ntest -n "$CREDENTIAL_KEY" && echo "reported with $*"\n')
    (tmp_path / "report.sh").chmod(0o700)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMATE_")}
    return kept | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{kept['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "FLOWMATE_BASE_URL": twin.url,
        "FLOWMATE_ADMIN_TOKEN": twin.admin_token,
        "FLOWMATE_STORE_KEY": "5a" * 32,
    }


def run(script, folder, env):
    """Run a script. Return its exit code and output, and leave nothing running."""
    process = subprocess.Popen(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    ended = False
    try:
        shown, _ = process.communicate(timeout=SPARE_SECONDS) if "&\n" not in script else _watched(process)
        ended = True
    finally:
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, shown


def _watched(process):
    """Of a script that leaves something running: what it printed until it ended, then end the rest."""
    deadline = time.monotonic() + SPARE_SECONDS
    while process.poll() is None:
        assert time.monotonic() < deadline, "the commands did not end"
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # nothing was left
        os.killpg(process.pid, signal.SIGTERM)
    return process.communicate(timeout=30)


def moved(script, twin, folder):
    """The same commands without fixed ports and folders of this machine."""
    script = script.replace("FLOWMATE_ADMIN_TOKEN=…", f"FLOWMATE_ADMIN_TOKEN={twin.admin_token}")
    script = script.replace("/opt/flowmate/bin/", "")
    script = re.sub(r" (?=/etc/(?!ssl))", f" {folder}", script)
    return with_free_ports(script)


def with_free_ports(text, ports={}):  # noqa: B006 - one page's files and commands agree on them
    for fixed in ("8000", "8001", "8900"):
        if fixed in text and fixed not in ports:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                ports[fixed] = str(probe.getsockname()[1])
        text = text.replace(fixed, ports.get(fixed, fixed))
    return text


def checkout(folder):
    """What a checkout has that these pages name."""
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("secrets"))
    (folder / "etc" / "systemd" / "system").mkdir(parents=True)
    (folder / "etc" / "logrotate.d").mkdir()


def marked(page):
    """The pages of the cookbook but two take most of the time."""
    long = page.startswith("docs/cookbook/") and page not in SHORT
    return pytest.param(page, marks=[pytest.mark.long] if long else [])


@pytest.mark.parametrize("page", [marked(page) for page in RUN])
def test_a_page_works_as_printed(page, environment, twin, tmp_path, skipped, request):
    for package in NEEDED.get(page, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make cookbook")
    if page in WITH_REDIS:
        environment["REDIS_URL"] = request.getfixturevalue("redis").url
    if page in printed.FROM_A_CHECKOUT:
        checkout(tmp_path)
    script = printed.script_of(page, tmp_path)
    if page.startswith("docs/cookbook/") and page != INDEX:
        del environment["FLOWMATE_STORE_KEY"]
        script = printed.script_of(INDEX, tmp_path) + script
    for fence in printed.fences(page):
        if fence.title and re.fullmatch(r"(?!test_)[\w.-]+", fence.title):
            (tmp_path / fence.title).write_text(with_free_ports(fence.body))
    code, shown = run(moved(script, twin, tmp_path), tmp_path, environment)
    assert code == 0, shown
    assert "Traceback" not in shown
    for wanted in SHOWN.get(page, ()):
        assert wanted in shown
    if skipped.exists():
        pytest.skip(f"all ran except what needs a daemon or root: {skipped.read_text().splitlines()}")


@pytest.fixture
def redis(program):
    with redis_server(program("redis-server", package="redis-server")) as server:
        yield server


def test_every_cookbook_page_says_what_it_prints():
    pages = {page for page in RUN if page.startswith("docs/cookbook/")}
    assert pages - set(SHOWN) == {INDEX}


def test_shell_blocks_are_marked_as_console():
    """Those are what the test above runs."""
    assert [fence for fence in printed.ALL if fence.language in printed.SHELLS[1:]] == []


def test_no_command_is_in_another_block_without_a_reason():
    for fence in printed.ALL:
        if fence.language in ("", "text") and not fence.reason:
            commands = [line for line in fence.body.splitlines() if line.startswith(printed.COMMANDS)]
            assert not commands, f"{fence.page}: mark the block as console"


def test_every_reason_is_that_of_a_block():
    for page, begin in printed.BLOCKS_NOT_RUN:
        assert any(fence.page == page and fence.body.startswith(begin) for fence in printed.ALL), begin


@pytest.mark.parametrize("page", sorted({fence.page for fence in printed.ALL if fence.not_run}))
def test_what_is_not_run_is_at_least_a_command(page, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    text = "\n".join(line for fence in printed.fences(page) for line in fence.not_run)
    for command in re.findall(r"(?:^|/)flowmate (.*?)(?: *#.*| 2>>.*)?$", text, re.MULTILINE):
        words = shlex.split(re.sub(r"--config \S+", "", command))
        _, _, unused = app.parse_args(words, exit_on_error=False, print_error=False)
        assert not unused
    for name in re.findall(r"python -m (tests[\w.]+)", text):
        assert importlib.util.find_spec(name)
    for file in re.findall(r"^(?:pytest|python) ([\w/]+\.py)", text, re.MULTILINE):
        assert (ROOT / file).is_file()


def test_every_make_target_and_every_extra_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in printed.pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        for body in [fence.body for fence in printed.fences(page) if fence.language == "console"]:
            assert set(re.findall(r"^make ([\w-]+)", body, re.MULTILINE)) <= set(targets), page
        for found in re.findall(r"flowmate-async\[([\w,]+)\]|'\.\[([\w,]+)\]'", text):
            assert set("".join(found).split(",")) <= set(extras), page
