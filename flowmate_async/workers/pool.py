"""The parent's side: an executor whose users are read and stored by worker processes.

A worker that dies loses nothing: acknowledged users are in the store, and its other users go to other
workers. The engine decides on the run and its early end.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from flowmate_async.contract.failures import LOCK_SECONDS
from flowmate_async.errors import WorkerLostError
from flowmate_async.stores.base import Run, Store
from flowmate_async.sync.local_executor import synced_of
from flowmate_async.sync.results import StoredBatch, UserResult
from flowmate_async.sync.source import Usernames
from flowmate_async.sync.usernames import safe_name
from flowmate_async.system.finishing import cancel_and_wait
from flowmate_async.workers.allotments import Allotments
from flowmate_async.workers.lenders import RateLender, RefreshLoan, SharedLimits
from flowmate_async.workers.messages import (
    Allotted,
    Assign,
    Begin,
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
    ToParent,
)
from flowmate_async.workers.process import WorkerProcess
from flowmate_async.workers.stats import WorkerTotals
from flowmate_async.workers.work_queue import WorkQueue

_LOSSES = 3
"""Maximum number of consecutive worker deaths without a finished user in between."""


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The command and the size of a pool.

    Attributes:
        command: a worker's program and its arguments, without secrets.
        settings: that program's configuration, without secrets.
        count: how many workers.
    """

    command: Sequence[str]
    settings: bytes
    count: int


class ProcessExecutor:
    """Reads and stores users in other processes, see :class:`~flowmate_async.sync.results.Executor`.

    Args:
        plan: see :class:`PoolOptions`.
        store: shows what a dead worker had acknowledged.
        shared: what is shared with the workers.
        totals: collects the workers' counters.
    """

    def __init__(
        self, plan: PoolOptions, *, store: Store, shared: SharedLimits, totals: WorkerTotals
    ) -> None:
        self._plan = plan
        self._store = store
        self._shared = shared
        self._totals = totals

    async def execute(
        self, run: Run, usernames: Usernames, *, stop: asyncio.Event | None = None
    ) -> AsyncGenerator[StoredBatch, None]:
        """See :meth:`Executor.execute`.

        Raises:
            WorkerLostError: workers keep dying.
            FlowMateError: a worker cannot go on.
        """
        pool = _Pool(self._plan, run, WorkQueue(usernames), store=self._store, stop=stop, totals=self._totals)
        async with aclosing(pool.batches(self._shared)) as batches:
            async for batch in batches:
                yield batch


class _Pool:
    """The workers of one run, and the queue of their results; ``None`` in it marks a worker that is done."""

    def __init__(
        self,
        plan: PoolOptions,
        run: Run,
        queue: WorkQueue,
        *,
        store: Store,
        stop: asyncio.Event | None,
        totals: WorkerTotals,
    ) -> None:
        self._plan = plan
        self._run = run
        self._queue = queue
        self._store = store
        self._stop = stop or asyncio.Event()
        self._totals = totals
        self._workers: dict[int, WorkerProcess] = {}
        self._arrived: asyncio.Queue[StoredBatch | Exception | None] = asyncio.Queue(2 * plan.count)
        self._losses = 0

    async def batches(self, shared: SharedLimits) -> AsyncGenerator[StoredBatch, None]:
        """Yield durable results as they arrive."""
        loop = asyncio.get_running_loop()
        allotments: Allotments[int] = Allotments(shared.concurrency, workers=self._plan.count)
        slots = (self._keep_serving(number, shared, allotments) for number in range(self._plan.count))
        tasks = [loop.create_task(slot) for slot in slots]
        tasks.append(loop.create_task(self._stopping()))
        working = self._plan.count
        try:
            while working:
                arrived = await self._arrived.get()
                if isinstance(arrived, Exception):
                    raise arrived
                if arrived is None:
                    working -= 1
                else:
                    yield arrived
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stopping(self) -> None:
        await self._stop.wait()
        self._queue.close()
        for worker in self._workers.values():
            worker.channel.send(Stop())

    async def _keep_serving(self, number: int, shared: SharedLimits, allotments: Allotments[int]) -> None:
        """Serve a worker. Start another one if it dies, until one is done."""
        try:
            while not await self._serve_worker(number, shared, allotments):
                pass
            allotments.leave(number)
        except Exception as error:  # noqa: BLE001 - raised again where the batches are consumed
            await self._arrived.put(error)
        else:
            await self._arrived.put(None)

    async def _serve_worker(self, number: int, shared: SharedLimits, allotments: Allotments[int]) -> bool:
        """Serve one worker for its whole life. Return whether its work was done when it ended."""
        begin = Begin(self._run, self._plan.settings, allotments.join(number))
        worker = await WorkerProcess.start(self._plan.command, begin)
        session = _Session(worker, self._queue, shared)
        done = False
        self._workers[number] = worker
        try:
            if self._stop.is_set():
                worker.channel.send(Stop())
            done = await self._handle_messages(number, session, allotments)
        finally:
            del self._workers[number]
            self._totals.ended(worker)
            await session.close(died=not done)
        if not done:
            await self._lost(worker)
        return done

    async def _handle_messages(self, number: int, session: "_Session", allotments: Allotments[int]) -> bool:
        """Handle a worker's messages until it closes the channel. Return whether its work was done then."""
        while (message := await session.worker.channel.receive()) is not None:
            match message:
                case Stored():
                    self._losses = 0
                    batch = message.restored()
                    session.note_results(batch)
                    await self._arrived.put(batch)
                case Counted(counts, traffic, keeps_to):
                    self._totals.note(session.worker, counts, traffic)
                    self._tell(
                        allotments.note(
                            number,
                            keeps_to=keeps_to,
                            in_flight=traffic.in_flight,
                            waiting=traffic.waiting,
                        )
                    )
                case Failed(error):
                    raise error.restored()
                case Done():
                    return True
                case _:
                    session.handle(message)
        return False

    def _tell(self, changes: dict[int, int]) -> None:
        """Tell workers how many requests they may have in flight. A replacement learns it when it starts."""
        for number, concurrency in changes.items():
            if (worker := self._workers.get(number)) is not None:
                worker.channel.send(Allotted(concurrency))

    async def _lost(self, worker: WorkerProcess) -> None:
        """Report a dead worker's users that are in the store, and hand out the others again."""
        self._losses += 1
        if self._losses > _LOSSES:
            raise WorkerLostError(
                f"{self._losses} worker processes died one after the other without finishing a user",
                advice="Look above for what they wrote, and whether the machine ran out of memory; "
                "run again to resume",
            )
        names = list(worker.has.elements())
        synced = await synced_of(self._store, self._run, names)
        ended = [name for name in names if safe_name(name) in synced]
        self._queue.ended(len(ended))
        self._queue.give_back([name for name in names if safe_name(name) not in synced])
        if ended:
            await self._arrived.put(
                StoredBatch(results=tuple(UserResult(username=name) for name in ended), counted=False)
            )


class _Session:
    """The parent's side of one worker: hands it usernames, tokens, slots for refreshes and pauses."""

    def __init__(self, worker: WorkerProcess, queue: WorkQueue, shared: SharedLimits) -> None:
        self.worker = worker
        self._queue = queue
        self._pauses = shared.pauses
        self._refreshes = shared.refreshes
        self._wanted: asyncio.Queue[int] = asyncio.Queue()
        self._borrowed: asyncio.Queue[int] = asyncio.Queue()
        self._loans: dict[int, RefreshLoan] = {}
        self._borrowing: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks = [self._loop.create_task(self._hand_out())]
        if shared.rate is not None:
            self._tasks.append(self._loop.create_task(self._lend(shared.rate)))
        self._pauses.join(self._tell_pause)

    def handle(self, message: ToParent) -> None:
        """Handle a worker's requests and broadcasts."""
        match message:
            case More(most):
                self._wanted.put_nowait(most)
            case Borrow(most):
                self._borrowed.put_nowait(most)
            case SlotWanted(number):
                self._borrowing[number] = self._loop.create_task(self._lend_slot(message))
            case SlotReturned(number):
                self._take_back(number)
            case Paused(seconds):
                self._pauses.spread(seconds, but=self._tell_pause)

    def note_results(self, batch: StoredBatch) -> None:
        """Record users as stored."""
        self.worker.has.subtract(end.username for end in batch.results)
        self._queue.ended(len(batch.results))

    async def close(self, *, died: bool) -> None:
        """Stop serving the worker, and end it.

        Args:
            died: it did not end by itself, so upstream may still be refreshing for it. Its slots are lent
                again once upstream's lock has expired.
        """
        self._pauses.leave(self._tell_pause)
        tasks = [*self._tasks, *self._borrowing.values()]
        for task in tasks:
            task.cancel()  # already now: nothing more may be handed out
        await self.worker.aclose()
        await cancel_and_wait(*tasks)
        for loan in self._loans.values():
            self._loop.call_later(LOCK_SECONDS if died else 0.0, loan.give_back)
        self._loans.clear()

    async def _hand_out(self) -> None:
        while True:
            names = await self._queue.take(await self._wanted.get())
            self.worker.has.update(names)
            self.worker.channel.send(Assign(tuple(names)))

    async def _lend(self, lender: RateLender) -> None:
        while True:
            lease = await lender.lease(await self._borrowed.get())
            self.worker.channel.send(Lent(lease.tokens, lease.valid_until))

    async def _lend_slot(self, wanted: SlotWanted) -> None:
        try:
            loan = await self._refreshes.borrow(wanted.auth_client_id, wanted.secret_id)
        finally:
            self._borrowing.pop(wanted.number, None)
        self._loans[wanted.number] = loan
        self.worker.channel.send(SlotLent(wanted.number))

    def _take_back(self, number: int) -> None:
        if (borrowing := self._borrowing.pop(number, None)) is not None:
            borrowing.cancel()
        elif (loan := self._loans.pop(number, None)) is not None:
            loan.give_back()

    def _tell_pause(self, seconds: float) -> None:
        self.worker.channel.send(Paused(seconds))
