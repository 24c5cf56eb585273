"""The map of the packages in CONTRIBUTING.md is generated, and the committed one is up to date."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("grimp")


def run_tool(*args: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "tools/import_map.py", *args]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)


def test_the_committed_map_is_up_to_date() -> None:
    done = run_tool("--check")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_an_outdated_map_is_noticed_and_renewed(tmp_path: Path) -> None:
    committed = (ROOT / "CONTRIBUTING.md").read_text()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/import_map.py").write_text((ROOT / "tools/import_map.py").read_text())
    page = tmp_path / "CONTRIBUTING.md"
    page.write_text(committed.replace("    engine --> ", "    engine --> cli & "))
    assert run_tool("--check", root=tmp_path).returncode == 1
    assert run_tool(root=tmp_path).returncode == 0
    assert page.read_text() == committed
