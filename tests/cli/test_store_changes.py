"""``flowmate store rekey``, ``upgrade``, ``migrate`` and ``import``, as a terminal sees them."""

import os
import pty
import sqlite3
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from .conftest import FLOWMATE

USAGE, SOME_FAILED = 2, 1
FIXTURES = Path(__file__).parent.parent / "stores" / "fixtures"
ID = "66761aedcf268b4d68470e27"


def on_a_terminal(*arguments):
    """Return what ``flowmate store`` shows on a terminal."""
    terminal, stderr = pty.openpty()
    command = [*FLOWMATE, "store", *arguments]
    with subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL) as process:
        os.close(stderr)
        shown = b""
        with suppress(OSError):  # Linux reports the end this way
            while part := os.read(terminal, 4096):
                shown += part
    os.close(terminal)
    assert process.returncode == 0
    return shown


@pytest.fixture
def synced(flowmate, connected, monkeypatch):
    """A synced store, whose key is in a file."""
    monkeypatch.delenv("FLOWMATE_STORE_KEY")
    assert flowmate("store", "keygen", "old.key").code == 0
    assert flowmate("store", "keygen", "new.key").code == 0
    monkeypatch.setenv("FLOWMATE_STORE_KEY_FILE", "old.key")
    assert flowmate("sync", "--all-users").code == 0
    return connected


def listed(flowmate, *flags):
    ended = flowmate("store", "list", "--json", *flags)
    assert ended.code == 0, ended.err
    return [msgspec.json.decode(line) for line in ended.out.splitlines()]


def export(home, *records):
    file = home / "export.json"
    file.write_bytes(msgspec.json.encode(records))
    file.chmod(0o600)
    return file.name


def record(username, secret_id=ID, key="an-invented-key"):
    return {"username": username, "id": secret_id, "type": "API_KEY", "value": {"key": key}}


class TestRekey:
    def test_only_the_new_key_opens_the_store_then(self, flowmate, synced, monkeypatch):
        count = len(listed(flowmate))
        ended = flowmate("store", "rekey", "new.key")
        assert (ended.code, f"{count:,} credentials sealed with key" in ended.out) == (0, True)
        ended = flowmate("store", "verify")
        assert ended.code == USAGE
        assert "is sealed with key" in ended.complaint
        ended = flowmate("store", "verify", "--store-key-file", "new.key")
        assert (ended.code, ended.out) == (0, f"{count} credentials intact, 0 damaged\n")
        assert flowmate("sync", "--all-users", "--store-key-file", "new.key").code == 0

    def test_again_it_has_nothing_left_to_do(self, flowmate, synced):
        """Whichever of the two keys is given for the store's."""
        count = len(listed(flowmate))
        assert flowmate("store", "rekey", "new.key").code == 0
        for key in ("old.key", "new.key"):
            ended = flowmate("store", "rekey", "new.key", "--store-key-file", key)
            assert (ended.code, f"{count:,} were so already" in ended.out) == (0, True)

    def test_workers_that_have_both_keys_go_on(self, flowmate, synced, monkeypatch):
        monkeypatch.setenv("FLOWMATE_STORE_OTHER_KEY_FILE", "new.key")
        assert flowmate("store", "verify").code == 0
        assert flowmate("store", "rekey", "new.key").code == 0
        assert flowmate("store", "verify").code == 0
        assert flowmate("sync", "--all-users").code == 0

    def test_a_store_that_seals_by_itself_has_no_key(self, flowmate, synced, monkeypatch):
        monkeypatch.setenv("BAO_TOKEN", "any")
        ended = flowmate("store", "rekey", "new.key", "--store", "openbao://127.0.0.1:9/secret/x?tls=off")
        assert ended.code == USAGE
        assert "Traceback" not in ended.err

    def test_a_copy_that_is_complete_is_named_as_one(self, flowmate, synced):
        assert flowmate("store", "migrate", "sqlite:///copy.db").code == 0
        again = flowmate("store", "migrate", "sqlite:///copy.db")
        assert again.code == USAGE
        assert "holds a complete copy of this store already" in again.err

    def test_progress_is_a_bar_with_a_total_on_a_terminal_and_lines_elsewhere(self, flowmate, synced):
        count = len(listed(flowmate))
        ended = flowmate("store", "rekey", "new.key", "--log-format", "json")
        lines = [msgspec.json.decode(line) for line in ended.err.splitlines()]
        shown = [line for line in lines if line["event"] == "progress"]
        assert {line["credentials_total"] for line in shown} == {count}
        assert [line["credentials_done"] for line in shown][:: len(shown) - 1] == [0, count]
        assert flowmate("store", "keygen", "newest.key").code == 0
        terminal = on_a_terminal("rekey", "newest.key", "--store-key-file", "new.key")
        assert f"{count}/{count}".encode() in terminal


class TestMigrate:
    def test_a_store_moves_with_everything_in_it(self, flowmate, synced, monkeypatch):
        before = listed(flowmate)
        ended = flowmate("store", "migrate", "jsonl+age:///copy.age", "--to-key-file", "new.key")
        assert (ended.code, f"{len(before):,} credentials of" in ended.out) == (0, True)
        there = ("--store", "jsonl+age:///copy.age", "--store-key-file", "new.key")
        assert listed(flowmate, *there) == before
        assert listed(flowmate) == before
        ended = flowmate("sync", "--all-users", *there)
        assert "0 written" in ended.out

    def test_the_next_sync_of_the_copy_fetches_what_one_of_the_source_would(self, flowmate, synced):
        assert flowmate("store", "migrate", "sqlite:///copy.db").code == 0
        plans = [
            msgspec.json.decode(flowmate("sync", "--all-users", "--dry-run", "--json", "--store", url).out)
            for url in ("sqlite:///copy.db", os.environ["FLOWMATE_STORE"])
        ]
        assert plans[0] == plans[1]
        assert plans[0]["left"]["unchanged"] > 0
        assert "new" not in plans[0]["fetch"]

    def test_progress_is_a_bar_with_a_total_on_a_terminal_and_lines_elsewhere(self, flowmate, synced):
        count = len(listed(flowmate))
        ended = flowmate("store", "migrate", "sqlite:///copy.db")
        assert f"{count} of {count} credentials done" in ended.err
        assert f"{count}/{count}".encode() in on_a_terminal("migrate", "sqlite:///other.db")

    def test_what_is_there_already_is_backed_up_or_left_alone(self, flowmate, synced, home):
        """Without a word of a backup nothing is written at all."""
        other = ("--store", "sqlite:///other.db")
        base_url = ("--base-url", os.environ["FLOWMATE_BASE_URL"])
        assert flowmate("store", "import", export(home, record("zoe")), *base_url, *other).code == 0
        there = listed(flowmate, *other)
        ended = flowmate("store", "migrate", "sqlite:///other.db")
        assert ended.code == USAGE
        assert "--backup" in ended.complaint
        assert listed(flowmate, *other) == there
        ended = flowmate("store", "migrate", "sqlite:///other.db", "--backup", "sqlite:///before.db")
        assert ended.code == 0
        assert "Backed up 1 credentials" in ended.err
        assert listed(flowmate, "--store", "sqlite:///before.db") == there
        assert len(listed(flowmate, *other)) == len(listed(flowmate)) + 1

    def test_a_killed_copy_is_recognised_and_gone_on_with(self, flowmate, synced, home):
        """Also with the backup that was made before it."""
        there = ("--store", "sqlite:///other.db")
        base_url = ("--base-url", os.environ["FLOWMATE_BASE_URL"])
        many = [record(f"user-{number:04d}") for number in range(1500)]
        assert flowmate("store", "import", export(home, *many), *base_url).code == 0
        assert flowmate("store", "import", export(home, record("zoe")), *base_url, *there).code == 0
        migrate = ("store", "migrate", "sqlite:///other.db", "--backup", "sqlite:///before.db")
        with subprocess.Popen([*FLOWMATE, *migrate], stderr=subprocess.PIPE, text=True) as process:
            while "credentials done" not in process.stderr.readline():
                assert process.poll() is None
            process.kill()
        ended = flowmate("store", "verify", *there)
        assert ended.code == SOME_FAILED
        assert "incomplete copy" in ended.complaint
        ended = flowmate(*migrate)
        assert ended.code == 0, ended.err
        assert "Going on with the copy" in ended.err
        assert flowmate("store", "verify", *there).code == 0
        assert len(listed(flowmate, *there)) == len(listed(flowmate)) + 1
        assert [item["username"] for item in listed(flowmate, "--store", "sqlite:///before.db")] == ["zoe"]

    def test_a_backup_that_was_interrupted_is_repeated(self, flowmate, synced, home):
        """A copy of the same store does not count as foreign content."""
        there, before = ("--store", "sqlite:///other.db"), ("--store", "sqlite:///before.db")
        base_url = ("--base-url", os.environ["FLOWMATE_BASE_URL"])
        assert flowmate("store", "import", export(home, record("zoe")), *base_url, *there).code == 0
        assert flowmate("store", "migrate", "sqlite:///before.db", *there).code == 0
        ended = flowmate("store", "migrate", "sqlite:///other.db", "--backup", "sqlite:///before.db")
        assert ended.code == 0, ended.err
        assert [item["username"] for item in listed(flowmate, *before)] == ["zoe"]

    def test_a_backup_is_never_written_into_something_else(self, flowmate, synced, home):
        base_url = ("--base-url", os.environ["FLOWMATE_BASE_URL"])
        for name in ("other", "before"):
            assert (
                flowmate(
                    *(
                        "store",
                        "import",
                        export(home, record(name)),
                        *base_url,
                        "--store",
                        f"sqlite:///{name}.db",
                    )
                ).code
                == 0
            )
        ended = flowmate("store", "migrate", "sqlite:///other.db", "--backup", "sqlite:///before.db")
        assert ended.code == USAGE
        assert [item["username"] for item in listed(flowmate, "--store", "sqlite:///before.db")] == ["before"]

    def test_a_store_is_not_copied_into_itself(self, flowmate, synced):
        assert flowmate("store", "migrate", os.environ["FLOWMATE_STORE"]).code == USAGE
        ended = flowmate("store", "migrate", "sqlite:///a.db", "--backup", "sqlite:///a.db")
        assert ended.code == USAGE


class TestImport:
    def test_an_export_is_stored_and_found(self, flowmate, connected, home):
        ended = flowmate("store", "import", export(home, record("ann"), record("zoe")))
        assert ended.code == 0
        assert ended.out == "2 credentials of 2 users imported, 0 unchanged, 0 kept as the store had them\n"
        assert "remove it" in ended.err
        got = flowmate("store", "get", "ann", ID, "--reveal")
        assert msgspec.json.decode(got.out)["value"] == {"key": "an-invented-key"}
        again = flowmate("store", "import", export(home, record("ann", key="older")), "--json")
        assert msgspec.json.decode(again.out) == {"users": 1, "written": 0, "unchanged": 0, "kept": 1}

    def test_csv_is_known_by_its_name(self, flowmate, connected, home):
        (home / "export.CSV").write_text(f"username,id,type,value.key\nann,{ID},API_KEY,k\n")
        ended = flowmate("store", "import", "export.CSV")
        assert ended.code == 0
        assert "can be read by other users" in ended.err

    def test_a_bad_record_stores_nothing_and_shows_nothing(self, flowmate, connected, home):
        good, bad = record("ann"), {**record("bob"), "value": {"kee": "very-secret"}}
        ended = flowmate("store", "import", export(home, good, bad))
        assert ended.code == USAGE
        assert "record 2" in ended.complaint
        assert "very-secret" not in ended.err + ended.out
        assert not (home / "credentials.db").exists()

    def test_a_dry_run_stores_nothing(self, flowmate, connected, home):
        ended = flowmate("store", "import", export(home, record("ann")), "--dry-run")
        assert (ended.code, ended.out) == (0, "1 credentials of 1 users could be imported\n")
        assert not (home / "credentials.db").exists()

    def test_a_missing_file_is_named(self, flowmate, connected):
        ended = flowmate("store", "import", "nowhere.json")
        assert ended.code == USAGE
        assert "nowhere.json" in ended.complaint


class TestRemoval:
    def test_a_credential_that_upstream_does_not_have_is_marked_and_deleted(self, flowmate, synced, home):
        """Here one that an export had, of a user that is synced; more than the share is refused first."""
        item = listed(flowmate)[0]
        assert flowmate("store", "import", export(home, record(item["username"]))).code == 0
        refused = flowmate("sync", "--all-users", "--removed", "mark", "--max-removed-share", "0")
        assert refused.code == SOME_FAILED
        assert "Nothing was removed: 1 stored credential gone" in refused.err
        assert flowmate("sync", "--all-users", "--removed", "mark").code == 0
        assert [one["secret_id"] for one in listed(flowmate) if one["removed_at"]] == [ID]
        assert f"{ID}  API_KEY                 -  removed" in flowmate("store", "list").out
        ended = flowmate("sync", "--all-users", "--removed", "delete")
        assert "; 1 removed" in ended.out
        assert ID not in flowmate("store", "list").out


class TestUpgrade:
    @pytest.fixture
    def old(self, connected, monkeypatch, home):
        """A store in the format of an earlier version, with its key in a file."""
        monkeypatch.delenv("FLOWMATE_STORE_KEY")
        key = home / "old.key"
        key.touch(mode=0o600)
        key.write_text(b"0123456789abcdef0123456789abcdef".hex())
        monkeypatch.setenv("FLOWMATE_STORE_KEY_FILE", str(key))
        path = home / "earlier.db"
        path.touch(mode=0o600)
        database = sqlite3.connect(path)
        database.executescript((FIXTURES / "sqlite-format-4.sql").read_text())
        database.close()
        monkeypatch.setenv("FLOWMATE_STORE", f"sqlite:///{path}")
        monkeypatch.setenv("FLOWMATE_BASE_URL", "https://flowmate.example")
        return path

    def test_commands_that_read_leave_the_store_alone(self, flowmate, old):
        before = old.read_bytes()
        assert len(listed(flowmate)) == 9
        assert flowmate("store", "get", "bob", "secret-1").code == 0
        assert flowmate("store", "verify").out == "9 credentials intact, 0 damaged\n"
        flowmate("doctor")
        assert old.read_bytes() == before
        assert [file.name for file in old.parent.glob("earlier*")] == ["earlier.db"]

    def test_a_command_that_writes_says_what_to_do(self, flowmate, old, home):
        name = export(home, record("ann"))
        ended = flowmate("store", "import", name)
        assert ended.code == USAGE
        assert "has format 4, and this version writes format 6" in ended.complaint
        assert f"flowmate store upgrade --store 'sqlite:///{old}'" in ended.complaint

    def test_it_keeps_everything_and_a_backup(self, flowmate, old, home):
        before = listed(flowmate)
        ended = flowmate("store", "upgrade")
        assert (ended.code, ended.out) == (0, "The store was brought from format 4 to format 6.\n")
        assert f"{old}.format-4" in ended.err
        assert listed(flowmate) == before
        assert flowmate("store", "import", export(home, record("zoe"))).code == 0
        assert listed(flowmate, "--store", f"sqlite:///{old}.format-4") == before
        assert flowmate("store", "upgrade").out == "The store has format 6 already.\n"

    def test_the_credentials_can_be_copied_first(self, flowmate, old, home):
        before = listed(flowmate)
        ended = flowmate("store", "upgrade", "--backup", f"sqlite:///{home / 'before.db'}")
        assert (ended.code, "Backed up 9 credentials" in ended.err) == (0, True)
        found = listed(flowmate, "--store", f"sqlite:///{home / 'before.db'}")
        assert [(one["username"], one["secret_id"]) for one in found] == [
            (one["username"], one["secret_id"]) for one in before
        ]
