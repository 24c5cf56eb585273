"""The queue of users: to be handed out, with a worker, or returned from a dead worker."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

from flowmate_async.sync.source import Usernames


class WorkQueue:
    """The users of a run, a few at a time: never all in memory, and none lost with a worker."""

    def __init__(self, usernames: Usernames) -> None:
        self._source: Iterator[str] | AsyncIterator[str]
        self._source = aiter(usernames) if isinstance(usernames, AsyncIterable) else iter(usernames)
        self._returned: deque[str] = deque()
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._exhausted = False
        self._closed = False
        self._out = 0

    async def take(self, most: int) -> list[str]:
        """Return some users to read; empty when all have ended, or when no user may start any more.

        Waits while all remaining users are with other workers and may come back.

        Raises:
            Exception: what the iterable of usernames raised.
        """
        async with self._turn:
            while not self._closed:
                names = await self._next(most)
                if names or self._out == 0:
                    self._out += len(names)
                    return names
                self._changed.clear()
                await self._changed.wait()
            return []

    def ended(self, count: int) -> None:
        """Note that this many of the handed out users have ended."""
        self._out -= count
        self._changed.set()

    def give_back(self, usernames: Sequence[str]) -> None:
        """Put back the users of a dead worker."""
        self._returned.extend(usernames)
        self._out -= len(usernames)
        self._changed.set()

    def close(self) -> None:
        """Stop handing out users."""
        self._closed = True
        self._changed.set()

    async def _next(self, most: int) -> list[str]:
        names: list[str] = []
        try:
            while len(names) < most and (self._returned or not self._exhausted):
                if self._returned:
                    names.append(self._returned.popleft())
                else:
                    await self._pull_into(names)
        except BaseException:
            self._returned.extend(names)
            raise
        return names

    async def _pull_into(self, names: list[str]) -> None:
        try:
            pulled = self._source
            names.append(await anext(pulled) if isinstance(pulled, AsyncIterator) else next(pulled))
        except (StopIteration, StopAsyncIteration):
            self._exhausted = True
