"""Execute a plan: sandbox, proxy, clients, store, interruptions. Return the record."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from blockbuster import blockbuster_ctx

from flowmate_async import (
    ApiLimits,
    FlowMate,
    FlowMateError,
    ImmediateTransport,
    StoreKey,
    SyncOptions,
    UserFailed,
    open_store,
)
from flowmate_async.events import UserNotStored, UserSkipped, UserStored
from flowmate_async.sandbox import FaultProxy, Faults, Sandbox
from flowmate_async.stores import Store
from flowmate_async.transport.aiohttp import AiohttpOptions, AiohttpTransport
from flowmate_async.transport.tls import client_context
from flowmate_async.transport.wire import WireTransport

from .bounds import BREAKER, CALM_LIMITS, FLOW, FRESHNESS, LIMITS, RETRY, limit_seconds, twin_options
from .fault_mix import WAIT_SECONDS
from .journal import Journal, Tap, content_of_secret
from .leftovers import Leftovers, library_tasks
from .mischief import Conductor
from .plan import QUARANTINE_SECONDS, Ending, Plan
from .record import Part, Record, Swept
from .stepped_loop import SteppedLoop
from .workers import at_work

_KEY = StoreKey.parse("5a" * 32)
_TLS = client_context()
_MOST_PARTS = 6
_CALM_TOKEN_LIFE_SECONDS = 60.0
_TESTS = Path(__file__).parents[2]


def carried_out(plan: Plan, folder: Path) -> Record:
    """Execute a plan on its own loop, in its own empty folder. Return the record."""
    record = Record(plan=plan)
    leftovers = Leftovers()
    began = time.monotonic()
    with (
        leftovers.watched(),
        blockbuster_ctx("flowmate_async"),
        asyncio.Runner(loop_factory=SteppedLoop) as runner,
    ):
        runner.get_loop().set_exception_handler(leftovers.note_context)
        runner.run(_Run(record, folder).carry_out())
    record.seconds = time.monotonic() - began
    record.left += leftovers.descriptors()
    record.complaints += leftovers.complaints
    record.shown += leftovers.logged() + "".join(
        path.read_bytes().decode("utf-8", "replace") for path in folder.iterdir()
    )
    return record


class _Run:
    def __init__(self, record: Record, folder: Path) -> None:
        self._record = record
        self._plan = record.plan
        self._journal = Journal(record)
        self._store_url = f"sqlite:///{folder / 'store.db'}"
        self._clients = 0
        self._shown: list[str] = []
        self._exposed = 0
        self._twin: Sandbox
        self._conductor: Conductor
        self._base_url = ""

    async def carry_out(self) -> None:
        """From the sandbox's start to its end."""
        async with AsyncExitStack() as stack:
            self._twin = await stack.enter_async_context(
                Sandbox(twin_options(self._plan, self._journal.mint))
            )
            self._journal.watch(self._twin)
            self._conductor = Conductor(self._plan, self._twin, self._journal)
            self._base_url, proxy = self._twin.url, None
            if self._plan.proxy is not None:
                proxy = await stack.enter_async_context(FaultProxy(self._twin.url, self._plan.proxy))
                self._base_url = proxy.url
            self._record.given = self._plan.world.named or _active(self._twin)
            self._record.limit_seconds = limit_seconds(self._record)
            await (self._sweep() if self._plan.mode == "sweep" else self._sync())
            self._note_faults(proxy)
            self._journal.close()
        self._record.left += [repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}]
        self._record.shown = "\n".join(self._shown)

    async def _sync(self) -> None:
        endings = list(self._plan.endings)
        while len(self._record.parts) < _MOST_PARTS + len(self._plan.endings):
            if await self._parts(endings, calm=False) == "complete":
                break
        if self._plan.heals or self._record.parts[-1].ended != "complete":
            await self._calm_down()
            await self._parts([], calm=True)
        await self._read_store()

    async def _parts(self, endings: list[Ending], *, calm: bool) -> str:
        """Parts with one client: another follows only when the last one was merely stopped."""
        async with (
            self._client(CALM_LIMITS if calm else LIMITS) as fm,
            open_store(self._store_url, key=_KEY) as store,
            self._workers(fm),
        ):
            while True:
                ending = endings.pop(0) if endings else None
                part = await self._part(fm, store, ending, calm=calm)
                if part.ended != "stopped":
                    return part.ended

    def _workers(self, fm: FlowMate) -> AbstractAsyncContextManager[None]:
        return at_work(fm, self._record, self._note_error, number=self._plan.bounds.workers)

    async def _part(self, fm: FlowMate, store: Store, ending: Ending | None, *, calm: bool) -> Part:
        part = Part(client=self._clients, first_send=len(self._record.sends), calm=calm)
        self._record.parts.append(part)
        if ending is not None and ending.kind == "disk_full":
            _fill_disk(store, spare_pages=ending.after_events // 6)
        stop = asyncio.Event()
        options = SyncOptions(
            retry_failed=calm and self._plan.heals, removed=self._plan.removed, max_removed_share=1.0
        )

        def note(event: Any) -> None:
            self._shown.append(repr(event))
            if isinstance(event, UserStored | UserNotStored | UserSkipped):
                part.ends.append(event.username)

        call = fm.sync(store, self._plan.world.named, options=options, on_event=note, stop=stop)
        task = asyncio.create_task(call)
        self._conductor.end(ending, stop=stop, task=task)
        try:
            async with asyncio.timeout(self._record.limit_seconds):
                report = await task
        except asyncio.CancelledError:
            part.ended = "cancelled"
        except TimeoutError:
            part.ended = "timeout"
            self._record.complaints.append(f"a part did not end within {self._record.limit_seconds:.1f} s")
        except Exception as error:  # noqa: BLE001 - the promises judge it
            part.ended = error.kind if isinstance(error, FlowMateError) else repr(error)
            self._note_error(error)
        else:
            part.ended = "complete" if report.complete else "stopped"
            part.totals = (report.synced, report.failed, report.secrets)
            self._shown += [repr(report), msgspec.json.encode(report).decode()]
        return part

    async def _sweep(self) -> None:
        async with self._client() as fm, self._workers(fm):
            self._record.parts.append(Part(client=self._clients, first_send=0, calm=False, ended="complete"))
            try:
                async with (
                    asyncio.timeout(self._record.limit_seconds),
                    aclosing(fm.sweep(self._record.given)) as outcomes,
                ):
                    async for outcome in outcomes:
                        self._note_outcome(outcome)
            except TimeoutError:
                self._record.complaints.append("the sweep did not end in time")

    def _note_outcome(self, outcome: Any) -> None:
        contents = {secret.id: content_of_secret(secret) for secret in outcome.secrets}
        swept = Swept(outcome.username, contents)
        self._shown.append(repr(outcome))
        if isinstance(outcome, UserFailed):
            self._note_error(outcome.error)
            swept = msgspec.structs.replace(swept, error=outcome.error.kind, message=str(outcome.error))
        self._record.swept.append(swept)

    @asynccontextmanager
    async def _client(self, limits: ApiLimits = LIMITS) -> AsyncIterator[FlowMate]:
        """A client like any other, but for a tap between it and its transport."""
        self._clients += 1
        bounds = self._plan.bounds
        async with FlowMate(
            admin_token=self._twin.admin_token,
            base_url=self._base_url,
            rate=bounds.rate,
            burst=bounds.burst,
            concurrency=bounds.concurrency,
            page_size=bounds.page_size,
            transport=Tap(carrier(self._plan.transport, self._base_url), self._journal, client=self._clients),
            limits=limits,
            retry=RETRY,
            breaker=BREAKER,
            flow=FLOW,
            freshness=FRESHNESS,
            cache_capacity=20,
            on_event=self._conductor,
            clock=self._conductor.clock,
        ) as fm:
            yield fm
            self._shown.append(repr(fm.stats()))
        self._record.left += library_tasks()

    async def _calm_down(self) -> None:
        self._conductor.nothing_more()
        self._twin.configure(faults=Faults(), rate=None, raw_read=True, provider_seconds=0.0)
        # Else two tokens in a row may end while their user waits for the rate.
        self._twin.world.tokens.live_longer(_CALM_TOKEN_LIFE_SECONDS)  # type: ignore[attr-defined]
        await asyncio.sleep(QUARANTINE_SECONDS + WAIT_SECONDS)

    async def _read_store(self) -> None:
        record = self._record
        async with open_store(self._store_url, key=_KEY) as store:
            run = await store.last_run()
            if run is not None:
                record.complete = run.finished_at is not None
                record.checkpoints = {end.username: end async for end in store.checkpoints(run)}
                record.damaged = (await store.verify()).damaged
                self._shown += [
                    repr(end) + msgspec.json.encode(end).decode() for end in record.checkpoints.values()
                ]
            async for one in store.health():
                record.health[one.place] = one.health.state.value, one.health.reason.value
                self._shown += [repr(one), msgspec.json.encode(one).decode()]
            self._shown += [msgspec.json.encode(one).decode() for one in await store.notices(1000)]
            if not record.damaged:
                async for username, secret in store.secrets():
                    record.stored[username, secret.id] = content_of_secret(secret)

    def _note_error(self, error: BaseException) -> None:
        self._shown += [str(error), repr(error)]
        if isinstance(error, FlowMateError):
            self._record.errors.append(error.kind)
        else:
            self._record.unforeseen.append(f"{type(error).__name__}: {error}")
        if self._exposed < 4:  # rendering frames and their locals takes longer than the rest of a run
            self._exposed += 1
            self._shown.append(_with_locals(error))

    def _note_faults(self, proxy: FaultProxy | None) -> None:
        stats = self._twin.stats()
        self._record.faults = dict(stats.faults)
        self._record.arrived = stats.secret_gets
        self._record.lock_waits = stats.lock_waits if self._clients == 1 else {}
        if proxy is not None:
            done = proxy.stats()
            self._record.faults |= {"proxy_cut": done.cuts, "proxy_stall": done.stalls}


def carrier(name: str, base_url: str) -> ImmediateTransport:
    """The transport under the tap: one that the client would make for itself."""
    if name == "wire":
        return WireTransport(base_url, user_agent="flowmate_async", tls=_TLS)
    return AiohttpTransport(base_url, user_agent="flowmate_async", tls=_TLS, options=AiohttpOptions())


def _active(twin: Sandbox) -> tuple[str, ...]:
    return tuple(user.username for user in twin.world.users() if user.active_tenant_user)


def _fill_disk(store: Any, *, spare_pages: int) -> None:
    """Leave the store so many pages of room: the transaction that needs one more fails in its midst."""
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + spare_pages}")


def _with_locals(error: BaseException) -> str:
    """What an error tracker would show, without the frames of these very tests."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True, compact=False)
    shown.stack[:] = [frame for frame in shown.stack if not Path(frame.filename).is_relative_to(_TESTS)]
    return "".join(shown.format(chain=False))
