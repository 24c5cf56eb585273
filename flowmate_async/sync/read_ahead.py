"""Usernames with what a store has kept of them: read ahead of the sweep, for many users at a time."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import ClassVar, Self

from flowmate_async.redaction import Redacted
from flowmate_async.stores.base import Store
from flowmate_async.stores.kept_tokens import require_keeper
from flowmate_async.sync.source import Usernames, each
from flowmate_async.sync.usernames import storable
from flowmate_async.values.models import KeptToken

_AHEAD = 128
"""Most usernames that wait on either side of a read."""


class _End:
    """Comes after the last username; with the error that ended them early, if one did."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class Known(Redacted, frozen=True):
    """A user, and what the store has kept.

    Attributes:
        username: the user.
        seen: what :meth:`Store.seen` tells.
        token: the user's token, if tokens are kept and theirs is.
    """

    username: str
    seen: str = ""
    token: KeptToken | None = None

    __shown__: ClassVar[tuple[str, ...]] = ("username",)


class ReadAhead(AsyncIterator[Known]):
    """What a store has kept of each user, in the order of the usernames.

    A read for each user by itself takes as long as everything else that is done for the user here: a
    thread or a network is waited for each time. So those usernames share a read that came while the last one
    was under way; one that nothing is ahead of does not wait for others. Use it as
    ``async with ReadAhead(usernames, store) as users``.

    Args:
        usernames: any iterable or async iterable.
        store: what is read.
        tokens: whether to read the tokens as well.

    Raises:
        ConfigurationError: the store keeps none.
    """

    def __init__(self, usernames: Usernames, store: Store, *, tokens: bool = False) -> None:
        self._usernames = usernames
        self._store = store
        self._keeper = require_keeper(store) if tokens else None
        self._names: asyncio.Queue[str | _End] = asyncio.Queue(_AHEAD)
        self._users: asyncio.Queue[Known | _End] = asyncio.Queue(_AHEAD)
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

    async def __anext__(self) -> Known:
        user = await self._users.get()
        if not isinstance(user, _End):
            return user
        self._users.put_nowait(user)  # for whoever else asks
        if user.error is not None:
            raise user.error
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
        except Exception as error:  # noqa: BLE001 - raised again where the users are consumed
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
            users: list[Known] = []
            try:
                users = await self._known(names) if names else []
            except Exception as error:  # noqa: BLE001 - as above
                end = _End(error)
            for user in users:
                await self._users.put(user)
        await self._users.put(end)

    async def _known(self, names: list[str]) -> list[Known]:
        stored = [storable(name) for name in names]
        seen = await self._store.seen(stored)
        if self._keeper is None:
            return [Known(name, seen.get(key, "")) for name, key in zip(names, stored, strict=True)]
        tokens = await self._keeper.kept_tokens(stored)
        return [
            # What a store has to call otherwise may be somebody else's name there.
            Known(name, seen.get(key, ""), tokens.get(key) if key == name else None)
            for name, key in zip(names, stored, strict=True)
        ]
