"""A sweep: a fixed set of background workers over any number of users, with back-pressure.

Workers pull the next username only when they are free, and stop pulling when nobody takes their outcomes, so
memory depends on the number of workers and not on the number of users.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import suppress
from typing import Generic, TypeVar

from flowmate_async.errors import ConfigurationError
from flowmate_async.sync.outcomes import Outcome
from flowmate_async.traffic.priority import set_background

T = TypeVar("T")

Usernames = Iterable[str] | AsyncIterable[str]


def require_many(usernames: Usernames) -> None:
    """Refuse a single username, whose letters would be taken for users, and made users upstream.

    Args:
        usernames: what was passed for many.

    Raises:
        ConfigurationError: it is one text.
    """
    if isinstance(usernames, str | bytes):
        raise ConfigurationError("the usernames are a single text", advice='Pass a list: ["…"]')


class _Crash:
    """A worker's unexpected end: a fault of the iterable of usernames, or of this library."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _End:
    """Comes after the last username; ``None`` may be among them, by mistake, and is a user that fails."""


_END = _End()


class _Users(Generic[T]):
    """The users, handed out one by one to many workers."""

    def __init__(self, users: Iterable[T] | AsyncIterable[T], stop: asyncio.Event | None) -> None:
        self._turn = asyncio.Lock()
        self._stop = stop
        self._users: Iterator[T] | AsyncIterator[T]
        self._users = aiter(users) if isinstance(users, AsyncIterable) else iter(users)

    async def pull(self) -> T | _End:
        """The next one; the end also when the sweep is being stopped."""
        if self._is_stopped():
            return _END
        if not isinstance(self._users, AsyncIterator):
            return next(self._users, _END)
        async with self._turn:
            user = await anext(self._users, _END)
        return _END if self._is_stopped() else user

    def _is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()


async def sweep_in_batches(
    read: Callable[[T], Awaitable[Outcome]],
    users: Iterable[T] | AsyncIterable[T],
    *,
    workers: int,
    stop: asyncio.Event | None = None,
    apart_seconds: float = 0.0,
) -> AsyncGenerator[list[Outcome], None]:
    """Outcomes in the order they come, in batches of what has come since the last one.

    Args:
        read: reads one user; failures are outcomes.
        users: any iterable or async iterable, of whatever tells ``read`` who is to be read.
        workers: users read at once.
        stop: when set, no further user is begun; those begun are finished.
        apart_seconds: how long after one batch the next is at the earliest, unless outcomes fill half of the
            queue, which has a place per worker, or no worker is left: with one or two workers nobody waits.

    Raises:
        Exception: what the iterable of users raised.
    """
    crew = _Crew(read, _Users(users, stop), size=workers, apart_seconds=apart_seconds)
    try:
        while not crew.is_done():
            batch, crash = await crew.next_batch()
            if batch:
                yield batch
            if crash is not None:
                raise crash.error
    finally:
        await crew.dismiss()


class _Crew(Generic[T]):
    """The workers of one sweep, and the queue they fill; ``None`` in it is a worker that ended."""

    def __init__(
        self,
        read: Callable[[T], Awaitable[Outcome]],
        users: _Users[T],
        *,
        size: int,
        apart_seconds: float,
    ) -> None:
        self._read = read
        self._users = users
        self._done: asyncio.Queue[Outcome | _Crash | None] = asyncio.Queue(maxsize=size)
        self._apart_seconds = apart_seconds
        self._enough = asyncio.Event()
        self._earliest = 0.0
        self._dismissed = False
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._work()) for _ in range(size)]
        self._at_work = size

    def is_done(self) -> bool:
        """Whether every worker has ended and all that they brought is handed out."""
        return not self._at_work and self._done.empty()

    async def next_batch(self) -> tuple[list[Outcome], _Crash | None]:
        """All that has come since the last batch, waiting for the first, or for more if that was just now."""
        first = await self._done.get()
        if (pause := self._earliest - self._loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._enough.wait()
        self._earliest = self._loop.time() + self._apart_seconds
        self._enough.clear()
        arrived = [first]
        while not self._done.empty():
            arrived.append(self._done.get_nowait())
        crashes = [item for item in arrived if isinstance(item, _Crash)]
        outcomes = [item for item in arrived if item is not None and not isinstance(item, _Crash)]
        return outcomes, crashes[0] if crashes else None

    async def dismiss(self) -> None:
        """End every worker."""
        self._dismissed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        set_background()
        try:
            while not isinstance(user := await self._users.pull(), _End):
                await self._put(await self._read(user))
        except asyncio.CancelledError:
            if self._dismissed:
                raise
            await self._put(_Crash(RuntimeError("the iterable of usernames was cancelled")))
        except Exception as error:  # noqa: BLE001 - raised again where the sweep is consumed
            await self._put(_Crash(error))
        else:
            await self._put(None)

    async def _put(self, item: Outcome | _Crash | None) -> None:
        await self._done.put(item)
        self._at_work -= item is None
        if 2 * self._done.qsize() >= self._done.maxsize or not self._at_work:
            self._enough.set()  # before it is full, so that nobody has to wait for room


async def each(usernames: Usernames) -> AsyncIterator[str]:
    """Every username, whichever kind of iterable they come from."""
    if isinstance(usernames, AsyncIterable):
        async for name in usernames:
            yield name
    else:
        for name in usernames:
            yield name
