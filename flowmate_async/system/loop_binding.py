"""LoopBinding: the event loop and the process to which an entered client belongs.

Connections, locks and futures belong to one event loop of one process. Used from another one (a second
``asyncio.run``, another thread, a forked child), they hang or break calls on both sides. Nothing here knows
what a client is.
"""

import asyncio
import os
from typing import NoReturn
from weakref import WeakSet

from flowmate_async.errors import ConfigurationError

_INSIDE = "Use it inside its 'async with' block"
_NOT_ENTERED = "the client is used before it is entered", _INSIDE
_CLOSED = "the client is closed", f"{_INSIDE}, or make a new one"
_FORKED = (
    "the client was entered before this process was forked",
    "Enter it after the fork, in each process: the connections are the parent's",
)
_ELSEWHERE = (
    "the client was entered on another event loop",
    "Make a client for each loop, or share a FlowMateSync between threads",
)
_NOT_ASYNCIO = "FlowMate needs asyncio", "Run it with asyncio.run(main()), not with trio"

_bound: WeakSet["LoopBinding"] = WeakSet()


class LoopBinding:
    """Where an entered client may be used.

    Attributes:
        is_forked: whether this process is a forked child of the one in which the client was entered.
    """

    __slots__ = ("__weakref__", "_loop", "_problem", "is_forked")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._problem = _NOT_ENTERED
        self.is_forked: bool = False

    def bind(self) -> None:
        """Belong to the running event loop of this process.

        Raises:
            ConfigurationError: asyncio is not running, as under trio.
        """
        loop = _running_loop()
        if loop is None:
            _refuse(_NOT_ASYNCIO)
        self._loop, self._problem = loop, _ELSEWHERE
        _bound.add(self)

    def unbind(self) -> None:
        """Belong to no loop any more."""
        self._loop, self._problem = None, _CLOSED

    def require(self) -> None:
        """Refuse to go on anywhere but on the loop and in the process where the client was entered.

        Raises:
            ConfigurationError: the client is not entered, closed, or used on another loop or after a fork.
        """
        try:
            if asyncio.get_running_loop() is self._loop:
                return
        except RuntimeError:
            pass
        _refuse(self._problem)

    def require_process(self) -> None:
        """Refuse to go on in a forked child.

        Raises:
            ConfigurationError: the client was entered before the fork.
        """
        if self.is_forked:
            _refuse(_FORKED)

    def may_close(self) -> bool:
        """Return whether the client may be closed here; not in a forked child, which shares the connections.

        Raises:
            ConfigurationError: the client was entered on another loop.
        """
        if self._loop is not None:
            self.require()
        return not self.is_forked

    def fork(self) -> None:
        """Note that this process is a forked child."""
        if self._loop is not None:
            self._loop, self._problem, self.is_forked = None, _FORKED, True


def require_asyncio() -> None:
    """Refuse to run on another library's event loop.

    Raises:
        ConfigurationError: asyncio is not running, as under trio.
    """
    if _running_loop() is None:
        _refuse(_NOT_ASYNCIO)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _refuse(problem: tuple[str, str]) -> NoReturn:
    message, advice = problem
    raise ConfigurationError(message, advice=advice)


def _forked() -> None:
    for binding in list(_bound):
        binding.fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
