"""Where settings come from, in which order, and which files are rejected as writable by others."""

import os
import re
from pathlib import Path

import pytest

import flowmate_async
from flowmate_async.cli.options import Connection
from flowmate_async.configuration.variables import KNOWN, misspelled
from flowmate_async.distributed.connection import URL_VARIABLES
from flowmate_async.stores.keys import StoreKey, write_key_file

from .conftest import Twin, answering, http

USAGE = 2
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can own files as somebody else")


@pytest.fixture
def file(home: Path) -> Path:
    """The user's configuration file, which does not exist yet."""
    path = home / "config" / "flowmate" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


class TestVariables:
    def test_every_variable_that_the_code_reads_is_known(self):
        """Otherwise ``flowmate`` would call it misspelled."""
        package = Path(flowmate_async.__file__).parent
        named = {
            name
            for path in package.rglob("*.py")
            if path.name != "variables.py"
            for name in re.findall(r"FLOWMATE_[A-Z_]*[A-Z]", path.read_text())
        }
        assert named | {f"{name}_FILE" for name in URL_VARIABLES} == KNOWN

    @pytest.mark.parametrize(
        ("name", "empty"),
        [
            pytest.param(name, empty, marks=() if place % 3 == kind else pytest.mark.long)
            for place, name in enumerate(sorted(KNOWN - {"FLOWMATE_BASE_URL", "FLOWMATE_ADMIN_TOKEN"}))
            for kind, empty in enumerate(["", " ", "\n"])
        ],
    )
    def test_an_empty_variable_counts_as_unset(self, flowmate, connected, monkeypatch, name, empty):
        monkeypatch.setenv(name, empty)
        if name == "FLOWMATE_STORE":
            assert "no store is named" in flowmate("sync", "--all-users").complaint
        elif name == "FLOWMATE_STORE_KEY":
            assert "no key was given" in flowmate("sync", "--all-users").complaint
        else:
            assert flowmate("sync", "--all-users", "--dry-run").code == USAGE  # the store does not exist yet
            assert flowmate("users").code == 0

    def test_an_empty_base_url_is_the_default_one(self, flowmate, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_BASE_URL", "")
        monkeypatch.setenv("FLOWMATE_CA_FILE", "/nonexistent")
        assert "/nonexistent" in flowmate("users").complaint  # https, and nothing is sent

    def test_an_empty_variable_does_not_hide_the_file(self, flowmate, connected, file, home, monkeypatch):
        token = home / "token"
        token.write_text(connected.admin_token)
        token.chmod(0o600)
        file.write_text(f'admin_token_file = "{token}"\n')
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "")
        assert flowmate("users").code == 0

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("FLOWMATE_ADMIN_TOKN", "FLOWMATE_ADMIN_TOKEN"),
            ("FLOWMATE_TOKEN", "FLOWMATE_ADMIN_TOKEN"),
            ("FLOWMATE_ADMINTOKEN_FILE", "FLOWMATE_ADMIN_TOKEN_FILE"),
            ("FLOWMATE_BASEURL", "FLOWMATE_BASE_URL"),
            ("FLOWMATEBASE_URL", "FLOWMATE_BASE_URL"),
            ("FLOWMATE_RATES", "FLOWMATE_RATE"),
            ("flowmate_rate", "FLOWMATE_RATE"),
            ("Flowmate-Burst", "FLOWMATE_BURST"),
            ("FLOWMATE_CONCURENCY", "FLOWMATE_CONCURRENCY"),
            ("FLOWMATE_STORE_KEYFILE", "FLOWMATE_STORE_KEY_FILE"),
            ("FLOWMATE_CAFILE", "FLOWMATE_CA_FILE"),
            ("FLOWMATE_BROKERURL", "FLOWMATE_BROKER_URL"),
            ("FLOWMATE_TRUSTENV", "FLOWMATE_TRUST_ENV"),
        ],
    )
    def test_a_misspelled_variable_is_reported_with_the_nearest_one(
        self, flowmate, connected, monkeypatch, name, near
    ):
        monkeypatch.setenv(name, "1")
        ended = flowmate("users")
        assert ended.code == 0
        assert ended.complaint == f"{name} is set, and nothing reads it. Did you mean {near}?"

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "FLOWMATE_PORT",
                "FLOWMATE_SERVICE_HOST",
                "FLOWMATE_SERVICE_PORT",
                "FLOWMATE_SERVICE_PORT_HTTP",
            ),
            *("FLOWMATE_PORT_80_TCP", "FLOWMATE_PORT_80_TCP_ADDR", "FLOWMATE_REDIS_SERVICE_HOST"),
            *("FLOWMATE_REDIS_PORT", "FLOWMATE_REDIS_PORT_6379_TCP_ADDR", "FLOWMATE_VERSION_OF_MY_IMAGE"),
        ],
    )
    def test_variables_of_others_are_not_reported(self, name):
        """Kubernetes sets some for each service."""
        assert not list(misspelled({name: "tcp://10.0.0.1:80"}))


class TestPrecedence:
    def test_the_tokens_variable_beats_the_file(self, flowmate, connected, file):
        file.write_text('admin_token_file = "/nonexistent"\n')
        assert flowmate("users").code == 0

    def test_the_file_beats_the_keyring_and_a_flag_beats_the_variable(
        self, flowmate, connected, file, monkeypatch
    ):
        file.write_text('admin_token_file = "/nonexistent"\n')
        assert "/elsewhere" in flowmate("users", "--admin-token-file", "/elsewhere").complaint
        monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        assert "/nonexistent" in flowmate("users").complaint

    @pytest.mark.parametrize("variable", ["FLOWMATE_STORE_KEY", "FLOWMATE_STORE_KEY_FILE"])
    def test_the_variables_of_the_key_beat_the_file(
        self, flowmate, connected, file, home, monkeypatch, variable
    ):
        assert flowmate("sync", "--all-users").code == 0  # with FLOWMATE_STORE_KEY
        write_key_file(home / "right.key", StoreKey.parse(os.environ["FLOWMATE_STORE_KEY"]))
        write_key_file(home / "wrong.key")
        file.write_text(f'store_key_file = "{home}/wrong.key"\n')
        if variable == "FLOWMATE_STORE_KEY_FILE":
            monkeypatch.delenv("FLOWMATE_STORE_KEY")
            monkeypatch.setenv(variable, str(home / "right.key"))
        assert flowmate("store", "verify").code == 0
        monkeypatch.delenv(variable)
        assert flowmate("store", "verify").code == USAGE


class TestPlace:
    """Nothing is read from the working directory, which another user may have filled."""

    @pytest.fixture(autouse=True)
    def planted(self, home: Path, connected: Twin) -> None:
        for folder in (".", "flowmate", ".config/flowmate", "config/flowmate"):
            (home / folder).mkdir(parents=True, exist_ok=True)
            (home / folder / "config.toml").write_text('proxy = "http://planted.example:1"\n')

    @pytest.mark.parametrize("named", [".", "config", "./config", "~/config"])
    @pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "HOME"])
    def test_a_relative_folder_is_not_used(self, flowmate, monkeypatch, variable, named, tmp_path_factory):
        monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        monkeypatch.setenv("XDG_CONFIG_HOME", "")
        monkeypatch.setenv(variable, named)
        assert flowmate("users").code == 0

    def test_an_absolute_one_is_used(self, flowmate, home, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        assert "proxy" in flowmate("users").complaint
        monkeypatch.delenv("XDG_CONFIG_HOME")
        monkeypatch.setenv("HOME", str(home))
        assert "proxy" in flowmate("users").complaint

    def test_without_a_home_there_is_no_file(self, flowmate, monkeypatch):
        monkeypatch.delenv("XDG_CONFIG_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("os.getuid", lambda: 54321)
        assert flowmate("users").code == 0

    def test_a_byte_order_mark_is_skipped(self, flowmate, file_at, home):
        file_at.write_bytes(b'\xef\xbb\xbfcolour = "red"\n')
        assert "unknown keys: colour" in flowmate("users", "--config", str(file_at)).complaint

    @pytest.fixture
    def file_at(self, tmp_path: Path) -> Path:
        return tmp_path / "own.toml"


class TestTrust:
    """Write access to the file decides where the admin token is sent."""

    @pytest.fixture
    def requests(self, file: Path, connected: Twin, monkeypatch: pytest.MonkeyPatch):
        """The file names another server; what that server is asked."""
        monkeypatch.delenv("FLOWMATE_BASE_URL")
        with answering(http(b"[]")) as url:
            file.write_text(f'base_url = "{url}"\n')
            yield url

    @pytest.mark.parametrize("mode", [0o600, 0o644, 0o444])
    def test_a_file_that_only_the_user_can_change_is_used(self, flowmate, requests, file, mode):
        file.chmod(mode)
        assert flowmate("users").code == 0

    @pytest.mark.parametrize("mode", [0o666, 0o664, 0o646, 0o777])
    def test_a_file_that_others_can_change_is_refused(self, flowmate, requests, file, mode):
        file.chmod(mode)
        ended = flowmate("users")
        assert ended.code == USAGE
        assert f"the configuration file {file} has mode {mode:04o}" in ended.complaint

    @pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
    def test_a_folder_that_others_can_change_is_refused(self, flowmate, requests, file, mode):
        file.parent.chmod(mode)
        assert f"the folder of the configuration file {file.parent} has mode" in flowmate("users").complaint

    def test_the_folder_behind_a_link_counts_too(self, flowmate, requests, file, home):
        (home / "shared").mkdir(mode=0o755)
        file.rename(home / "shared" / "config.toml")
        file.symlink_to(home / "shared" / "config.toml")
        assert flowmate("users").code == 0
        (home / "shared").chmod(0o777)
        assert f"{home / 'shared'} has mode 0777" in flowmate("users").complaint

    def test_a_sticky_folder_is_as_good_as_a_private_one(self, flowmate, requests, file):
        """Where others can add files, but neither replace nor rename this one."""
        file.parent.chmod(0o1777)
        assert flowmate("users").code == 0

    @as_root
    @pytest.mark.parametrize("which", ["file", "folder"])
    def test_what_belongs_to_another_user_is_refused(self, flowmate, requests, file, which):
        os.chown(file if which == "file" else file.parent, 65534, 65534)
        ended = flowmate("users")
        assert ended.code == USAGE
        assert "belongs to the user with the id 65534" in ended.complaint
        assert flowmate("users", "--config", str(file)).code == USAGE


def test_the_flags_reach_the_client(monkeypatch):
    monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "an-invented-token")
    client = Connection(base_url="http://127.0.0.1:1/", rate=7, concurrency=5, transport="aiohttp").client()
    limiter = client.stats().traffic.limiter
    assert (client.base_url, limiter.rate, limiter.concurrency) == ("http://127.0.0.1:1", 7, 5)
    assert Connection(rate=0).client().stats().traffic.limiter.rate is None
