"""The command line: the commands and their exit codes."""

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

from flowmate_async import __version__
from flowmate_async.cli.configuration import fill_from_file
from flowmate_async.cli.ending import Listeners, ending_of, flag_value, is_flag_given, is_sync
from flowmate_async.cli.examples import show_examples
from flowmate_async.cli.exits import (
    Exit,
    InterruptedSyncError,
    UsageError,
    exit_code,
    failure,
    print_failure,
    print_json,
    print_warning,
)
from flowmate_async.cli.log import log_json, logging_to_stderr, write_crash
from flowmate_async.cli.loop import run_async
from flowmate_async.cli.streams import prepare_streams
from flowmate_async.configuration.variables import drop_empty_variables, misspelled
from flowmate_async.errors import ConfigurationError, FlowMateError

app: App = App(
    name="flowmate",
    help="Fetch the credentials that users left in FlowMate: safely, quickly, all of them.",
    version=__version__,
    config=(fill_from_file,),
    help_epilogue="Exit codes: 0 ok, 1 some users failed, 2 usage, configuration or store, "
    "3 FlowMate unusable, 70 a bug, 130 interrupted (what was acknowledged is kept). flowmate run ends as "
    "its command does.",
)
_HELP = frozenset({"--help", "-h"})

# By name, so that a command imports only what it needs.
for _name, _where in {
    "init": "init_command:init",
    "demo": "demo_command:demo",
    "sync": "sync_command:sync",
    "users": "read_commands:users",
    "list": "read_commands:list_",
    "health": "health_command:health",
    "status": "status_command:status",
    "get": "read_commands:get",
    "run": "run_command:run",
    "store": "store_commands:store_app",
    "worker": "cluster:worker",
    "sandbox": "sandbox_command:sandbox_app",
    "bench": "bench_command:bench",
    "doctor": "doctor_command:doctor",
}.items():
    app.command(f"flowmate_async.cli.{_where}", name=_name)
app.register_install_completion_command(help="Install completion for your shell (bash, zsh, fish).")


def main() -> NoReturn:
    """Run the command in this process's arguments, and exit with its exit code."""
    prepare_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: the command line without the program's name.
    """
    drop_empty_variables()
    as_json = log_json(flag_value(arguments, "--log-format"), arguments, os.environ)
    with logging_to_stderr(as_json=as_json):
        for name, near in misspelled(os.environ):
            text = f"{name} is set, and nothing reads it. Did you mean {near}?"
            print_warning(text, event="misspelled_variable", variable=name)
        if not arguments or not _HELP.isdisjoint(arguments):
            show_examples(app)  # which imports every command
        with ending_of(arguments) as ending:
            try:
                code, error = _outcome(arguments)
            except KeyboardInterrupt:  # a second signal, while the first one was handled
                code, error = Exit.INTERRUPTED, InterruptedSyncError("interrupted")
            if error is not None and is_flag_given(arguments, "--json"):
                _print_json_error(error, code)
            if ending.listeners is None and code != Exit.OK and is_sync(arguments):  # it never began
                ending.listeners = Listeners.unparsed(arguments, os.environ)
            return ending.tell(code, error)


def _outcome(arguments: list[str]) -> tuple[int, BaseException | None]:
    """Run a command. Return its exit code, and the error that ended it, which is printed."""
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        return _ended(command, bound.args, bound.kwargs), None
    except CycloptsError as unparsable:
        chain = " ".join(("flowmate", *(unparsable.command_chain or ())))
        error: FlowMateError = UsageError(str(unparsable).removesuffix("."), advice=f"See: {chain} --help")
    except FlowMateError as raised:
        error = raised
    except KeyboardInterrupt:
        error = InterruptedSyncError("interrupted")
    except Exception as bug:  # noqa: BLE001 - a bug must not look like one of the other exit codes
        write_crash(bug)
        return Exit.CRASHED, bug
    print_failure(error)
    return exit_code(error), error


def _print_json_error(error: BaseException, code: int) -> None:
    if isinstance(error, FlowMateError):
        found = failure(error)
    else:
        message = f"{type(error).__name__}, a bug"
        found = {
            "kind": "crash",
            "message": message,
            "advice": "Please report the traceback",
            "exit_code": code,
        }
    with contextlib.suppress(ConfigurationError):  # nobody can read it, which has been said
        print_json({"error": found})


def _ended(command: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    if not inspect.iscoroutinefunction(command):
        return int(command(*args, **kwargs) or Exit.OK)  # --help and --version end without a code

    async def awaited() -> int:
        work: Coroutine[Any, Any, int] = command(*args, **kwargs)
        return int(await work)

    return run_async(awaited)
