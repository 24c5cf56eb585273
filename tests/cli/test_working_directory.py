"""A deleted working directory: one line if a relative path is named, otherwise it does not matter."""

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import FLOWMATE, Twin

USAGE = 2
IS_GONE = "is relative, and the working directory is gone. Change to a directory that exists"


@pytest.fixture
def without_directory(connected: Twin, tmp_path: Path):
    """Run a command in a directory that no longer exists."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        gone = tmp_path / "gone"
        gone.mkdir()
        return subprocess.run(
            ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *FLOWMATE, *arguments],
            cwd=gone, input="", capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "FLOWMATE_ADMIN_TOKEN": connected.admin_token},
        )  # fmt: skip

    return command


@pytest.mark.parametrize(
    "arguments",
    [
        ("store", "list", "--store", "sqlite:///x.db"),
        ("store", "verify", "--store", "jsonl+age:///x.age"),
        ("sync", "someone", "--store", "sqlite:///x.db", "--log-format", "text"),
        ("init", "--folder", "x"),
        ("init", "--store", "sqlite:///x.db"),
        ("init", "--ca-file", "ca.pem"),
        ("init", "--admin-token-file", "token"),
    ],
    ids=" ".join,
)
def test_a_relative_path_is_refused_without_a_traceback(without_directory, arguments):
    ended = without_directory(*arguments)
    assert ended.returncode == USAGE
    assert IS_GONE in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_without_a_relative_path_it_does_not_matter(without_directory, home):
    assert without_directory("users").returncode == 0
    ended = without_directory("init", "--folder", str(home / "there"))
    assert (ended.returncode, (home / "there" / "config.toml").is_file()) == (0, True)
