"""A sweep: a fixed number of tasks reads any number of users, with back-pressure.

A user is read in steps: the listing, then one fetch per secret. A free task takes the first of these:

1. a secret of the oldest user that has no more than its share of the tasks;
2. a new user;
3. a secret of the oldest user, whatever its share: nothing else is left to do.

So users that were begun are finished first, a large account uses the concurrency that others leave idle, and
a kill loses about as much as is in flight. Tasks do not queue for the provider of one OAuth client: while as
many of its refreshes are under way as it is given, its users are held up and others are read, until about as
many answers would be lost with them as there are tasks. A sweep stops when nobody takes its outcomes. Its
memory depends on the number of tasks and the size of the users, not on how many users there are.
"""

import asyncio
from bisect import insort
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from flowmate_async.sync.outcomes import Outcome
from flowmate_async.sync.reader import UserRead
from flowmate_async.sync.source import NoUser, UserSource
from flowmate_async.traffic.priority import set_background

T = TypeVar("T")


class SweepLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a sweep does at once.

    Attributes:
        tasks: listings and fetches.
        refreshes: fetches that may cause a refresh with one OAuth client's provider.
    """

    tasks: int
    refreshes: int


async def sweep_in_batches(
    begin: Callable[[T], Awaitable[UserRead]],
    users: Iterable[T] | AsyncIterable[T],
    *,
    limits: SweepLimits,
    stop: asyncio.Event | None = None,
    apart_seconds: float = 0.0,
) -> AsyncGenerator[list[Outcome], None]:
    """Yield outcomes in the order they come, in batches of what has come since the last one.

    Args:
        begin: lists one user; failures are outcomes.
        users: any iterable or async iterable of what ``begin`` takes.
        limits: see :class:`SweepLimits`.
        stop: when set, no further user is begun; those begun are finished.
        apart_seconds: how long after one batch the next is at the earliest, unless outcomes fill half of the
            queue, which has a place per task, or there are no more: with one or two tasks nobody waits.

    Raises:
        Exception: what the iterable of users raised.
    """
    scheduler = _Scheduler(begin, users, limits, stop=stop, apart_seconds=apart_seconds)
    try:
        while not scheduler.is_over:
            batch, crash = await scheduler.next_batch()
            if batch:
                yield batch
            if crash is not None:
                raise crash.error
    finally:
        await scheduler.aclose()


class _Crash:
    """Ends a sweep: a fault of the iterable of users, or of this library."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Scheduler(Generic[T]):
    """The tasks of one sweep, what they may do next, and the queue they fill; ``None`` in it is its end."""

    def __init__(
        self,
        begin: Callable[[T], Awaitable[UserRead]],
        users: Iterable[T] | AsyncIterable[T],
        limits: SweepLimits,
        *,
        stop: asyncio.Event | None,
        apart_seconds: float,
    ) -> None:
        self._begin = begin
        self._limits = limits
        self._share = max(1, limits.tasks // 2)
        self._source = UserSource(users, stop=stop, on_news=self._wake_one)
        self._age = 0
        self._begun = 0
        self._reads: set[UserRead] = set()
        self._ready: list[UserRead] = []
        self._refreshing: Counter[str] = Counter()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._done: asyncio.Queue[Outcome | _Crash | None] = asyncio.Queue(maxsize=limits.tasks)
        self._apart_seconds = apart_seconds
        self._enough = asyncio.Event()
        self._earliest = 0.0
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._at_work = limits.tasks
        self._tasks = [self._loop.create_task(self._work()) for _ in range(limits.tasks)]

    @property
    def is_over(self) -> bool:
        """Whether every task has ended and all outcomes are handed out."""
        return not self._at_work and self._done.empty()

    async def next_batch(self) -> tuple[list[Outcome], _Crash | None]:
        """Return what has come since the last batch: wait for the first, or for more if that was just now."""
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

    async def aclose(self) -> None:
        """End every task."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, self._source.aclose(), return_exceptions=True)
        for read in self._reads:
            read.close()

    async def _work(self) -> None:
        set_background()
        last: _Crash | None = None
        try:
            while not self._nothing_left:
                await self._step()
        except asyncio.CancelledError:
            if self._closed:
                raise
            last = _Crash(RuntimeError("the iterable of usernames was cancelled"))
        except Exception as error:  # noqa: BLE001 - raised again where the sweep is consumed
            last = _Crash(error)
        self._at_work -= 1
        self._wake_one()
        if last is not None or not self._at_work:
            await self._put(last)

    @property
    def _nothing_left(self) -> bool:
        return self._source.exhausted and not self._begun

    async def _step(self) -> None:
        """Do what is next, or wait until there may be something."""
        if (read := self._oldest(self._share)) is not None:
            await self._fetch(read)
        elif self._may_begin() and not isinstance(user := self._source.take(), NoUser):
            await self._read(user)
        elif (read := self._oldest(self._limits.tasks)) is not None:
            await self._fetch(read)
        elif not self._nothing_left:
            await self._wait()

    def _oldest(self, share: int) -> UserRead | None:
        """Return the oldest user whose next secret may be fetched now, below its share of the tasks.

        A kill would lose the answers of the users that are held up. When those are as many as there are
        tasks, nothing is begun behind them.
        """
        held_up = 0
        for read in self._ready:
            if self._is_held_up(read):
                held_up += 1 + read.answered
                if held_up >= self._limits.tasks:
                    return None
            elif read.in_flight < share:
                return read
        return None

    def _is_held_up(self, read: UserRead) -> bool:
        """Return whether its next secret has to wait for other refreshes of the same OAuth client."""
        client = read.wanted[0].client
        return client is not None and self._refreshing[client] >= self._limits.refreshes

    def _may_begin(self) -> bool:
        """Return whether few enough answers would be lost with the users that are held up."""
        held_up = sum(1 + read.answered for read in self._ready if self._is_held_up(read))
        return held_up < self._limits.tasks

    async def _read(self, user: T) -> None:
        self._begun += 1
        self._age = age = self._age + 1
        self._wake_one()
        read = await self._begin(user)
        read.age = age
        self._reads.add(read)
        await self._went_on(read)

    async def _fetch(self, read: UserRead) -> None:
        wanted = read.take()
        self._queue(read)
        self._wake_one()
        if wanted.client is not None:
            self._refreshing[wanted.client] += 1
        try:
            await read.fetch(wanted)
        finally:
            if wanted.client is not None:
                self._refreshing[wanted.client] -= 1
        await self._went_on(read)

    async def _went_on(self, read: UserRead) -> None:
        """See what is to be done for a user after a step."""
        self._queue(read)
        if read.is_done:
            self._reads.remove(read)
            outcome = read.outcome()
            self._begun -= 1
            self._wake_one()
            await self._put(outcome)

    def _queue(self, read: UserRead) -> None:
        """Have a user in the queue while another of its secrets may be fetched; a failure may end that."""
        is_ready = read.is_ready
        if is_ready and not read.is_queued:
            insort(self._ready, read, key=_age)
        elif read.is_queued and not is_ready:
            self._ready.remove(read)
        read.is_queued = is_ready

    async def _wait(self) -> None:
        waiter = self._loop.create_future()
        self._idle.append(waiter)
        await waiter

    def _wake_one(self) -> None:
        """Have an idle task look for something to do. One that finds something wakes the next."""
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _put(self, item: Outcome | _Crash | None) -> None:
        await self._done.put(item)
        if 2 * self._done.qsize() >= self._done.maxsize or not self._at_work:
            self._enough.set()  # before it is full, so that nobody has to wait for room


def _age(read: UserRead) -> int:
    return read.age
