"""Runs a command's coroutine on an event loop and closes the loop."""

import importlib.util
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


def run_async(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function to completion; on uvloop if it is installed."""
    return anyio.run(main, backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None})
