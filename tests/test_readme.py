"""The code of the README and of docs/ runs as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def printed(kind):
    """The code of all pages by page and number."""
    return {
        f"{page.relative_to(ROOT)}-{number}": code
        for page in PAGES
        if "contract" not in page.parts  # upstream's own examples
        for number, code in enumerate(
            re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        )
    }


BLOCKS = printed("python")
TESTS = printed('python title="test_[a-z_]+[.]py"')


def test_there_is_code_to_run():
    assert len([name for name in BLOCKS if name.startswith("README")]) >= 2


@pytest.mark.parametrize("code", BLOCKS.values(), ids=BLOCKS)
def test_a_block_runs_by_itself(code, tmp_path):
    """And again in the same folder, when it leaves a file there."""
    _runs(code, tmp_path)
    if any(tmp_path.iterdir()):
        _runs(code, tmp_path)


def _runs(code, folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("code", TESTS.values(), ids=TESTS)
def test_a_test_passes_as_printed(code, pytester):
    """By pytest, with the fixtures of the plugin; without this project's own plugins."""
    pytester.makepyfile(test_printed=code)
    without = [f"no:looptime_{name}" for name in ("plugin", "chronometers", "timeproxies")]
    without += ["no:cacheprovider", "no:schemathesis", "no:asyncio"]
    flags = [flag for name in without for flag in ("-p", name)]
    done = pytester.runpytest_subprocess("-W", "error", *flags)
    assert done.ret == 0
    assert "passed" in done.stdout.str()


def test_it_opens_with_the_two_commands():
    first = README.split("```")[1]
    assert [line.split("#")[0].split() for line in first.splitlines()[1:] if line] == [
        ["make", "demo"],
        ["make", "test"],
    ]
