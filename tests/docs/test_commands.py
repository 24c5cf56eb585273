"""The commands of the README and of the guides run as printed, in order, in one shell per page.

They talk to a sandbox that has the user and the secret of the examples. Installation commands are skipped.
"""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from flowmate_async.sandbox import Sandbox, SandboxOptions

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", ROOT / "docs" / "tutorial.md"]
PAGES += sorted((ROOT / "docs" / "how-to").glob("*.md"))
FENCE = re.compile(r'```(console|python title="(?!test_)([\w.]+)")\n(.*?)```', re.DOTALL)
ELSEWHERE = ("make ", "pip ")
SPARE_SECONDS = 300


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
def shell(twin, tmp_path):
    """Run a script with the commands of this environment, and leave nothing running."""
    (tmp_path / "report.sh").write_text('#!/bin/sh\ntest -n "$CREDENTIAL_KEY" && echo "reported with $*"\n')
    (tmp_path / "report.sh").chmod(0o700)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("flowmate", ("-m", "flowmate_async")), ("python", ())):
        path = commands / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {" ".join(module)} "$@"\n')
        path.chmod(stat.S_IRWXU)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMATE_")}
    env |= {
        "PATH": f"{commands}:{env['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "FLOWMATE_BASE_URL": twin.url,
        "FLOWMATE_ADMIN_TOKEN": twin.admin_token,
    }

    def run(script):
        process = subprocess.Popen(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        ended = False
        try:
            shown, _ = (
                process.communicate(timeout=SPARE_SECONDS) if "&\n" not in script else _watched(process)
            )
            ended = True
        finally:
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, shown

    return run


def _watched(process):
    """Of a script that leaves something running: what it printed until it ended, then end the rest."""
    while process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    return process.communicate(timeout=30)


def steps(page):
    """The page's fences: files to write, and commands to run."""
    for kind, name, body in FENCE.findall(page.read_text(encoding="utf-8")):
        yield (name, body) if kind != "console" else (None, body)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_works_as_printed(page, shell, twin, tmp_path):
    script = []
    for name, body in steps(page):
        if name is not None:
            (tmp_path / name).write_text(body)
            continue
        lines = [line for line in body.splitlines() if not line.startswith(ELSEWHERE)]
        script += [
            line.replace("FLOWMATE_ADMIN_TOKEN=…", f"FLOWMATE_ADMIN_TOKEN={twin.admin_token}")
            for line in lines
        ]
    code, shown = shell("\n".join(script) + "\n")
    assert code == 0, shown
    assert "Traceback" not in shown
    if page.name == "tutorial.md":
        assert "0 damaged" in shown
        assert "3 requests for 100 jobs" in shown
