"""Standard streams that are closed, broken or lack characters; text that would command a terminal."""

import itertools
import os
import subprocess
import unicodedata

import msgspec
import pytest

from .conftest import FLOWMATE, answering, http

pytestmark = pytest.mark.timeout(120)

SID = "66761aedcf268b4d68470e27"
HOSTILE = "".join(
    map(chr, [0x1B, 0x9B, 0x85, 0x7F, 0x200E, 0x200F, 0x061C, 0x202E, 0x2066, 0x2028, 0xFEFF, 0xE0041])
)
"""ESC, C1 controls, bidi marks, a line separator, a byte order mark, a tag: each once."""

CLOSED = [
    *((0,), (1,), (2,), (0, 1, 2)),
    *(pytest.param(pair, marks=pytest.mark.long) for pair in itertools.combinations((0, 1, 2), 2)),
]


def flowmate_process(*arguments, closed=(), **options):
    """Run a command as a separate process, without some of its standard streams."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": 60, "check": False} | options
    return subprocess.run([*FLOWMATE, *arguments], preexec_fn=closing(*closed), **options)  # noqa: PLW1510


def closing(*descriptors):
    """What a child process does first: close some of its standard streams."""

    def close() -> None:
        for number in descriptors:
            os.close(number)

    return close


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_a_sync_is_the_same_whatever_streams_are_closed(flowmate, connected, closed):
    """Its files and sockets must not become the streams that are missing."""
    done = flowmate_process("sync", "--all-users", closed=closed)
    assert done.returncode == 0, done.stderr
    assert (b"12 users synced" in done.stdout) == (1 not in closed)
    assert b"Traceback" not in done.stderr
    assert ", 0 damaged" in flowmate("store", "verify").out


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)], ids=str)
def test_a_command_is_run_whatever_streams_are_closed(connected, closed):
    """It finds all three, so that its own files do not take their place."""
    (username, secret_id), *_ = connected.truth()
    program = "import os; [os.fstat(n) for n in (0, 1, 2)]; os._exit(7)"
    command = ("run", username, secret_id, "--", FLOWMATE[0], "-c", program)
    done = flowmate_process(*command, closed=closed)
    assert done.returncode == 7, done.stderr


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_an_error_ends_with_its_code_whatever_streams_are_closed(home, closed):
    done = flowmate_process("users", "--base-url", "http://elsewhere.example", closed=closed)
    assert done.returncode == 2
    assert done.stderr.startswith(b"" if 2 in closed else b"flowmate: ")


def test_a_reader_that_leaves_early_is_no_error(connected):
    """As ``flowmate users | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    done = flowmate_process("users", capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def record(**fields):
    """What answers every request of ``get`` and ``list`` with a hostile secret."""
    value = {"username": f"u{HOSTILE}", "passphrase": f"p\u00e9\u20ac\U0001f511{HOSTILE}"}
    secret = {
        "_id": SID,
        "type": "SIMPLE",
        "name": f"n\u00e9\u20ac\U0001f511{HOSTILE}",
        "value": value,
        **fields,
    }
    return {"token": "an-invented-token", "data": secret}


def listing():
    return {"token": "t", "data": [record()["data"]], "meta": {"total": 1}}


def accounts():
    common = {"status": "ACTIVE", "tenant": "t", "roles": [], "firstname": HOSTILE}
    names = ["zo\u00e9", "\u20ac\U0001f511", "a\u061cb"]
    rows = [{"_id": str(at), "username": name, **common} for at, name in enumerate(names)]
    return {"data": rows, "meta": {"total": len(rows)}}


COMMANDS = [
    (["users"], accounts),
    (["users", "--json"], accounts),
    (["list", "abc"], listing),
    (["list", "abc", "--json"], listing),
    (["get", "abc", SID], record),
    (["get", "abc", SID, "--reveal"], record),
]


def commanding(text):
    """The characters of a text that command a terminal, hide or reorder."""
    return {
        one for one in text if one != "\n" and unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    }


@pytest.mark.parametrize(
    ("command", "answer"), COMMANDS, ids=lambda it: "-".join(it) if isinstance(it, list) else ""
)
def test_foreign_text_never_reaches_the_terminal_raw(flowmate, monkeypatch, home, command, answer):
    with answering(http(msgspec.json.encode(answer()))) as url:
        monkeypatch.setenv("FLOWMATE_BASE_URL", url)
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "an-invented-token")
        ended = flowmate(*command)
    assert ended.code == 0, ended.err
    assert not commanding(ended.out + ended.err)
    if "--reveal" in command:
        assert (
            msgspec.json.decode(ended.out)["value"]["passphrase"] == record()["data"]["value"]["passphrase"]
        )


def test_stored_text_never_reaches_the_terminal_raw(flowmate, connected, home):
    value = {"username": f"u{HOSTILE}", "passphrase": f"p{HOSTILE}"}
    export = [{"username": "a\u061cb", "id": SID, "type": "SIMPLE", "name": HOSTILE, "value": value}]
    (home / "export.json").write_bytes(msgspec.json.encode(export))
    assert flowmate("store", "import", "export.json").code == 0
    for command in (["store", "list"], ["store", "get", "a\u061cb", SID, "--reveal"], ["store", "verify"]):
        ended = flowmate(*command)
        assert ended.code == 0, ended.err
        assert not commanding(ended.out + ended.err)
    assert msgspec.json.decode(flowmate("store", "get", "a\u061cb", SID, "--reveal").out)["value"] == value


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", f"a{HOSTILE}"],
        ["get", "abc", HOSTILE],
        [f"no{HOSTILE}command"],
        ["users", f"--no{HOSTILE}"],
        ["users", "--rate", HOSTILE],
        ["users", "--config", f"/nowhere/{HOSTILE}"],
        ["store", "list", "--store", f"sqlite:////nowhere/{HOSTILE}"],
        ["sync", "--users-file", f"/nowhere/{HOSTILE}", "--store", "sqlite:///x.db"],
        ["list", "undecodable-\udcff"],
    ],
    ids=ascii,
)
def test_errors_never_repeat_such_characters_raw(flowmate, connected, arguments):
    ended = flowmate(*arguments)
    assert ended.code
    assert not commanding(ended.out + ended.complaint)


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1", "cp1252"])
@pytest.mark.parametrize(("command", "answer"), [COMMANDS[0], COMMANDS[-1]], ids=["users", "get"])
def test_every_terminal_can_show_it(home, command, answer, encoding):
    """What its encoding lacks is written as an escape, so that JSON stays JSON."""
    with answering(http(msgspec.json.encode(answer()))) as url:
        told = {"FLOWMATE_BASE_URL": url, "FLOWMATE_ADMIN_TOKEN": "t", "PYTHONIOENCODING": encoding}
        done = flowmate_process(*command, env=os.environ | told)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    text = done.stdout.decode(encoding.partition(":")[0])
    if "--reveal" in command:
        assert msgspec.json.decode(text)["value"]["passphrase"] == record()["data"]["value"]["passphrase"]
    if command == ["users"]:
        shown = text.splitlines()
        assert shown[0] == ("zo\\u00e9" if "ascii" in encoding else "zo\u00e9")
        assert shown[1] in ("\u20ac\U0001f511", "\u20ac\\ud83d\\udd11", "\\u20ac\\ud83d\\udd11")


@pytest.mark.parametrize("language", ["C", "nonsense"])
def test_every_language_gets_help_and_errors(home, language):
    for arguments, code in ((["sync", "--help"], 0), (["users", "--r\u00e4te"], 2)):
        told = {"LC_ALL": language, "LANG": language, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        done = flowmate_process(*arguments, env=os.environ | told)
        assert (done.returncode, b"Traceback" in done.stderr) == (code, False), done.stderr


@pytest.mark.parametrize("begins", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_piped_usernames_are_utf_8_whatever_the_terminal_is(connected, begins):
    done = flowmate_process(
        *("sync", "--users-file", "-", "--dry-run"),
        stdin=None,
        input=begins + "zo\u00e9\nb\u00e4r\nzo\u00e9\n".encode(),
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 2
    assert b"standard input, line 3: the same as line 1" in done.stderr
