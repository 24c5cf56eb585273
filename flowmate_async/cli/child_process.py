"""Replaces this process by the command of ``flowmate run``.

On POSIX the process is replaced, so that signals and the exit code are the command's own. Elsewhere the
command is a child process, and its exit code is passed on. ``run_command.py`` decides what the command is
given.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from flowmate_async.cli.exits import print_error
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted

NOT_EXECUTABLE = 126
NOT_FOUND = 127

_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")


class Environment(Redacted, frozen=True):
    """A command's environment; its values are never printed."""

    variables: dict[str, str]


class Payload(Redacted, frozen=True):
    """Bytes for a command to read; never printed."""

    data: bytes


def replace_process(command: Sequence[str], environment: Environment) -> int:
    """Replace this process by a command. Return only on failure, or where the platform cannot do it.

    Args:
        command: the program and its arguments.
        environment: its whole environment.

    Returns:
        The exit code: the command's, 127 if the program does not exist, or 126 if it cannot be executed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if os.name == "posix":
            _restore_signals()
            os.execvpe(command[0], list(command), environment.variables)  # noqa: S606 - the user's own command
        return wait_for(command, environment)
    except FileNotFoundError:
        code, reason = NOT_FOUND, "there is no such program"
    except OSError as error:
        code, reason = NOT_EXECUTABLE, error.strerror or "it cannot be executed"
    print_error(f"{command[0]}: {reason}")
    return code


def wait_for(command: Sequence[str], environment: Environment) -> int:
    """Run a command as a child process and return its exit code."""
    # Ctrl-C also reaches the child, even while it is starting, and the child decides how to end.
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        signal.signal(signal.SIGINT, _left_to_the_child)
    try:
        with subprocess.Popen(list(command), env=environment.variables) as child:  # noqa: S603 - the user's own
            return child.wait()
    finally:
        if raises:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _left_to_the_child(*_: object) -> None:
    """Do nothing: unlike an ignored signal, a handled one is not ignored in the child too."""


def _restore_signals() -> None:
    """Restore the signals that Python ignores: ignored signals, unlike handled ones, survive an exec."""
    for name in _IGNORED_BY_PYTHON:
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL)


def offer(payload: Payload, *, fd: int) -> None:
    """Pass bytes to the command: a pipe whose read end is its file descriptor ``fd``.

    Args:
        payload: can be read once.
        fd: the file descriptor, 3 or above.

    Raises:
        ConfigurationError: the platform does not support this, or the bytes do not fit into a pipe.
    """
    if os.name != "posix":
        raise ConfigurationError("--fd needs POSIX", advice="Leave it out: the environment works everywhere")
    reading, writing = os.pipe()
    try:
        fits = _filled(writing, payload)
    finally:
        os.close(writing)
    if not fits:
        os.close(reading)
        raise ConfigurationError("the secret does not fit into a pipe", advice="Leave out --fd")
    _move(reading, fd)


def _filled(writing: int, payload: Payload) -> bool:
    """Write without blocking, since the command does not read before it runs."""
    os.set_blocking(writing, False)
    with suppress(OSError):
        _widen(writing, len(payload.data))
    with suppress(BlockingIOError):
        return os.write(writing, payload.data) == len(payload.data)
    return False


def _widen(writing: int, size: int) -> None:
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 - POSIX only

        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, max(size, 65536))


def _move(reading: int, fd: int) -> None:
    problem = ""
    try:
        if reading == fd:
            os.set_inheritable(fd, True)  # noqa: FBT003 - positional only
        else:
            os.dup2(reading, fd)
            os.close(reading)
    except OSError as error:
        problem = error.strerror or "it cannot be opened"
    if problem:
        raise ConfigurationError(f"file descriptor {fd}: {problem}")
