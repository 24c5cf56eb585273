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

from flowmate_async.sync.outcomes import Outcome
from flowmate_async.traffic.priority import set_background

Usernames = Iterable[str] | AsyncIterable[str]


class _Crash:
    """A worker's unexpected end: a fault of the iterable of usernames, or of this library."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Names:
    """The usernames, handed out one by one to many workers."""

    def __init__(self, usernames: Usernames, stop: asyncio.Event | None) -> None:
        self._turn = asyncio.Lock()
        self._stop = stop
        self._names: Iterator[str] | AsyncIterator[str]
        self._names = aiter(usernames) if isinstance(usernames, AsyncIterable) else iter(usernames)

    async def pull(self) -> str | None:
        """The next username; ``None`` when there is none, or the sweep is being stopped."""
        if self._stop is not None and self._stop.is_set():
            return None
        if not isinstance(self._names, AsyncIterator):
            return next(self._names, None)
        async with self._turn:
            return await anext(self._names, None)


async def sweep_in_batches(
    read: Callable[[str], Awaitable[Outcome]],
    usernames: Usernames,
    *,
    workers: int,
    stop: asyncio.Event | None = None,
) -> AsyncGenerator[list[Outcome], None]:
    """Outcomes in the order they come, in batches of what has come since the last one.

    Args:
        read: reads one user; failures are outcomes.
        usernames: any iterable or async iterable.
        workers: users read at once.
        stop: when set, no further user is begun; those begun are finished.

    Raises:
        Exception: what the iterable of usernames raised.
    """
    names = _Names(usernames, stop)
    done: asyncio.Queue[Outcome | _Crash | None] = asyncio.Queue(maxsize=workers)

    async def work() -> None:
        set_background()
        try:
            while (username := await names.pull()) is not None:
                await done.put(await read(username))
        except Exception as error:  # noqa: BLE001 - raised again where the sweep is consumed
            await done.put(_Crash(error))
        else:
            await done.put(None)

    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(work()) for _ in range(workers)]
    try:
        working = workers
        while working:
            arrived = [await done.get()]
            while not done.empty():
                arrived.append(done.get_nowait())
            for crash in (item for item in arrived if isinstance(item, _Crash)):
                raise crash.error
            working -= sum(item is None for item in arrived)
            if batch := [item for item in arrived if item is not None and not isinstance(item, _Crash)]:
                yield batch
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
