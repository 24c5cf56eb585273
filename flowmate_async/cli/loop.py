"""The event loop of a command: started, run to its end, closed. What runs on it is the command's business."""

import importlib.util
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


def run_async(main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function to its end; on uvloop when it is installed."""
    return anyio.run(main, backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None})
