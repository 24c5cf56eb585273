"""Bad input gets one clear line and the right exit code, never a traceback."""

import os
import socket
import sqlite3
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from .conftest import FLOWMATE, answering, http

USAGE, UPSTREAM, SOME_FAILED = 2, 3, 1


class TestAdminToken:
    def test_without_one_nothing_is_sent_and_all_ways_are_named(self, flowmate, connected, monkeypatch):
        monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        ended = flowmate("users")
        assert ended.code == USAGE
        assert "FLOWMATE_ADMIN_TOKEN" in ended.complaint
        assert "--admin-token-file" in ended.complaint

    def test_a_token_file_that_others_can_read_is_refused(self, flowmate, connected, monkeypatch, home):
        monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        file = home / "token"
        file.write_text(connected.admin_token)
        file.chmod(0o644)
        ended = flowmate("users", "--admin-token-file", str(file))
        assert ended.code == USAGE
        assert "chmod 600" in ended.complaint
        assert connected.admin_token not in ended.err

    def test_a_private_token_file_is_taken(self, flowmate, connected, monkeypatch, home):
        monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        file = home / "token"
        file.write_text(connected.admin_token + "\n")
        file.chmod(0o600)
        assert flowmate("users", "--admin-token-file", str(file)).code == 0

    def test_a_rejected_token_ends_a_sync_at_once(self, flowmate, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "not-the-token-of-this-twin")
        ended = flowmate("sync", "someone", "someone-else")
        assert ended.code == UPSTREAM
        assert "admin token was rejected" in ended.complaint
        assert "not-the-token" not in ended.err

    @pytest.mark.parametrize("token", ["", "   ", "two words", "new\nline", "umläut"])
    def test_a_token_that_no_header_can_carry_is_refused(self, flowmate, connected, monkeypatch, token):
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", token)
        ended = flowmate("users")
        assert ended.code == USAGE
        assert not token.strip() or token.strip() not in ended.err

    @pytest.mark.parametrize("command", [["users"], ["sync", "someone"]])
    def test_a_token_file_that_cannot_be_read_is_a_configuration_error(
        self, flowmate, connected, monkeypatch, home, command
    ):
        """Also for a sync: it does not fail user by user."""
        monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        ended = flowmate(*command, "--admin-token-file", str(home))
        assert ended.code == USAGE
        assert "admin token file" in ended.complaint


class TestReportPath:
    @pytest.mark.parametrize("name", ["credentials.db", "store.key", "folder", "missing/report.json"])
    def test_what_is_no_report_is_never_replaced(self, flowmate, connected, home, name):
        """Said before anything is sent."""
        assert flowmate("store", "keygen", "store.key").code == 0
        (home / "folder").mkdir()
        (home / "credentials.db").write_bytes(b"not a report")
        before, sent = (home / "store.key").read_bytes(), connected.total()
        ended = flowmate("sync", "--all-users", "--report", name, "--store", "sqlite:///other.db")
        assert ended.code == USAGE
        assert name in ended.complaint
        assert connected.total() == sent
        assert (home / "store.key").read_bytes() == before
        assert (home / "credentials.db").read_bytes() == b"not a report"

    def test_an_earlier_report_is_replaced(self, flowmate, connected):
        for _ in range(2):
            assert flowmate("sync", "--all-users", "--report", "report.json").code == 0


class TestUsernames:
    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            ("a\n\nb\n", "line 2: an empty username"),
            ("a\nb\nc\na\n", "line 4: the same as line 1"),
            ("a\n b\n", "line 2: a username with surrounding blanks"),
            ("a\nb\x07\n", "line 2"),
            ("a\nb\u202e\n", "line 2"),
            ("x" * 2000 + "\n", "line 1"),
            ("", "has no usernames"),
        ],
    )
    def test_a_bad_line_of_the_file_is_named(self, flowmate, connected, home, lines, said):
        file = home / "users.txt"
        file.write_text(lines)
        before = connected.stats()["impersonations"]
        ended = flowmate("sync", "--users-file", str(file))
        assert ended.code == USAGE
        assert said in ended.complaint
        assert connected.stats()["impersonations"] == before

    def test_a_missing_file_is_named(self, flowmate, connected):
        ended = flowmate("sync", "--users-file", "nowhere.txt")
        assert ended.code == USAGE
        assert "nowhere.txt" in ended.complaint

    def test_a_file_that_is_no_text_is_said_to_be_none(self, flowmate, connected, home):
        (home / "users.bin").write_bytes(b"\xff\xfe\x00")
        ended = flowmate("sync", "--users-file", str(home / "users.bin"))
        assert ended.code == USAGE
        assert "UTF-8" in ended.complaint

    def test_exactly_one_way_of_naming_users_is_taken(self, flowmate, connected):
        assert flowmate("sync").code == USAGE
        assert flowmate("sync", "--all-users", "someone").code == USAGE

    def test_an_unknown_user_fails_alone(self, flowmate, connected):
        ended = flowmate("sync", "nobody-of-that-name")
        assert ended.code == SOME_FAILED
        assert "nobody-of-that-name" in ended.err
        assert "Traceback" not in ended.err

    def test_an_id_that_would_leave_its_path_is_never_sent(self, flowmate, connected):
        before = connected.stats()["requests"]
        assert flowmate("get", "someone", "../users/").code == USAGE
        assert connected.stats()["requests"] == before


class TestRemoval:
    @pytest.mark.parametrize("share", ["2", "-0.1", "nan"])
    def test_a_share_is_from_0_to_1(self, flowmate, connected, share):
        sent = connected.total()
        ended = flowmate("sync", "--all-users", "--removed", "delete", f"--max-removed-share={share}")
        assert ended.code == USAGE
        assert "--max-removed-share" in ended.complaint
        assert connected.total() == sent

    def test_a_policy_is_one_of_three(self, flowmate, connected):
        assert flowmate("sync", "--all-users", "--removed", "shred").code == USAGE


class TestUpstream:
    """FlowMate cannot be used: exit 3, and the reader learns why."""

    @pytest.fixture(autouse=True)
    def quickly(self, short_waits):
        """Retry soon: how long a retry waits is tested elsewhere."""

    def test_an_unreachable_host(self, flowmate, connected, monkeypatch):
        with socket.create_server(("127.0.0.1", 0)) as placeholder:
            port = placeholder.getsockname()[1]
        monkeypatch.setenv("FLOWMATE_BASE_URL", f"http://127.0.0.1:{port}")
        ended = flowmate("users")
        assert ended.code == UPSTREAM
        assert "cannot be reached" in ended.complaint

    @pytest.mark.parametrize("name", ["localhost", "wrong.example"])
    def test_a_certificate_that_is_not_trusted_or_not_this_hosts(
        self, flowmate, connected, monkeypatch, home, name
    ):
        authority = trustme.CA()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(tls)
        flags = []
        if name == "wrong.example":  # trusted, but another host's
            authority.cert_pem.write_to_path(str(home / "ca.pem"))
            flags = ["--ca-file", str(home / "ca.pem")]
        with answering(http(b"[]"), tls) as url:
            monkeypatch.setenv("FLOWMATE_BASE_URL", url)
            ended = flowmate("users", *flags)
        assert ended.code == UPSTREAM
        assert "TLS" in ended.complaint
        assert "certificate" in ended.complaint

    @pytest.mark.parametrize(
        ("raw", "said"),
        [
            (http(b"<html>Log in</html>", kind="text/html"), "not JSON"),
            (http(b'[{"username":"a"'), "not what the contract documents"),
            (http(b"[", length=500), "ended early"),
            (http(b'{"data":3}'), "not what the contract documents"),
            (http(b'"\xff"'), "not what the contract documents"),
            (http(b"", length=300 * 1024 * 1024), "larger than allowed"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
            (http(b"", status="302 Found"), "redirect"),
        ],
    )
    def test_an_answer_that_is_none(self, flowmate, connected, monkeypatch, raw, said):
        with answering(raw) as url:
            monkeypatch.setenv("FLOWMATE_BASE_URL", url)
            ended = flowmate("users")
        assert ended.code == UPSTREAM
        assert said in ended.complaint

    @pytest.mark.parametrize(
        "url",
        ["http://flowmate.example", "ftp://x", "https://u:p4ssw0rd@x", "nonsense", "https://", "http://[::1"],
    )
    def test_a_base_url_that_would_leak_is_refused(self, flowmate, connected, monkeypatch, url):
        monkeypatch.setenv("FLOWMATE_BASE_URL", url)
        ended = flowmate("users")
        assert ended.code == USAGE
        assert "base URL" in ended.complaint
        assert "p4ssw0rd" not in ended.err


class TestStore:
    def test_no_store_is_named(self, flowmate, connected, monkeypatch):
        monkeypatch.delenv("FLOWMATE_STORE")
        ended = flowmate("sync", "--all-users")
        assert ended.code == USAGE
        assert "--store" in ended.complaint

    @pytest.mark.parametrize("command", ["list", "verify"])
    def test_looking_at_a_store_does_not_make_one(self, flowmate, connected, home, command):
        ended = flowmate("store", command, "--store", "sqlite:///mistyped.db")
        assert ended.code == USAGE
        assert "mistyped.db" in ended.complaint
        assert not (home / "mistyped.db").exists()

    def test_no_key_is_found(self, flowmate, connected, monkeypatch):
        monkeypatch.delenv("FLOWMATE_STORE_KEY")
        ended = flowmate("sync", "--all-users")
        assert ended.code == USAGE
        assert "FLOWMATE_STORE_KEY" in ended.complaint

    def test_a_passphrase_is_refused_and_not_repeated(self, flowmate, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_STORE_KEY", "correct horse battery staple")
        ended = flowmate("sync", "--all-users")
        assert ended.code == USAGE
        assert "passphrases are refused" in ended.complaint
        assert "horse" not in ended.err

    def test_a_folder_that_is_not_there(self, flowmate, connected, home):
        ended = flowmate("sync", "--all-users", "--store", f"sqlite:///{home}/nowhere/credentials.db")
        assert ended.code == USAGE
        assert "nowhere" in ended.complaint

    @pytest.mark.parametrize("folder", ["/proc/self", "/dev/null"])
    def test_a_folder_that_may_not_be_written_even_by_root(self, flowmate, connected, folder):
        ended = flowmate("sync", "--all-users", "--store", f"sqlite:///{folder}/credentials.db")
        assert ended.code == USAGE
        assert folder in ended.complaint

    def test_a_path_that_is_a_folder(self, flowmate, connected, home):
        (home / "folder").mkdir()
        ended = flowmate("sync", "--all-users", "--store", f"sqlite:///{home}/folder")
        assert ended.code == USAGE
        assert "folder" in ended.complaint

    def test_the_wrong_key_touches_nothing(self, flowmate, connected, monkeypatch, home):
        assert flowmate("sync", "--all-users").code == 0
        before = (home / "credentials.db").read_bytes()
        monkeypatch.setenv("FLOWMATE_STORE_KEY", "a5" * 32)
        ended = flowmate("sync", "--all-users")
        assert ended.code == USAGE
        assert "key" in ended.complaint
        assert (home / "credentials.db").read_bytes() == before

    def test_a_store_of_a_newer_version_is_left_alone(self, flowmate, connected, home):
        assert flowmate("sync", "--all-users").code == 0
        with sqlite3.connect(home / "credentials.db") as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
        ended = flowmate("store", "verify")
        assert ended.code == USAGE
        assert "newer" in ended.complaint

    def test_another_upstreams_store_is_left_alone(self, flowmate, connected, monkeypatch):
        assert flowmate("sync", "--all-users").code == 0
        monkeypatch.setenv("FLOWMATE_BASE_URL", connected.url.replace("127.0.0.1", "localhost"))
        ended = flowmate("sync", "--all-users")
        assert ended.code == USAGE
        assert "upstream" in ended.complaint or "belongs" in ended.complaint

    def test_a_plain_path_is_told_how_it_is_written(self, flowmate, connected):
        ended = flowmate("sync", "--all-users", "--store", "credentials.db")
        assert ended.code == USAGE
        assert "sqlite:///" in ended.complaint

    def test_a_password_in_the_url_is_refused_and_not_repeated(self, flowmate, connected):
        ended = flowmate("sync", "--all-users", "--store", "postgresql://me:hunter22@db/x")
        assert ended.code == USAGE
        assert "hunter22" not in ended.err


class TestConfigurationFile:
    def test_it_is_below_the_environment_and_flags_are_above(self, flowmate, connected, home, monkeypatch):
        file = home / "config" / "flowmate" / "config.toml"
        file.parent.mkdir(parents=True)
        file.write_text('base_url = "http://from-the-file.example"\n')
        assert flowmate("users").code == 0  # the environment's
        monkeypatch.delenv("FLOWMATE_BASE_URL")
        assert "from-the-file.example" in flowmate("users").complaint
        assert flowmate("users", "--base-url", connected.url).code == 0

    def test_each_key_is_what_its_flag_is(self, flowmate, connected, home, monkeypatch):
        for name in ("STORE", "STORE_KEY", "BASE_URL", "RATE"):
            monkeypatch.delenv(f"FLOWMATE_{name}")
        assert flowmate("store", "keygen", "store.key").code == 0
        (home / "some.toml").write_text(
            f'base_url = "{connected.url}"\nrate = 0\nworkers = 1\ntransport = "aiohttp"\n'
            f'store = "sqlite:///{home}/credentials.db"\nstore_key_file = "{home}/store.key"\n'
        )
        for command in (["sync", "--all-users"], ["store", "verify"], ["doctor", "--strict"]):
            ended = flowmate(*command, "--config", "some.toml")
            assert ended.code == 0, ended
        assert "skipped" not in ended.out, "every check of the doctor was made"

    @pytest.mark.parametrize("named_by", ["flag", "variable"])
    def test_the_commands_of_a_store_take_it_too(self, flowmate, connected, home, monkeypatch, named_by):
        assert flowmate("sync", "--all-users").code == 0
        (home / "some.toml").write_text(f'store = "sqlite:///{home}/credentials.db"\ntransport = "aiohttp"\n')
        monkeypatch.delenv("FLOWMATE_STORE")
        if named_by == "variable":
            monkeypatch.setenv("FLOWMATE_CONFIG", "some.toml")
        ended = flowmate("store", "verify", *(["--config", "some.toml"] if named_by == "flag" else []))
        assert ended.code == 0, ended.err

    @pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
    def test_one_in_the_home_of_somebody_else_is_not_looked_for(self, flowmate, connected, home):
        """As cron jobs and containers have it that run as another user than HOME says."""
        (home / "config").mkdir(mode=0)
        was_root = os.geteuid() == 0
        if was_root:  # who may look everywhere
            os.seteuid(65534)
        try:
            assert flowmate("users").code == 0
        finally:
            if was_root:
                os.seteuid(0)
            (home / "config").chmod(0o700)

    @pytest.mark.parametrize("text", ["rate = [", "rate = 1\nrate = 2\n", "\udcff"])
    def test_what_is_no_toml_is_named(self, flowmate, connected, home, text):
        (home / "some.toml").write_bytes(text.encode(errors="surrogateescape"))
        ended = flowmate("users", "--config", "some.toml")
        assert ended.code == USAGE
        assert "some.toml cannot be read: it is no TOML" in ended.complaint

    def test_one_in_the_working_directory_is_not_read(self, flowmate, connected, home):
        (home / "config.toml").write_text('base_url = "http://planted.example"\n')
        (home / "flowmate.toml").write_text('base_url = "http://planted.example"\n')
        assert flowmate("users").code == 0

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('admin_token = "t0p-secret"', "seems to hold a credential"),
            ('store_key = "t0p-secret"', "seems to hold a credential"),
            ("colour = 3", "unknown keys: colour"),
            ("base_url = ", ""),
        ],
    )
    def test_what_it_may_not_hold_is_refused(self, flowmate, connected, home, text, said):
        file = home / "own.toml"
        file.write_text(text)
        ended = flowmate("users", "--config", str(file))
        assert ended.code == USAGE
        assert said in ended.complaint
        assert "t0p-secret" not in ended.err

    def test_one_that_is_named_must_be_there(self, flowmate, connected):
        ended = flowmate("users", "--config", str(Path("nowhere.toml")))
        assert ended.code == USAGE
        assert "nowhere.toml" in ended.complaint


class TestCommandLine:
    @pytest.mark.parametrize("arguments", [["--nope"], ["sync", "--nope"], ["nonsense"], ["get", "only-one"]])
    def test_what_it_does_not_know_is_usage(self, flowmate, connected, arguments):
        ended = flowmate(*arguments)
        assert ended.code == USAGE
        assert ended.complaint

    def test_a_credential_can_not_be_a_flag(self, flowmate, connected):
        for flag in ("--admin-token", "--token", "--store-key", "--key"):
            assert flowmate("users", flag, "x").code == USAGE

    def test_it_names_the_help_of_the_command(self, flowmate, connected):
        assert "flowmate store verify --help" in flowmate("store", "verify", "--frobnicate").complaint

    @pytest.mark.parametrize("text", ["API=1", "api_key=1"])
    def test_a_staleness_of_a_type_that_is_not_known_is_refused(self, flowmate, connected, text):
        ended = flowmate("sync", "--all-users", "--max-staleness", text)
        assert ended.code == USAGE
        assert "API_KEY" in ended.complaint


@pytest.mark.skipif(sys.platform == "win32", reason="/dev/full and pipes are POSIX")
class TestStandardErrorThatCannotBeWritten:
    """Output that cannot be written does not change the exit code."""

    @pytest.mark.parametrize("where", ["full disk", "closed pipe"])
    def test_a_sync_that_is_complete_ends_with_0(self, connected, where):
        assert self.ended("sync", "--all-users", where=where) == 0

    @pytest.mark.parametrize("where", ["full disk", "closed pipe"])
    def test_a_mistake_ends_with_2(self, connected, where):
        assert self.ended("sync", "--frobnicate", where=where) == USAGE

    @staticmethod
    def ended(*arguments, where):
        if where == "full disk":
            descriptor = os.open("/dev/full", os.O_WRONLY)
        else:
            reader, descriptor = os.pipe()
            os.close(reader)
        try:
            return subprocess.run(
                [*FLOWMATE, *arguments],
                check=False,
                stderr=descriptor,
                stdout=subprocess.DEVNULL,
                timeout=120,
            ).returncode
        finally:
            os.close(descriptor)
