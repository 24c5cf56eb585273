"""A sandbox in a process of its own, and a way to run the commands of deploy/ against it."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import FLOWMATE, Twin, twin_thread


@pytest.fixture(scope="session")
def twin() -> Iterator[Twin]:
    """A small sandbox."""
    with twin_thread(users=12) as running:
        yield running


@pytest.fixture
def secrets(tmp_path: Path, twin: Twin) -> Path:
    """A folder with an admin token and a store key, as it would be mounted."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name, content in {"admin-token": twin.admin_token, "store.key": "5a" * 32}.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o400)
    return folder


@pytest.fixture
def as_deployed(twin: Twin, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command with the settings of a deployment, at the sandbox instead of FlowMate.

    Folders of the deployment are replaced by folders of the test, in arguments and variables.
    """

    def run(
        arguments: Sequence[str], settings: Mapping[str, str], folders: Mapping[str, Path]
    ) -> subprocess.CompletedProcess[str]:
        def mapped(text: str) -> str:
            for old, new in folders.items():
                text = text.replace(old, str(new))
            return text

        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWMATE_")}
        env = {name: mapped(value) for name, value in settings.items()} | {"FLOWMATE_BASE_URL": twin.url}
        return subprocess.run(
            [*FLOWMATE, *map(mapped, arguments)],
            env=kept | {"XDG_CONFIG_HOME": str(tmp_path)} | env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run
