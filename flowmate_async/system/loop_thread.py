"""An event loop in a thread of its own: calls and streams for threads without a loop, and Ctrl-C.

The loop is that of anyio's blocking portal. The portal's own calls wait for the loop when they start; if
interrupted then, they would be abandoned. So calls are started here. Nothing here knows what a client is.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from flowmate_async.errors import ConfigurationError
from flowmate_async.system.loop_binding import LoopBinding

T = TypeVar("T")

_CLEAN_UP_SECONDS = 10.0
_SIGNAL_SECONDS = 0.5


class Job(Generic[T]):
    """A call in the event loop's thread. The thread that waits for it never abandons it.

    It is created first and started inside a ``try``, since Ctrl-C may interrupt between any two steps.
    """

    def __init__(self, loop: "LoopThread", function: Callable[..., Awaitable[T]], *args: Any) -> None:
        self._loop = loop
        self._function = function
        self._args = args
        self._task: asyncio.Task[T] | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Start the call without waiting."""
        if self._loop.is_running_here():
            raise RuntimeError("FlowMateSync was called from its own event loop, which would wait for itself")
        self._loop.soon(self._begin)

    def result(self) -> T:
        """Wait for the result."""
        # Python checks for signals before it blocks; a signal between the two would not be noticed.
        while not self._ended.wait(_SIGNAL_SECONDS):
            pass
        try:
            return cast("asyncio.Task[T]", self._task).result()
        except asyncio.CancelledError:
            # Callers would take it for their own cancellation, and no "except Exception" would catch it.
            raise ConfigurationError("the client was closed before the answer came") from None

    def run(self) -> T:
        """Start the call and wait for the result. Cancel the call if the wait is interrupted."""
        try:
            self.start()
            return self.result()
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel the call, and wait until it has cleaned up."""
        # The loop has ended with all its tasks; or this is a forked child, and the loop is the parent's.
        with suppress(RuntimeError, ConfigurationError):
            self._loop.soon(self._cancel)
            if not self._loop.is_running_here():
                self._ended.wait(_CLEAN_UP_SECONDS)

    def _begin(self) -> None:
        self._task = self._loop.create_task(_awaited(self._function, self._args))
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is None:
            self._ended.set()  # it was never started
        else:
            self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled():
            task.exception()  # mark it as retrieved, even if no thread waits any more
        self._ended.set()


class LoopThread:
    """The event loop of a thread, and the tasks running there. It is made in that thread."""

    def __init__(self) -> None:
        self._binding = LoopBinding()
        self._binding.bind()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[Any]] = set()

    def is_running_here(self) -> bool:
        """Return whether the caller is in the loop's own thread, where nothing may wait for the loop."""
        return threading.get_ident() == self._thread

    @property
    def is_forked(self) -> bool:
        """Whether this process is a forked child, which has no thread for the loop."""
        return self._binding.is_forked

    def soon(self, callback: Callable[[], None]) -> None:
        """Schedule a callback in the loop's thread, in order. May be called from any other thread.

        Raises:
            ConfigurationError: this process was forked after the loop was started.
        """
        self._binding.require_process()
        self._loop.call_soon_threadsafe(callback)

    def create_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that does not outlive the client."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Cancel all running tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _awaited(function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    return await function(*args)


def streamed(loop: LoopThread, source: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
    """Yield the items of an async iterator. One task reads it, no faster than they are consumed."""
    send, receive = anyio.create_memory_object_stream[T](0)
    pump = Job(loop, _pump, source, send, receive)
    try:
        pump.start()
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                yield Job(loop, receive.receive).run()
        pump.result()
    finally:
        pump.cancel()


async def _pump(
    source: Callable[[], AsyncIterator[T]],
    send: MemoryObjectSendStream[T],
    receive: MemoryObjectReceiveStream[T],
) -> None:
    # Iterators of the client are async generators, and the task that ran one must close it.
    items = cast("AsyncGenerator[T, None]", source())
    with send, receive:
        async with aclosing(items):
            async for item in items:
                await send.send(item)
