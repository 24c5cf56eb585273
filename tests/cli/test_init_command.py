"""``flowmate init`` writes what the other commands need, with and without a terminal."""

import os
import pty
import stat
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from flowmate_async import FlowMateSync, StoreKey

from .conftest import FLOWMATE, Twin

USAGE = 2


@pytest.fixture
def folder(home: Path) -> Path:
    """The user's configuration folder, which does not exist yet."""
    return home / "config" / "flowmate"


def init(*flags: str, token: str = "", **env: str):
    return subprocess.run(
        [*FLOWMATE, "init", *flags], input=token, capture_output=True, text=True, check=False,
        env={**os.environ, **env}, timeout=60,
    )  # fmt: skip


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


class TestWithoutATerminal:
    def test_the_token_from_standard_input_is_enough_for_every_command(self, flowmate, twin: Twin, folder):
        ended = init("--base-url", twin.url, token=twin.admin_token + "\n")
        assert ended.returncode == 0, ended.stderr
        assert modes(folder) == {"config.toml": 0o600, "token": 0o600, "store.key": 0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert "token file: " in ended.stdout, "the doctor looked at what was written"
        assert twin.admin_token not in ended.stdout + ended.stderr + (folder / "config.toml").read_text()
        assert flowmate("sync", "--all-users").code == 0
        assert flowmate("store", "verify").code == 0
        with FlowMateSync.from_env() as fm:
            assert list(fm.users())

    def test_no_key_is_made_beside_the_one_in_the_environment(self, twin: Twin, folder):
        key = StoreKey.generate().encoded()
        ended = init("--base-url", twin.url, token=twin.admin_token, FLOWMATE_STORE_KEY=key)
        assert ended.returncode == 0, ended.stderr
        assert "store.key" not in modes(folder)
        assert "store_key_file" not in tomllib.loads((folder / "config.toml").read_text())

    def test_flags_and_variables_are_kept(self, twin: Twin, folder, home):
        (home / "own-token").write_text(twin.admin_token)
        (home / "own-token").chmod(0o600)
        flags = ("--base-url", twin.url, "--rate", "50", "--trust-env", "--store", "sqlite:///mine.db")
        ended = init(*flags, "--admin-token-file", "own-token", FLOWMATE_CONCURRENCY="7")
        assert ended.returncode == 0, ended.stderr
        assert tomllib.loads((folder / "config.toml").read_text()) == {
            "admin_token_file": f"{home}/own-token",
            "base_url": twin.url,
            "concurrency": 7,
            "rate": 50.0,
            "store": f"sqlite:///{home}/mine.db",
            "store_key_file": f"{folder}/store.key",
            "trust_env": True,
        }
        assert "token" not in modes(folder)

    def test_another_folder_is_named_in_what_to_do_next(self, twin: Twin, home, folder):
        (home / "there").mkdir(mode=0o700)
        ended = init("--folder", "there", "--base-url", twin.url, FLOWMATE_ADMIN_TOKEN=twin.admin_token)
        assert ended.returncode == 0, ended.stderr
        assert f"flowmate sync --all-users --config {home}/there/config.toml" in ended.stderr
        assert not folder.exists()

    def test_it_ends_as_the_doctor_does(self, twin: Twin, folder):
        assert init("--base-url", twin.url, token="a-wrong-token\n").returncode == 3

    @pytest.mark.parametrize(
        ("flags", "token", "complaint"),
        [
            ((), "", "there is no admin token"),
            ((), "with blanks in it\n", "admin token"),
            (("--base-url", "http://flowmate.example"), "t\n", "plain http"),
            (("--store", "sqlite://x"), "t\n", "sqlite"),
            (("--store", "mysql://x/y"), "t\n", "no store has the scheme"),
            (("--store", "postgresql://me:hunter2@x/y"), "t\n", "holds a credential"),
        ],
    )
    def test_what_is_invalid_leaves_nothing_behind(self, twin: Twin, folder, flags, token, complaint):
        ended = init(*flags, token=token, FLOWMATE_BASE_URL=twin.url)
        assert ended.returncode == USAGE
        assert complaint in ended.stderr
        assert "hunter2" not in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not folder.exists()

    @pytest.mark.parametrize("name", ["config.toml", "token"])
    def test_what_exists_is_not_overwritten(self, twin: Twin, folder, name):
        folder.mkdir(parents=True, mode=0o700)
        (folder / name).write_text("# mine\n")
        ended = init("--base-url", twin.url, token=twin.admin_token)
        assert (ended.returncode, "exists already" in ended.stderr) == (USAGE, True)
        assert (folder / name).read_text() == "# mine\n"

    def test_a_key_of_an_earlier_attempt_is_used(self, flowmate, twin: Twin, folder):
        folder.mkdir(parents=True, mode=0o700)
        assert flowmate("store", "keygen", str(folder / "store.key")).code == 0
        before = (folder / "store.key").read_text()
        assert init("--base-url", twin.url, token=twin.admin_token).returncode == 0
        assert (folder / "store.key").read_text() == before


def test_on_a_terminal_it_asks_and_does_not_show_the_token(twin: Twin, folder, home):
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*FLOWMATE, "init"], stdin=child, stdout=subprocess.DEVNULL, stderr=child, start_new_session=True
    )
    os.close(child)
    shown = ""
    for question, answer in [
        ("FlowMate's URL [", twin.url),
        ("Admin token (not shown): ", twin.admin_token),
        ("Store [", f"sqlite:///{home}/mine.db"),
    ]:
        deadline = time.monotonic() + 30
        while question not in shown:
            assert time.monotonic() < deadline, shown
            shown += os.read(parent, 4096).decode()
        os.write(parent, f"{answer}\n".encode())
    try:
        while part := os.read(parent, 4096):
            shown += part.decode()
    except OSError:  # Linux reports the end this way
        pass
    os.close(parent)
    assert process.wait(timeout=60) == 0, shown
    assert twin.url in shown
    assert twin.admin_token not in shown
    assert (folder / "token").read_text().strip() == twin.admin_token
    assert tomllib.loads((folder / "config.toml").read_text())["store"] == f"sqlite:///{home}/mine.db"
