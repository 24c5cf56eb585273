"""The flags that tell people and monitors how a sync ended, whatever ended it."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from flowmate_async.cli.exits import print_status, print_warning
from flowmate_async.cli.programs import SECONDS, words_of

if TYPE_CHECKING:
    from flowmate_async.integrations.ping import Ping

_OUTPUT_LINES = 20


@Parameter(name="*", group="Alerts")
@dataclass(frozen=True, kw_only=True)
class AlertFlags:
    """Who is told how the sync ended."""

    on_failure: Annotated[
        str | None,
        Parameter(
            env_var="FLOWMATE_ON_FAILURE",
            help="Run this program, without a shell, if the exit code is not 0. It gets JSON on its standard "
            "input, and the exit code as FLOWMATE_EXIT_CODE.",
        ),
    ] = None
    ping_url: Annotated[
        str | None,
        Parameter(
            env_var="FLOWMATE_PING_URL",
            help="Tell a monitor, as healthchecks.io: POST to URL/start, then to URL if every user was "
            "tried, or to URL/fail.",
        ),
    ] = field(default=None, repr=False)

    def ping(self) -> "Ping | None":
        """Return the monitor.

        Raises:
            ConfigurationError: the URL is invalid.
        """
        if self.ping_url is None:
            return None
        from flowmate_async.integrations.ping import Ping  # noqa: PLC0415 - for few

        return Ping(self.ping_url)

    def command(self) -> list[str] | None:
        """Return the program to run on failure, and its arguments.

        Raises:
            ConfigurationError: it is empty, or its quotes are unbalanced.
        """
        return None if self.on_failure is None else words_of(self.on_failure, flag="--on-failure")


def run_on_failure(command: list[str], about: Mapping[str, object]) -> None:
    """Run a program after a failed sync. That it fails is printed, and changes nothing.

    Args:
        command: the program and its arguments.
        about: how the sync ended, for its standard input.
    """
    try:
        done = subprocess.run(  # noqa: S603 - the user's own
            command,
            input=msgspec.json.encode(about) + b"\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
            env=os.environ | {"FLOWMATE_EXIT_CODE": str(about["exit_code"])},
        )
    except subprocess.TimeoutExpired:
        problem = f"it took more than {SECONDS:.0f} s"
    except OSError as error:
        problem = f"it cannot be run: {error.strerror}"
    else:
        problem = f"it ended with {done.returncode}" if done.returncode else ""
        for line in done.stdout.decode(errors="replace").splitlines()[:_OUTPUT_LINES]:
            print_status(line, event="on_failure_output")
    if problem:
        print_warning(f"the command of --on-failure failed: {problem}", event="on_failure_failed")
