"""A sweep: read any number of users with a fixed number of concurrent steps and with back-pressure.

A user is read in steps: the listing, then one fetch per secret. When a step has ended, the next one is the
first available of these:

1. a secret of the oldest user that has not used up its share of the steps;
2. a new user;
3. a secret of the oldest user, whatever its share.

So started users are finished first, a large account uses the concurrency that others leave idle, and a kill
loses about as much as is in flight. Steps do not queue for the provider of one OAuth client. While it has its
maximum of refreshes in flight, its users are held up and others are read, until a kill would lose about as
many answers of held-up users as there are steps. A sweep stops when its outcomes are not consumed. Its memory
depends on the number of steps and the size of the users, not on the number of users.
"""

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import suppress
from contextvars import copy_context
from typing import Generic, TypeVar

import msgspec

from flowmate_async.sync.outcomes import Outcome
from flowmate_async.sync.reader import UserRead
from flowmate_async.sync.source import NoUser, UserSource

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
    read: Callable[[T], UserRead],
    users: Iterable[T] | AsyncIterable[T],
    *,
    limits: SweepLimits,
    stop: asyncio.Event | None = None,
    apart_seconds: float = 0.0,
) -> AsyncGenerator[list[Outcome], None]:
    """Yield outcomes in the order they come, in batches of all that have come since the last one.

    Args:
        read: creates a :class:`UserRead` for one user.
        users: any iterable or async iterable of what ``read`` takes.
        limits: see :class:`SweepLimits`.
        stop: when set, no further user is started; started ones are finished.
        apart_seconds: minimum time between batches, unless as many outcomes have come as half the number of
            steps, or there are no more. With one or two steps it does not wait.

    Raises:
        Exception: what the iterable of users raised.
    """
    sweep = _Sweep(read, users, limits, stop=stop, apart_seconds=apart_seconds)
    try:
        sweep.advance()
        while batch := await sweep.next_batch():
            yield batch
        if sweep.crash is not None:
            raise sweep.crash
    finally:
        await sweep.aclose()


class _Sweep(Generic[T]):
    """The state of one sweep: its users, the next steps, and the outcomes not consumed yet.

    Attributes:
        crash: the exception that ended it early: from the iterable of users, or a bug of this library.
    """

    def __init__(
        self,
        read: Callable[[T], UserRead],
        users: Iterable[T] | AsyncIterable[T],
        limits: SweepLimits,
        *,
        stop: asyncio.Event | None,
        apart_seconds: float,
    ) -> None:
        self._read = read
        self._limits = limits
        self._share = max(1, limits.tasks // 2)
        self._source = UserSource(users, stop=stop, on_news=self.advance)
        self._age = 0
        self._steps = 0
        self._reads: set[UserRead] = set()
        self._ready: list[UserRead] = []
        self._refreshing: Counter[str] = Counter()
        self._done: list[Outcome] = []
        self._apart_seconds = apart_seconds
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._earliest = 0.0
        self._advancing = self._advance_is_due = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # listeners see that of the sweep, whichever answer starts a step
        self.crash: Exception | None = None

    async def next_batch(self) -> list[Outcome]:
        """Return the outcomes since the last batch. Wait for the first, or for more if that batch is recent.

        Returns:
            An empty list when the sweep is over.
        """
        while not self._done and not self._is_over:
            self._some.clear()
            await self._some.wait()
        if (pause := self._earliest - self._loop.time()) > 0 and not self._is_over:
            self._enough.clear()
            if 2 * len(self._done) < self._limits.tasks:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._enough.wait()
        self._earliest = self._loop.time() + self._apart_seconds
        batch, self._done = self._done, []
        self.advance()
        return batch

    async def aclose(self) -> None:
        """Cancel everything in progress."""
        self._closed = True
        for read in self._reads:
            read.close()
        await self._source.aclose()

    def advance(self) -> None:
        """Start steps until the limit is reached, or there is nothing to do now."""
        if self._advancing:
            return  # a step ended while it was being started; the loop below continues
        self._advancing = True
        try:
            while self._steps < self._limits.tasks and not self._closed and self.crash is None:
                if not self._step():
                    break
        except Exception as error:  # noqa: BLE001 - raised again where the sweep is consumed
            self._crashed(error)
        finally:
            self._advancing = False
        if not self._reads and self._is_over:
            self._wake()

    @property
    def _is_over(self) -> bool:
        return self.crash is not None or (self._source.exhausted and not self._reads)

    def _step(self) -> bool:
        """Start the next step, or several of one user. Return whether there was one."""
        if self._ready and (read := self._oldest(self._share)) is not None:
            self._fetch(read, self._share)
        elif self._may_begin() and not isinstance(user := self._source.take(), NoUser):
            self._begin(user)
        elif self._ready and (read := self._oldest(self._limits.tasks)) is not None:
            self._fetch(read, self._limits.tasks)
        else:
            return False
        return True

    def _oldest(self, share: int) -> UserRead | None:
        """Return the oldest user whose next secret may be fetched now, below its share of the steps.

        A kill would lose the answers of held-up users. When these are as many as there are steps, nothing is
        started behind them.
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
        """Return whether a new user may be started.

        It may not if outcomes are not consumed, or if a kill would lose too many answers of held-up users.
        """
        if len(self._done) >= self._limits.tasks:
            return False
        if not self._ready:
            return True
        held_up = sum(1 + read.answered for read in self._ready if self._is_held_up(read))
        return held_up < self._limits.tasks

    def _begin(self, user: T) -> None:
        self._age += 1
        self._steps += 1
        read = self._read(user)
        read.age, read.on_step, read.on_crash = self._age, self._stepped, self._crashed
        self._reads.add(read)
        read.begin()

    def _fetch(self, read: UserRead, share: int) -> None:
        """Fetch secrets of one user, up to its share of the steps."""
        now = read.now()
        while True:
            wanted = read.take()
            self._steps += 1
            if wanted.client is not None:
                self._refreshing[wanted.client] += 1
            read.fetch(wanted, now)
            if (
                not read.is_ready
                or read.in_flight >= share
                or self._steps >= self._limits.tasks
                or self._is_held_up(read)
                or self.crash is not None
            ):
                break
        self._queue(read)

    def _stepped(self, read: UserRead, client: str | None) -> None:
        """Decide what to do after a step."""
        if self._closed:
            return
        self._steps -= 1
        if client is not None:
            self._refreshing[client] -= 1
        if read.wanted or read.is_queued:
            self._queue(read)
        if read.is_done:
            self._reads.remove(read)
            self._done.append(read.outcome())
            self._wake()
        if not self._advancing and not self._advance_is_due:
            self._advance_is_due = True
            read.when_handled(self._advance_once)

    def _advance_once(self) -> None:
        self._advance_is_due = False
        self._context.run(self.advance)

    def _queue(self, read: UserRead) -> None:
        """Queue a user while another of its secrets may be fetched. A failure may end that."""
        is_ready = read.is_ready
        if is_ready is read.is_queued:
            return
        read.is_queued = is_ready
        if is_ready:
            insort(self._ready, read, key=_age)
        else:
            self._ready.remove(read)

    def _crashed(self, error: Exception) -> None:
        if self.crash is None:
            self.crash = error
        self._wake()

    def _wake(self) -> None:
        """Wake the waiter for a batch: immediately for the first outcome, or once there are enough."""
        self._some.set()
        if 2 * len(self._done) >= self._limits.tasks or self._is_over:
            self._enough.set()


def _age(read: UserRead) -> int:
    return read.age
