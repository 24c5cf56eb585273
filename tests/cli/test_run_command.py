"""``flowmate run``: the command gets the credential and nothing of FlowMate's, and ends as it likes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from flowmate_async import ConfigurationError, decode_secret
from flowmate_async.cli.child_process import Environment, Payload, offer, wait_for
from flowmate_async.cli.run_command import NAMES, credential_variables

from .conftest import FLOWMATE, Twin

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are replaced on POSIX only")

SHOW = "import os, json; print(json.dumps({'environ': dict(os.environ), 'pid': os.getpid()}))"
OAUTH = "OA2_AUTHORIZATION_CODE"


def some(twin: Twin, kind: str) -> tuple[str, str, dict]:
    """A user, the id and the value of a secret of his."""
    return next((user, id_, value) for (user, id_), (type_, value) in twin.truth().items() if type_ == kind)


def running(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*FLOWMATE, "run", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def ended(*arguments: str, **options) -> tuple[int, str, str]:
    with running(*arguments, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_command_finds_the_credential_and_nothing_of_flowmates(connected, monkeypatch):
    user, id_, value = some(connected, "API_KEY")
    monkeypatch.setenv("CREDENTIAL_PASSPHRASE", "somebody else's")
    monkeypatch.setenv("FLOWMATE_ANYTHING", "ours")
    monkeypatch.setenv("UNTOUCHED", "yes")
    with running(user, id_, "--", sys.executable, "-c", SHOW) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    shown = msgspec.json.decode(out)
    environ = shown["environ"]
    assert environ["CREDENTIAL_TYPE"] == "API_KEY"
    assert environ["CREDENTIAL_KEY"] == value["key"]
    assert environ["CREDENTIAL_HEADER_NAME"] == value.get("headerName", "")
    assert environ["CREDENTIAL_EXPIRES_AT"] == ""
    assert environ["UNTOUCHED"] == "yes"
    assert "CREDENTIAL_PASSPHRASE" not in environ
    assert [name for name in environ if name.startswith("FLOWMATE_")] == []
    assert connected.admin_token not in out
    assert shown["pid"] == process.pid  # it has replaced flowmate: signals and exit code are its own


def test_every_argument_after_the_dashes_is_the_commands(connected):
    user, id_, _ = some(connected, OAUTH)
    arguments = ["--help", "--rate=7", "-v", "--", "", "[1, 2]", "--version", "@file", "a b", "--fd", "9"]
    show = "import sys, json; print(json.dumps([sys.argv[1:], open('/proc/self/cmdline').read()]))"
    code, out, err = ended("--min-valid", "1", user, id_, "--", sys.executable, "-c", show, *arguments)
    assert (code, err) == (0, "")
    argv, cmdline = msgspec.json.decode(out)
    assert argv == arguments
    assert cmdline.split("\0")[:-1] == [sys.executable, "-c", show, *arguments]


def test_its_exit_code_is_the_commands(connected):
    user, id_, _ = some(connected, OAUTH)
    assert ended(user, id_, "--", "sh", "-c", "exit 7") == (7, "", "")


def test_its_death_by_a_signal_is_the_commands(connected):
    user, id_, _ = some(connected, OAUTH)
    assert ended(user, id_, "--", "sh", "-c", "kill -TERM $$") == (-signal.SIGTERM, "", "")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_with_a_file_descriptor_the_environment_has_nothing(connected):
    user, id_, value = some(connected, OAUTH)
    script = (
        "import os, json; fds = os.listdir('/proc/self/fd'); secret = json.load(os.fdopen(7));"
        "environ = open('/proc/self/environ').read();"
        "print(json.dumps({'fds': fds, 'secret': secret, 'environ': environ}))"
    )
    code, out, err = ended("--fd", "7", user, id_, "--", sys.executable, "-c", script)
    assert (code, err) == (0, "")
    shown = msgspec.json.decode(out)
    assert shown["secret"]["value"]["accessToken"] == value["accessToken"]
    assert shown["secret"]["type"] == OAUTH
    assert sorted(shown["fds"]) == ["0", "1", "2", "3", "7"]  # 3 is the listing's own
    assert value["accessToken"] not in shown["environ"]
    assert "CREDENTIAL_" not in shown["environ"]
    assert connected.admin_token not in shown["environ"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_command_does_not_inherit_the_signals_that_python_ignores(connected):
    user, id_, _ = some(connected, OAUTH)
    code, out, _ = ended(user, id_, "--", "grep", "SigIgn", "/proc/self/status")
    ignored = int(out.split()[1], 16)
    assert code == 0
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))


def test_a_command_that_does_not_exist_ends_with_127(connected):
    user, id_, _ = some(connected, OAUTH)
    assert ended(user, id_, "--", "no-such-program", "-x") == (
        127,
        "",
        "flowmate: no-such-program: there is no such program\n",
    )


def test_a_command_that_cannot_be_executed_ends_with_126(connected, home):
    user, id_, _ = some(connected, OAUTH)
    (home / "notes.txt").write_text("no program")
    code, out, err = ended(user, id_, "--", "./notes.txt")
    assert (code, out) == (126, "")
    assert err == "flowmate: ./notes.txt: Permission denied\n"


def test_without_a_valid_credential_the_command_is_not_run(connected, home):
    user, id_, _ = some(connected, OAUTH)
    code, out, err = ended("--min-valid", "1e9", user, id_, "--", "touch", "was-run")
    assert (code, out) == (1, "")
    assert err.startswith("flowmate: upstream's newest credential is valid for")
    assert not Path("was-run").exists()


def test_the_first_file_descriptor_that_is_free_can_be_used(connected):
    user, id_, value = some(connected, "API_KEY")
    script = "import os, json; print(json.load(os.fdopen(3))['value']['key'])"
    code, out, _ = ended("--fd", "3", user, id_, "--", sys.executable, "-c", script)
    assert (code, out) == (0, f"{value['key']}\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["u", "s"], "no command"),
        *((["--fd", str(fd), "u", "s", "--", "ls"], "--fd must be 3") for fd in (0, 1, 2)),
        (["--fd=-1", "u", "s", "--", "ls"], "--fd must be 3"),
        (["u"], "SECRET"),
    ],
)
def test_a_mistake_is_a_usage_error(flowmate, connected, arguments, complaint):
    done = flowmate("run", *arguments)
    assert done.code == 2
    assert complaint.lower() in done.complaint.lower()


def secret_of(kind: str, value: object) -> object:
    return decode_secret(msgspec.json.encode({"_id": "6" * 24, "type": kind, "value": value}))


@pytest.mark.parametrize(
    ("kind", "value", "variables"),
    [
        ("SIMPLE", {"username": "u", "passphrase": "p"}, {"USERNAME": "u", "PASSPHRASE": "p"}),
        ("API_KEY", {"key": "k"}, {"KEY": "k"}),
        ("API_KEY", {"key": "k", "headerName": "X-K"}, {"KEY": "k", "HEADER_NAME": "X-K"}),
        (OAUTH, {"accessToken": "a", "scope": "s"}, {"ACCESS_TOKEN": "a"}),
        ("SESSION_AUTH", {"accessToken": "a", "expires": None}, {"ACCESS_TOKEN": "a"}),
        ("MIXED", {"payload": "line\nline"}, {"PAYLOAD": "line\nline"}),
        (
            "OA1_THREE_LEGGED",
            {"accessToken": "a", "accessTokenSecret": "s"},
            {"ACCESS_TOKEN": "a", "ACCESS_TOKEN_SECRET": "s"},
        ),
        ("NEW_TYPE", {"PATH": "/evil"}, {"VALUE": '{"PATH":"/evil"}'}),
        ("API_KEY", {"key": "k", "LD_PRELOAD": "/evil.so"}, {"KEY": "k"}),
    ],
)
def test_variables_have_fixed_names_whatever_upstream_says(kind, value, variables):
    expected = {f"CREDENTIAL_{name}": text for name, text in variables.items()}
    found = credential_variables(secret_of(kind, value)).variables
    assert found == expected | {"CREDENTIAL_TYPE": kind, "CREDENTIAL_EXPIRES_AT": ""}
    assert found.keys() <= NAMES


def test_an_expiry_is_given_as_iso():
    secret = secret_of(OAUTH, {"accessToken": "a", "expires": "2026-11-23T17:24:11Z"})
    assert credential_variables(secret).variables["CREDENTIAL_EXPIRES_AT"] == "2026-11-23T17:24:11+00:00"


@pytest.mark.parametrize("letter", ["\0", "\ud800"])
def test_a_value_that_no_environment_can_carry_is_an_error_without_the_value(letter, exposed):
    secret = msgspec.structs.replace(secret_of("MIXED", {"payload": "x"}))
    secret = msgspec.structs.replace(
        secret, value=msgspec.structs.replace(secret.value, payload=f"sesame{letter}open")
    )
    with pytest.raises(ConfigurationError, match="CREDENTIAL_PAYLOAD would hold") as caught:
        credential_variables(secret)
    assert "sesame" not in exposed(caught.value)


def test_an_environment_does_not_show_its_values():
    assert "sesame" not in repr(Environment({"A": "sesame"})) + repr(Payload(b"sesame"))


def test_the_descriptor_is_passed_on_even_if_the_pipe_happens_to_have_it():
    free = os.dup(0)
    os.close(free)  # the lowest free one, which a pipe's reading end gets
    offer(Payload(b"data"), fd=free)
    assert os.get_inheritable(free)
    with os.fdopen(free, "rb") as reading:
        assert reading.read() == b"data"


@pytest.mark.skipif(sys.platform != "linux", reason="pipes can be widened on Linux only")
def test_a_large_secret_fits_through_the_pipe():
    fd = os.dup(0)
    data = b"x" * 500_000
    offer(Payload(data), fd=fd)
    with os.fdopen(fd, "rb") as reading:
        assert reading.read() == data


def test_a_secret_too_large_for_a_pipe_is_an_error_and_leaves_nothing_open(exposed):
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(ConfigurationError, match="does not fit") as caught:
        offer(Payload(b"sesame" * 2**20), fd=63)
    assert "sesame" not in exposed(caught.value)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_where_a_process_cannot_be_replaced_the_exit_code_is_passed_on():
    assert wait_for([sys.executable, "-c", "raise SystemExit(5)"], Environment(dict(os.environ))) == 5


def test_where_a_process_cannot_be_replaced_ctrl_c_is_left_to_the_command():
    code = "import os, signal; os.kill(os.getppid(), signal.SIGINT); raise SystemExit(6)"
    assert wait_for([sys.executable, "-c", code], Environment(dict(os.environ))) == 6


def test_where_no_process_is_replaced_ctrl_c_goes_to_the_command(monkeypatch):
    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert wait_for([sys.executable, "-c", "raise SystemExit(6)"], Environment(dict(os.environ))) == 6
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
