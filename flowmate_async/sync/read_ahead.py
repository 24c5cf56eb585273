"""Usernames with what their last checkpoints keep: read ahead of the sweep, for many users at a time."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from flowmate_async.stores.base import Store
from flowmate_async.sync.storable import storable
from flowmate_async.sync.sweep import Usernames, each

_AHEAD = 128
"""Most usernames that wait on either side of a read."""


class _End:
    """Comes after the last username; with the error that ended them early, if one did."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class ReadAhead(AsyncIterator[tuple[str, str]]):
    """Pairs of a username and what :meth:`Store.seen` tells of it, in the order of the usernames.

    A read for each user by itself takes as long as everything else that is done for the user here: a
    thread or a network is waited for each time. So those usernames share a read that came while the last one
    was under way; one that nothing is ahead of does not wait for others. Use it as
    ``async with ReadAhead(usernames, store) as pairs``.

    Args:
        usernames: any iterable or async iterable.
        store: what is read.
    """

    def __init__(self, usernames: Usernames, store: Store) -> None:
        self._usernames = usernames
        self._store = store
        self._names: asyncio.Queue[str | _End] = asyncio.Queue(_AHEAD)
        self._pairs: asyncio.Queue[tuple[str, str] | _End] = asyncio.Queue(_AHEAD)
        self._tasks: list[asyncio.Task[None]] = []
        self._left = False

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._pull()), loop.create_task(self._read())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __anext__(self) -> tuple[str, str]:
        pair = await self._pairs.get()
        if not isinstance(pair, _End):
            return pair
        self._pairs.put_nowait(pair)  # for whoever else asks
        if pair.error is not None:
            raise pair.error
        raise StopAsyncIteration

    async def _pull(self) -> None:
        end = _End()
        try:
            async for name in each(self._usernames):
                await self._names.put(name)
        except asyncio.CancelledError:
            if self._left:
                raise
            end = _End(RuntimeError("the iterable of usernames was cancelled"))
        except Exception as error:  # noqa: BLE001 - raised again where the pairs are consumed
            end = _End(error)
        await self._names.put(end)

    async def _read(self) -> None:
        end: _End | None = None
        while end is None:
            names: list[str] = []
            name = await self._names.get()
            while not isinstance(name, _End):
                names.append(name)
                if self._names.empty():
                    break
                name = self._names.get_nowait()
            else:
                end = name
            try:
                seen = await self._store.seen([storable(name) for name in names]) if names else {}
            except Exception as error:  # noqa: BLE001 - as above
                end, names = _End(error), []
            for name in names:
                await self._pairs.put((name, seen.get(storable(name), "")))
        await self._pairs.put(end)
