"""``flowmate sync`` and what looks into its result."""

import io
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time

import msgspec
import pytest

from .conftest import FLOWMATE, connect, twin_thread

USAGE, UPSTREAM, SOME_FAILED, INTERRUPTED = 2, 3, 1, 130


class TestSync:
    def test_all_users_means_active_users_of_the_tenant_and_names_the_others(self, flowmate, connected):
        ended = flowmate("sync", "--all-users", "-v", "--json")
        report = msgspec.json.decode(ended.out)
        assert ended.code == 0
        assert report["synced"] == 12
        assert report["failed"] == 0
        assert {"username": "admin@tenant.example", "reason": "no tenant"} in report["left_out"]
        assert "admin@tenant.example (no tenant)" in ended.err
        assert all("admin" not in line for line in flowmate("users").out.splitlines())

    @pytest.mark.parametrize("flag", [True, False])
    def test_the_wire_transport_brings_the_same(self, flowmate, connected, monkeypatch, flag):
        if not flag:
            monkeypatch.setenv("FLOWMATE_TRANSPORT", "wire")
        flags = ["--transport", "wire"] if flag else []
        report = msgspec.json.decode(flowmate("sync", "--all-users", "--json", *flags).out)
        assert (report["synced"], report["failed"]) == (12, 0)
        assert flowmate("store", "verify").code == 0

    def test_a_proxy_and_the_wire_transport_do_not_go_together(self, flowmate, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_BASE_URL", "https://flowmate.example")
        ended = flowmate("users", "--transport", "wire", "--proxy", "http://proxy.example:3128")
        assert ended.code == USAGE
        assert "aiohttp" in ended.err

    def test_usernames_come_from_a_pipe(self, flowmate, connected, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(flowmate("users").out.encode())))
        report = msgspec.json.decode(flowmate("sync", "--users-file", "-", "--json").out)
        assert report["synced"] == 12

    def test_a_byte_order_mark_is_no_part_of_a_username(self, flowmate, connected, home):
        names = flowmate("users").out
        (home / "users.txt").write_bytes(b"\xef\xbb\xbf" + names.encode())
        report = msgspec.json.decode(flowmate("sync", "--users-file", "users.txt", "--json").out)
        assert (report["synced"], report["failed"]) == (12, 0)

    def test_a_run_after_a_complete_one_rewrites_only_what_changed(self, flowmate, connected):
        first = msgspec.json.decode(flowmate("sync", "--all-users", "--json").out)
        second = msgspec.json.decode(flowmate("sync", "--all-users", "--full", "--json").out)
        assert second["run_id"] != first["run_id"]
        assert not second["resumed"]
        # Only sessions, which every GET renews, have changed.
        assert 0 < second["changed"] < second["unchanged"]
        assert second["changed"] + second["unchanged"] == second["secrets"] == first["secrets"]

    @pytest.mark.parametrize("by", ["flag", "variable", "file"])
    def test_tokens_are_kept_when_asked_for(self, flowmate, connected, monkeypatch, home, by):
        flags = ["sync", "--all-users", "--volatile", "skip", "--json"]
        if by == "flag":
            flags += ["--keep-tokens"]
        elif by == "variable":
            monkeypatch.setenv("FLOWMATE_KEEP_TOKENS", "true")
        else:
            (home / "flowmate.toml").write_text("keep_tokens = true\n")
            flags += ["--config", "flowmate.toml"]
        for each in (2, 1):  # an impersonation and a listing, then a listing
            report = msgspec.json.decode(flowmate(*flags).out)
            fetched = report["changed"] + report["unchanged"]
            assert (report["synced"], report["requests"]) == (12, 12 * each + fetched)

    def test_a_store_that_cannot_keep_tokens_is_a_usage_error(self, flowmate, connected, monkeypatch, home):
        assert flowmate("store", "keygen", "--age", "age.key").code == 0
        monkeypatch.delenv("FLOWMATE_STORE_KEY", raising=False)
        flags = ["--store", "jsonl+age:///store.age", "--store-key-file", "age.key"]
        ended = flowmate("sync", "--all-users", "--keep-tokens", *flags)
        assert ended.code == USAGE
        assert "--keep-tokens" in ended.err
        assert "sqlite" in ended.err

    def test_failed_users_are_tried_again_when_asked_for(self, flowmate, connected, home):
        names = flowmate("users").out.splitlines()[:3]
        ended = flowmate("sync", *names, "no-such-user", "--json")
        assert ended.code == SOME_FAILED
        assert msgspec.json.decode(ended.out)["errors"] == {"user_not_found": 1}
        before = connected.total()
        again = flowmate("sync", *names, "no-such-user", "--retry-failed", "--json")
        report = msgspec.json.decode(again.out)
        assert again.code == SOME_FAILED
        assert report["skipped"] == 3
        assert report["requests"] == 1, "only the failed user was asked for"
        assert connected.total() == before + 1

    def test_too_many_failures_end_the_run(self, flowmate, connected):
        ended = flowmate("sync", *(f"nobody-{number}" for number in range(9)), "--max-failures", "2")
        assert ended.code == SOME_FAILED
        assert "more than the 2 allowed" in ended.complaint

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_everything_masked_ends_with_3_and_names_the_permission(
        self, flowmate, monkeypatch, home, workers
    ):
        with twin_thread(users=20, raw_read=False) as twin:
            connect(twin, monkeypatch, home)
            ended = flowmate("sync", "--all-users", "--concurrency", "2", "--workers", workers)
            tried = twin.stats()["impersonations"]
        assert ended.code == UPSTREAM
        assert "secrets.secret.readRaw" in ended.complaint
        assert tried == 20, "one of them might have been readable"
        listed = flowmate("store", "list", "--json").out.splitlines()
        assert {msgspec.json.decode(line)["type"] for line in listed} <= {
            "OA1_TWO_LEGGED",
            "OA1_THREE_LEGGED",
            "FUTURE_TYPE",
            "MIXED",  # of several lines
            "API_KEY",
        }

    @pytest.mark.parametrize("workers", ["1", "2"])
    def test_masked_users_among_readable_ones_fail_alone(self, flowmate, monkeypatch, home, workers):
        """The second night is a delta sync: no user is starved, and readable ones cost no GET."""
        with twin_thread(users=20, masked_share=0.5) as twin:
            connect(twin, monkeypatch, home)
            for _night in range(2):
                ended = flowmate("sync", "--all-users", "--concurrency", "2", "--workers", workers, "--json")
                report = msgspec.json.decode(ended.out)
                assert ended.code == SOME_FAILED
                assert (report["complete"], report["synced"], report["failed"]) == (True, 10, 10)

    def test_two_syncs_never_share_a_store(self, flowmate, connected, home):
        assert flowmate("sync", "--all-users").code == 0
        holder = sqlite3.connect(home / "credentials.db.lock", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        try:
            ended = flowmate("sync", "--all-users")
        finally:
            holder.close()
        assert ended.code == USAGE
        assert "credentials.db" in ended.complaint

    def test_a_page_and_json_are_written_side_by_side(self, flowmate, connected, home):
        reports = ("--report", str(home / "report.html"), "--report", str(home / "report.json"))
        assert flowmate("sync", "--all-users", *reports).code == 0
        page = (home / "report.html").read_text()
        report = msgspec.json.decode((home / "report.json").read_bytes())
        assert f'<data id="synced" value="{report["totals"]["synced"]}">' in page
        assert "Latency by endpoint" in page
        assert flowmate("sync", "--all-users", *reports).code == 0, "both are replaced"

    def test_a_page_of_several_processes_shows_the_requests_of_all_of_them(self, flowmate, connected, home):
        report = ("--report", str(home / "report.html"))
        assert flowmate("sync", "--all-users", "--workers", "2", *report).code == 0
        page = (home / "report.html").read_text()
        assert '<data id="synced" value="12">' in page
        assert "Latency by endpoint" in page

    def test_the_report_has_a_line_a_user_and_no_credential(self, flowmate, connected, home):
        names = flowmate("users").out.splitlines()
        ended = flowmate("sync", *names, "no-such-user", "--report", str(home / "report.json"), "--json")
        raw = (home / "report.json").read_bytes()
        report = msgspec.json.decode(raw)
        totals = msgspec.json.decode(ended.out)
        assert stat.S_IMODE((home / "report.json").stat().st_mode) == 0o600
        assert report["run_id"] == totals["run_id"]
        assert report["complete"]
        assert {user["username"] for user in report["users"]} == {*names, "no-such-user"}
        assert sum(user["secrets"] for user in report["users"]) == totals["secrets"]
        failed = [user for user in report["users"] if user["status"] == "failed"]
        assert [user["error"] for user in failed] == ["user_not_found"]
        assert "no such user" in failed[0]["message"]

    @pytest.mark.skipif(sys.platform == "win32", reason="signals of another process are POSIX")
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_drains_and_the_next_run_resumes(self, flowmate, monkeypatch, home, number):
        with twin_thread(users=200, latency_seconds=0.02) as twin:
            connect(twin, monkeypatch, home)
            process = subprocess.Popen(
                [*FLOWMATE, "sync", "--all-users"],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=dict(os.environ),
                text=True,
            )
            assert "run_began" in process.stderr.readline()
            while twin.stats()["impersonations"] < 40:
                time.sleep(0.01)
            process.send_signal(number)
            said = process.stderr.read()
            assert process.wait(timeout=30) == INTERRUPTED
            process.stderr.close()
            assert "Traceback" not in said
            report = msgspec.json.decode(flowmate("sync", "--all-users", "--json").out)
            assert report["resumed"]
            assert report["skipped"] > 0
            assert report["synced"] == 200
            # Users in progress were finished: none was impersonated twice.
            assert set(twin.stats()["impersonations_by_username"].values()) == {1}


class TestLooking:
    def test_a_credential_shows_only_when_it_is_revealed(self, flowmate, connected):
        (username, secret_id), (_, value) = next(
            (key, truth) for key, truth in connected.truth().items() if truth[0] == "SIMPLE"
        )
        assert flowmate("sync", username).code == 0
        for command in (["get"], ["store", "get"]):
            hidden = flowmate(*command, username, secret_id)
            revealed = flowmate(*command, username, secret_id, "--reveal")
            assert hidden.code == revealed.code == 0
            assert value["passphrase"] not in hidden.out + hidden.err
            assert msgspec.json.decode(revealed.out)["value"]["passphrase"] == value["passphrase"]

    def test_lists_show_every_secret_and_no_credential(self, flowmate, connected):
        truth = connected.truth()
        username = next(iter(truth))[0]
        assert flowmate("sync", username).code == 0
        mine = {secret_id for user, secret_id in truth if user == username}
        for command in (["list", username], ["store", "list", username]):
            out = flowmate(*command).out
            assert all(secret_id in out for secret_id in mine)
            as_json = [msgspec.json.decode(line) for line in flowmate(*command, "--json").out.splitlines()]
            assert len(as_json) == len(mine)

    def test_a_store_that_was_tampered_with_says_so(self, flowmate, connected, home):
        assert flowmate("sync", "--all-users").code == 0
        assert "0 damaged" in flowmate("store", "verify").out
        with sqlite3.connect(home / "credentials.db") as database:
            database.execute(
                "UPDATE secrets SET sealed = zeroblob(length(sealed)) "
                "WHERE secret_id IN (SELECT secret_id FROM secrets LIMIT 1)"
            )
        database.close()
        ended = flowmate("store", "verify")
        assert ended.code == SOME_FAILED
        assert "1 damaged" in ended.out

    def test_a_key_file_is_private_and_never_overwritten(self, flowmate, home):
        assert flowmate("store", "keygen", "store.key").code == 0
        assert stat.S_IMODE((home / "store.key").stat().st_mode) == 0o600
        before = (home / "store.key").read_text()
        assert flowmate("store", "keygen", "store.key").code == USAGE
        assert (home / "store.key").read_text() == before


class TestDemo:
    def test_it_interrupts_resumes_and_verifies(self, flowmate):
        ended = flowmate("demo", "--users", "60")
        assert ended.code == 0
        assert "resumed" in ended.out
        verified, total = (int(number.replace(",", "")) for number in ended.out.split()[-5:-2:2])
        assert verified == total > 60
