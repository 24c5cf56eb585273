"""The code of the README and of docs/ runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCKS = {
    f"{page.relative_to(ROOT)}-{number}": code
    for page in PAGES
    if "contract" not in page.parts  # upstream's own examples
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    )
}


def test_there_is_code_to_run():
    assert len([name for name in BLOCKS if name.startswith("README")]) >= 2


@pytest.mark.parametrize("code", BLOCKS.values(), ids=BLOCKS)
def test_a_block_runs_by_itself(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_it_opens_with_the_two_commands():
    first = README.split("```")[1]
    assert [line.split("#")[0].split() for line in first.splitlines()[1:] if line] == [
        ["make", "demo"],
        ["make", "test"],
    ]
