"""The users of a sweep, handed out one by one."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from flowmate_async.engine.priority import set_background
from flowmate_async.errors import ConfigurationError

T = TypeVar("T")

Usernames = Iterable[str] | AsyncIterable[str]


class NoUser:
    """A sentinel for "no user now"; ``None`` cannot be used, since it may be among the users by mistake."""


NO_USER = NoUser()


class InBatches(AsyncIterable[T]):
    """Users that arrive in batches: a :class:`UserSource` takes a whole batch with one wake-up.

    Args:
        batches: the users; the caller closes it.
        ahead: the next batch is read as soon as fewer users than this wait.
    """

    def __init__(self, batches: AsyncIterator[Sequence[T]], *, ahead: int) -> None:
        self.batches: AsyncIterator[Sequence[T]] = batches
        self.ahead: int = ahead

    async def __aiter__(self) -> AsyncIterator[T]:
        async for batch in self.batches:
            for user in batch:
                yield user


class UserSource(Generic[T]):
    """The users of any iterable. An async iterable is read by a task, no further ahead than ``ahead``.

    Args:
        users: the users.
        stop: when set, no further user is handed out.
        on_news: called when :meth:`take` may have a user to return, or there are no more.
        ahead: how many users of an async iterable may wait.

    Attributes:
        exhausted: whether there are no more users.
    """

    def __init__(
        self,
        users: Iterable[T] | AsyncIterable[T],
        *,
        stop: asyncio.Event | None = None,
        on_news: Callable[[], object],
        ahead: int = 1,
    ) -> None:
        self.exhausted: bool = False
        self._stop = stop
        self._on_news = on_news
        self._ahead = users.ahead if isinstance(users, InBatches) else ahead
        self._users: Iterator[T] | None = None
        self._arrived: deque[T] = deque()
        self._taken = asyncio.Event()
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        if isinstance(users, AsyncIterable):
            self._task = asyncio.get_running_loop().create_task(self._pull(users))
        else:
            self._users = iter(users)

    def take(self) -> T | NoUser:
        """Return the next user, or a :class:`NoUser` if none is available now.

        Raises:
            Exception: what the iterable raised.
        """
        if self._stop is not None and self._stop.is_set():
            self.exhausted = True
        if self.exhausted:
            return NO_USER
        if self._users is not None:
            user = next(self._users, NO_USER)
            self.exhausted = isinstance(user, NoUser)
            return user
        if self._arrived:
            if len(self._arrived) <= self._ahead:
                self._taken.set()
            return self._arrived.popleft()
        if self._error is not None:
            raise self._error
        self.exhausted = self._task is None
        return NO_USER

    def take_many(self, most: int) -> list[T]:
        """Return up to ``most`` users that are available now.

        Raises:
            Exception: what the iterable raised, once the users before it were returned.
        """
        taken: list[T] = []
        while len(taken) < most:
            try:
                user = self.take()
            except Exception as error:
                if not taken:
                    raise
                self._users, self._error = None, error
                break
            if isinstance(user, NoUser):
                break
            taken.append(user)
        return taken

    async def aclose(self) -> None:
        """Stop reading the iterable."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _pull(self, users: AsyncIterable[T]) -> None:
        set_background()
        try:
            if isinstance(users, InBatches):
                async for batch in users.batches:
                    await self._put(batch)
            else:
                async for user in users:
                    await self._put((user,))
        except asyncio.CancelledError:
            if self._closed:
                raise
            self._error = RuntimeError("the iterable of usernames was cancelled")
        except Exception as error:  # noqa: BLE001 - raised where a user is taken
            self._error = error
        self._task = None
        self._on_news()

    async def _put(self, users: Sequence[T]) -> None:
        """Queue these users. Return once the next one may be read."""
        self._arrived.extend(users)
        self._on_news()
        while len(self._arrived) >= self._ahead:
            self._taken.clear()
            await self._taken.wait()


def require_many(usernames: Usernames) -> None:
    """Refuse a single username. Its letters would be taken for usernames and create users upstream.

    Raises:
        ConfigurationError: it is a string.
    """
    if isinstance(usernames, str | bytes):
        raise ConfigurationError("the usernames are a single text", advice='Pass a list: ["…"]')


async def iterate(usernames: Usernames) -> AsyncIterator[str]:
    """Yield every username, from any kind of iterable."""
    if isinstance(usernames, AsyncIterable):
        async for name in usernames:
            yield name
    else:
        for name in usernames:
            yield name
