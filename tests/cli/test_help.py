"""What a terminal gets: help with examples that work, completion, colours only where they are wanted."""

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time

import pytest

import flowmate_async
from flowmate_async.cli.app import app, run
from flowmate_async.cli.examples import examples

from .conftest import FLOWMATE

COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7])m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def leaves(under=app, path=()):
    """Every command that does something, by its path."""
    for name in under:
        if not name.startswith("-"):
            command = under[name]
            if command.default_command is not None:
                yield (*path, name), command
            yield from leaves(command, (*path, name))


COMMANDS = dict(leaves())
EXAMPLES = [line for command in COMMANDS.values() for line in examples(command.default_command)]


def on_a_terminal(*arguments, columns=100, **env):
    """What a command prints on a terminal of so many columns."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*FLOWMATE, *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **env},
    )
    os.close(child)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([parent], [], [], 0.1)[0]:
            try:
                shown += os.read(parent, 65536)
            except OSError:  # the other end has gone
                break
    os.close(parent)
    assert process.wait(timeout=30) == 0, shown
    return shown


class TestHelp:
    @pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
    def test_every_command_shows_examples(self, path, capsys):
        assert run([*path, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        lines = examples(COMMANDS[path].default_command)
        assert lines, "it has none"
        for line in lines:
            assert " ".join(line.split())[:40] in shown

    @pytest.mark.parametrize("line", EXAMPLES)
    def test_every_example_is_understood(self, line, home):
        words = shlex.split(re.split(r" > | & ?$", line)[0])
        settings = [word for word in words if re.match(r"FLOWMATE_\w+=", word)]
        program, *arguments = words[len(settings) :]
        assert program == "flowmate"
        _, _, unused = app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert not unused

    def test_the_version_is_the_packages(self, flowmate):
        ended = flowmate("--version")
        assert (ended.code, ended.out.strip()) == (0, flowmate_async.__version__)

    def test_help_names_the_exit_codes(self, flowmate):
        assert "130 interrupted" in " ".join(flowmate("--help").out.split())


class TestCompletion:
    def complete(self, script, *words):
        typed = " ".join(shlex.quote(word) for word in ("flowmate", *words))
        ask = (
            f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; "
            'cur="${COMP_WORDS[COMP_CWORD]}"; _flowmate; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.split()

    def test_bash_completes_commands_and_flags(self, tmp_path):
        script = tmp_path / "flowmate.bash"
        script.write_text(app.generate_completion(shell="bash"))
        assert self.complete(script, "sy") == ["sync"]
        assert "doctor" in self.complete(script, "")
        assert "--users-file" in self.complete(script, "sync", "--us")
        assert "verify" in self.complete(script, "store", "ve")

    @pytest.mark.parametrize("shell", ["zsh", "fish"])
    def test_other_shells_get_a_script_too(self, shell):
        assert "flowmate" in app.generate_completion(shell=shell)


class TestTerminal:
    def test_colours_are_for_terminals_and_not_for_who_wants_none(self, connected):
        arguments = ("doctor", "--probe", "0")
        assert COLOUR.search(on_a_terminal(*arguments))
        assert not COLOUR.search(on_a_terminal(*arguments, NO_COLOR="1"))
        piped = subprocess.run([*FLOWMATE, *arguments], capture_output=True, check=True)
        assert b"\x1b" not in piped.stdout + piped.stderr

    def test_progress_without_colour(self, connected):
        shown = on_a_terminal("sync", "--all-users", NO_COLOR="1")
        assert b"12/12" in shown
        assert not COLOUR.search(shown)

    @pytest.mark.parametrize("columns", [30, 50, 100])
    def test_progress_fits_a_narrow_terminal(self, connected, columns):
        shown = on_a_terminal("sync", "--all-users", columns=columns).decode()
        lines = [CONTROL.sub("", line) for line in re.split(r"[\r\n]+", shown) if "users" in line]
        progress = [line for line in lines if "/12" in line]
        assert progress
        assert all(len(line.rstrip()) <= columns for line in progress)
        assert "12/12" in progress[-1]

    def test_help_fits_a_narrow_terminal(self):
        shown = on_a_terminal("sync", "--help", columns=50).decode()
        assert max(len(CONTROL.sub("", line)) for line in shown.splitlines()) <= 50


def test_where_the_loop_has_no_signal_handlers_the_twin_still_runs_and_ends(tmp_path):
    """As on Windows: Ctrl-C ends it."""
    code = (
        "import asyncio, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        "from flowmate_async.cli.app import run\n"
        "def none(*_): raise NotImplementedError\n"
        "asyncio.SelectorEventLoop.add_signal_handler = none\n"
        "import flowmate_async.cli.loop as loop\n"
        "loop.importlib.util.find_spec = lambda name: None\n"
        "sys.exit(run(['sandbox', '--users', '1']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().startswith("FLOWMATE_BASE_URL=")
        assert process.stderr.readline().startswith("A twin of FlowMate")
        process.send_signal(2)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in err
    assert process.returncode in (0, 130)


def test_a_command_imports_nothing_of_the_others(home):
    """Which would take as long again as the command itself."""
    script = "import sys; from flowmate_async.cli.app import run; run(['users']); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "no admin token" in ended.stderr, "it came to what the command does"
    others = {
        f"flowmate_async.{room}" for room in ("bench", "sandbox", "workers", "distributed", "reporting")
    }
    assert not others & set(ended.stdout.split())
