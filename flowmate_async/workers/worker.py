"""The worker's side: read the users that the parent hands out, borrow tokens, report results.

The program that runs a worker creates its client and its store.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self

from flowmate_async.engine.coordination import (
    CoordinationStatistics,
    RateBudget,
    RefreshLender,
    SharedCredentials,
    TokenLease,
)
from flowmate_async.errors import FlowMateError
from flowmate_async.events import Listener
from flowmate_async.stats import Stats
from flowmate_async.stores.base import Run
from flowmate_async.sync.results import Executor
from flowmate_async.values.error_record import ErrorRecord
from flowmate_async.workers.channel import Channel
from flowmate_async.workers.messages import (
    Allotted,
    Assign,
    Borrow,
    Counted,
    Done,
    Failed,
    Lent,
    More,
    Paused,
    SlotLent,
    SlotReturned,
    SlotWanted,
    Stop,
    Stored,
    ToWorker,
)

_TELLING_SECONDS = 0.25
_CHUNK = 32
_LOW_WATER = 16


class Worker:
    """One worker of a pool; also its client's :class:`~flowmate_async.engine.coordination.Coordination`.

    Args:
        channel: the channel to the parent.
        limited: whether the parent lends a rate.
        concurrency: how many requests it may have in flight at first.
    """

    def __init__(self, channel: Channel[ToWorker], *, limited: bool, concurrency: int) -> None:
        self._channel = channel
        self._limited = limited
        self._names: deque[str] = deque()
        self._asked = False
        self._no_more = False
        self._news = asyncio.Event()
        self._stop = asyncio.Event()
        self._concurrency = concurrency
        self._on_allotment: Callable[[int], object] = lambda _concurrency: None
        self._numbers = itertools.count()
        self._slots: dict[int, asyncio.Future[None]] = {}
        self._loan: asyncio.Future[TokenLease] | None = None
        self._on_pause: Callable[[float], object] = lambda _seconds: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: the program closes the channel."""

    def join(self, base_url: str) -> None:
        """See :meth:`Coordination.join`; there is only one upstream."""

    def budget(self, *, rate: float, burst: int) -> RateBudget | None:  # noqa: ARG002 - on the parent's terms
        """See :meth:`Coordination.budget`."""
        return self if self._limited else None

    def on_allotment(self, listener: Callable[[int], object]) -> None:
        """See :meth:`LendsConcurrency.on_allotment`."""
        self._on_allotment = listener
        listener(self._concurrency)

    def refreshes(self, limit: int) -> RefreshLender:  # noqa: ARG002 - lent within the parent's limit
        """See :meth:`LendsRefreshes.refreshes`."""
        return self

    @asynccontextmanager
    async def slot(self, auth_client_id: str | None, secret_id: str) -> AsyncIterator[None]:
        """See :meth:`flowmate_async.engine.coordination.RefreshLender.slot`."""
        number = next(self._numbers)
        lent = self._slots[number] = asyncio.get_running_loop().create_future()
        self._channel.send(SlotWanted(number, auth_client_id, secret_id))
        try:
            await lent
            yield
        finally:
            del self._slots[number]
            self._channel.send(SlotReturned(number))

    def credentials(self) -> SharedCredentials | None:
        """Nothing is shared: no user is read by two workers."""
        return None

    def pause(self, seconds: float) -> None:
        """See :meth:`Coordination.pause`."""
        self._channel.send(Paused(seconds))

    def on_pause(self, listener: Callable[[float], object]) -> None:
        """See :meth:`Coordination.on_pause`."""
        self._on_pause = listener

    def on_event(self, listener: Listener) -> None:
        """See :meth:`Coordination.on_event`; a worker without its parent ends."""

    def statistics(self) -> CoordinationStatistics | None:
        """See :meth:`Coordination.statistics`; a worker without its parent ends."""
        return None

    async def lease(self, most: int) -> TokenLease:
        """See :meth:`RateBudget.lease`."""
        self._loan = asyncio.get_running_loop().create_future()
        self._channel.send(Borrow(most))
        return await self._loan

    async def serve(self, executor: Executor, run: Run, *, stats: Callable[[], Stats]) -> None:
        """Read and store the users that the parent hands out, until there are no more or the parent is gone.

        Args:
            executor: reads and stores.
            run: the run.
            stats: reported to the parent from time to time, and at the end.
        """
        work = asyncio.get_running_loop().create_task(self._work(executor, run, stats))
        listening = asyncio.get_running_loop().create_task(self._listen())
        try:
            await asyncio.wait({work, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Without the parent the run lock is lost, so no work is started or finished.
            for task in (work, listening):
                task.cancel()
            await asyncio.gather(work, listening, return_exceptions=True)
        for task in (work, listening):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _work(self, executor: Executor, run: Run, stats: Callable[[], Stats]) -> None:
        telling = asyncio.get_running_loop().create_task(self._tell(stats))
        last: Done | Failed = Done()
        try:
            batches = executor.execute(run, self._handed_out(), stop=self._stop)
            async with aclosing(batches):
                async for batch in batches:
                    self._channel.send(Stored.of(batch))
                    await self._channel.drained()
        except FlowMateError as error:
            last = Failed(ErrorRecord.of(error))
        finally:
            telling.cancel()
        self._channel.send(Counted.of(stats(), keeps_to=self._concurrency))
        self._channel.send(last)
        await self._channel.drained()

    async def _tell(self, stats: Callable[[], Stats]) -> None:
        while True:
            await asyncio.sleep(_TELLING_SECONDS)
            self._channel.send(Counted.of(stats(), keeps_to=self._concurrency))
            await self._channel.drained()

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            self._heard(message)

    def _heard(self, message: ToWorker) -> None:
        match message:
            case Lent(tokens, valid_until):
                if self._loan is not None and not self._loan.done():
                    self._loan.set_result(TokenLease(tokens, valid_until))
            case Allotted(concurrency):
                self._concurrency = concurrency
                self._on_allotment(concurrency)
            case SlotLent(number):
                lent = self._slots.get(number)
                if lent is not None and not lent.done():
                    lent.set_result(None)
            case Assign(usernames):
                self._names.extend(usernames)
                self._asked, self._no_more = False, not usernames
                self._news.set()
            case Paused(seconds):
                self._on_pause(seconds)
            case Stop():
                self._stop.set()
                self._no_more = True
                self._news.set()

    async def _handed_out(self) -> AsyncIterator[str]:
        """Yield the usernames from the parent, requesting more shortly before they run out."""
        while True:
            if len(self._names) <= _LOW_WATER and not self._asked and not self._no_more:
                self._asked = True
                self._channel.send(More(_CHUNK))
            if self._names:
                yield self._names.popleft()
            elif self._no_more:
                return
            else:
                self._news.clear()
                await self._news.wait()
