"""What a run may leave behind: tasks, descriptors, warnings, words in a log."""

import asyncio
import gc
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NOT_THE_CLIENTS = ("aiohttp.server", "aiohttp.access")


class Leftovers:
    """Watches one run from outside of its loop.

    Attributes:
        complaints: what was warned of, what a task ended with that nobody asked for.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._log = io.StringIO()
        self._open_before: set[str] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch, with every warning an error."""
        root, handler = logging.getLogger(), _Everything(self._log)
        level, hook = root.level, sys.unraisablehook
        self._open_before = _open_descriptors()
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        sys.unraisablehook = self._note_unraisable
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                yield
                gc.collect(1)
        finally:
            sys.unraisablehook = hook
            root.setLevel(level)
            root.removeHandler(handler)

    def note_context(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def descriptors(self) -> list[str]:
        """Return what is open now and was not before."""
        return sorted(_open_descriptors() - self._open_before)

    def logged(self) -> str:
        """Everything that was logged, arguments and all."""
        return self._log.getvalue()

    def _note_unraisable(self, unraisable: Any) -> None:
        self.complaints.append(
            f"{unraisable.err_msg or 'ignored'}: {unraisable.exc_value!r} in {unraisable.object!r}"
        )


class _Everything(logging.Handler):
    def __init__(self, text: io.StringIO) -> None:
        super().__init__(logging.DEBUG)
        self._text = text

    def emit(self, record: logging.LogRecord) -> None:
        if record.name not in _NOT_THE_CLIENTS:  # the sandbox's own words; it knows every credential
            print(self.format(record), vars(record), file=self._text)


def library_tasks() -> list[str]:
    """Tasks of the client that are still there: there must be none once it is closed."""
    return [repr(task) for task in asyncio.all_tasks() if _is_the_clients(task)]


def _is_the_clients(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    filename = "" if code is None else code.co_filename.replace(os.sep, "/")
    return "/flowmate_async/" in filename and "/sandbox/" not in filename and "/tests/" not in filename


def _open_descriptors() -> set[str]:
    """Descriptors with what they are open for; empty where the system does not tell."""
    found = set()
    for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else ():  # noqa: PTH112, PTH208
        try:
            found.add(f"descriptor {name}: {os.readlink(f'/dev/fd/{name}')}")  # noqa: PTH115
        except OSError:
            continue  # the one that was open for the listing
    return found
