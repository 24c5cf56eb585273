"""FlowMateSync: the client for code without an event loop, such as scripts and notebooks.

All rules are implemented in :class:`~flowmate_async.FlowMate`, which runs on an event loop in its own thread
(anyio's blocking portal). ``system/loop_thread.py`` bridges to it: calls, iteration with back-pressure,
Ctrl-C.
"""

import importlib.util
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    contextmanager,
    nullcontext,
    suppress,
)
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, cast
from weakref import WeakSet

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal

from flowmate_async.access.leases import Lease
from flowmate_async.client import FlowMate
from flowmate_async.events import Listener
from flowmate_async.health.policy import DEFAULT_POLICY, HealthPolicy
from flowmate_async.stats import Stats
from flowmate_async.stores.base import Store, require_store
from flowmate_async.sync.delivery import Delivery, Notifier
from flowmate_async.sync.dry_run import SyncPlan
from flowmate_async.sync.engine import SyncOptions
from flowmate_async.sync.live_health import UserHealth
from flowmate_async.sync.outcomes import Outcome
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.sync.report import SyncReport
from flowmate_async.sync.source import Usernames
from flowmate_async.sync.verification import Verified, Verifier
from flowmate_async.system.loop_thread import Job, LoopThread, streamed
from flowmate_async.values.models import SecretSummary, User, UserToken
from flowmate_async.values.secrets import Secret
from flowmate_async.wiring import FromEnvironment, Settings, consumed, from_environment, with_parameters_of

T = TypeVar("T")


class FlowMateSync:
    """A blocking client of one FlowMate tenant. Use it as ``with FlowMateSync(...) as fm``.

    Takes the arguments of :class:`~flowmate_async.FlowMate` and raises its errors. Several threads may use it
    at the same time; their calls share its connections, rate and cache. Listeners, token providers and
    iterables of usernames run on its event loop and should be quick. Leaving the block cancels the calls of
    other threads. Enter it after a fork, in each process, for example in gunicorn's ``post_fork`` hook. It
    cannot be copied or pickled.

    Ctrl-C during a call cancels the call, waits up to ten seconds for its cleanup, and raises
    ``KeyboardInterrupt``.

    Raises:
        ConfigurationError: an argument is invalid.
    """

    @with_parameters_of(Settings)
    def __init__(self, **options: Any) -> None:
        self._client = consumed(FlowMate, options)
        self._loop: LoopThread | None = None
        self._open = ExitStack()
        self._streams: WeakSet[Generator[Any, None, None]] = WeakSet()

    @classmethod
    @with_parameters_of(FromEnvironment)
    def from_env(cls, **options: Any) -> Self:
        """See :meth:`FlowMate.from_env`."""
        return from_environment(cls, options)

    def __enter__(self) -> Self:
        uvloop = importlib.util.find_spec("uvloop") is not None
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(backend_options={"use_uvloop": uvloop}))
            loop = portal.call(LoopThread)
            closing = portal.call(anyio.Event)
            served, _ = portal.start_task(self._serve, closing)
            stack.callback(served.result)
            stack.callback(portal.call, closing.set)
            stack.callback(portal.call, loop.aclose)
            self._loop = loop
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._loop.is_forked:
            return  # in a forked child, which has neither the loop's thread nor its own connections
        self._loop = None
        try:
            for stream in list(self._streams):
                with suppress(ValueError):  # another thread is reading it; its next read will fail
                    stream.close()
        finally:
            self._open.__exit__(kind, error, trace)

    async def _serve(self, closing: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        # One task enters and leaves the client, since a transport may need that.
        async with self._client:
            task_status.started()
            await closing.wait()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled.

        Raises:
            TypeError: always.
        """
        raise TypeError("FlowMateSync cannot be copied or pickled; make a client in each process")

    @property
    def base_url(self) -> str:
        """The URL of FlowMate's API, validated."""
        return self._client.base_url

    def users(self) -> Generator[User, None, None]:
        """See :meth:`FlowMate.users`."""
        return self._stream(self._client.users)

    def impersonate(self, username: str) -> UserToken:
        """See :meth:`FlowMate.impersonate`."""
        return self._call(self._client.impersonate, username)

    def list_secrets(self, username: str) -> list[SecretSummary]:
        """See :meth:`FlowMate.list_secrets`."""
        return self._call(self._client.list_secrets, username)

    def get_secret(self, username: str, secret_id: str) -> Secret:
        """See :meth:`FlowMate.get_secret`."""
        return self._call(self._client.get_secret, username, secret_id)

    def credential(self, username: str, secret_id: str, *, min_valid: float = 60.0) -> Secret:
        """See :meth:`FlowMate.credential`; ``min_valid`` is in seconds."""
        return self._call(lambda: self._client.credential(username, secret_id, min_valid=min_valid))

    @contextmanager
    def lease(self, username: str, secret_id: str, *, min_valid: float = 60.0) -> Iterator["BlockingLease"]:
        """See :meth:`FlowMate.lease`; ``min_valid`` is in seconds."""
        lease = self._client.lease(username, secret_id, min_valid=min_valid)
        self._call(lease.__aenter__)
        try:
            yield BlockingLease(lease, self._call)
        finally:
            self._call(lease.__aexit__, None, None, None)

    @contextmanager
    def keep_fresh(self, pairs: Iterable[tuple[str, str]]) -> Iterator[None]:
        """See :meth:`FlowMate.keep_fresh`."""
        prefetch = self._client.keep_fresh(pairs)
        self._call(prefetch.__aenter__)
        try:
            yield
        finally:
            self._call(prefetch.__aexit__, None, None, None)

    def sweep(
        self, usernames: Usernames, *, types: Collection[str] | None = None
    ) -> Generator[Outcome, None, None]:
        """See :meth:`FlowMate.sweep`. To end it early, close the iterator or leave the client's block."""
        return self._stream(lambda: self._client.sweep(_outside_the_loop(usernames), types=types))

    def sync(
        self,
        store: Store,
        users: Usernames | None = None,
        *,
        options: SyncOptions | None = None,
        on_event: Listener | None = None,
    ) -> SyncReport:
        """See :meth:`FlowMate.sync`. After Ctrl-C, acknowledged users are kept and the next sync resumes.

        Args:
            store: a store that is not entered; it is entered for the duration of this call.
            users: usernames; ``None`` for all active users of the tenant.
            options: whether and what to resume, how many users may fail.
            on_event: called with every event, in the event loop's thread.
        """
        names = None if users is None else _outside_the_loop(users)
        return self._with_store(
            store, lambda: self._client.sync(store, names, options=options, on_event=on_event)
        )

    def plan_sync(
        self, store: Store, users: Usernames | None = None, *, delta: DeltaPolicy | None = None
    ) -> SyncPlan:
        """See :meth:`FlowMate.plan_sync`.

        Args:
            store: a store that is not entered; it is entered for the duration of this call.
            users: usernames; ``None`` for all active users of the tenant.
            delta: what would be fetched again.
        """
        names = None if users is None else _outside_the_loop(users)
        return self._with_store(store, lambda: self._client.plan_sync(store, names, delta=delta))

    def health(
        self, users: Usernames | None = None, *, store: Store | None = None
    ) -> Generator[UserHealth, None, None]:
        """See :meth:`FlowMate.health`. To end it early, close the iterator or leave the client's block.

        Args:
            users: usernames; ``None`` for all active users of the tenant.
            store: a store that is not entered; it is entered for the duration of this call.
        """
        names = None if users is None else _outside_the_loop(users)

        async def listed() -> AsyncGenerator[UserHealth, None]:
            opened = nullcontext() if store is None else store
            async with opened, aclosing(self._client.health(names, store=store)) as found:
                async for user in found:
                    yield user

        return self._stream(listed)

    def notify(self, store: Store, notifier: Notifier, *, digest: bool = False) -> Delivery:
        """See :meth:`FlowMate.notify`.

        Args:
            store: a store that is not entered; it is entered for the duration of this call.
            notifier: a :class:`~flowmate_async.integrations.webhook.Webhook` that is not entered, or anything
                else with its ``send`` method.
            digest: send one message about all changes.
        """

        async def delivered() -> Delivery:
            opened = notifier if isinstance(notifier, AbstractAsyncContextManager) else nullcontext()
            async with opened:
                return await self._client.notify(store, notifier, digest=digest)

        return self._with_store(store, delivered)

    def verify(
        self,
        store: Store,
        checks: Sequence[Verifier],
        users: Usernames | None = None,
        *,
        health: HealthPolicy = DEFAULT_POLICY,
    ) -> Verified:
        """See :meth:`FlowMate.verify`.

        Args:
            store: a store that is not entered; it is entered for the duration of this call.
            checks: :class:`~flowmate_async.integrations.verification.AppCheck` that are not entered.
            users: usernames; ``None`` for everything in the store.
            health: how much evidence it takes to call a credential broken.
        """
        names = None if users is None else _outside_the_loop(users)

        async def verified() -> Verified:
            async with AsyncExitStack() as entered:
                for check in checks:
                    if isinstance(check, AbstractAsyncContextManager):
                        await entered.enter_async_context(check)
                return await self._client.verify(store, checks, names, health=health)

        return self._with_store(store, verified)

    @contextmanager
    def listening(self, *listeners: Listener | None) -> Iterator[None]:
        """See :meth:`FlowMate.listening`; the listeners are called in the event loop's thread."""
        told = self._client.listening(*listeners)

        async def begin() -> None:
            told.__enter__()

        async def end() -> None:
            told.__exit__(None, None, None)

        self._call(begin)
        try:
            yield
        finally:
            self._call(end)

    def stats(self) -> Stats:
        """See :meth:`FlowMate.stats`."""

        async def taken() -> Stats:
            return self._client.stats()

        return self._call(taken)

    def _call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        return Job(self._running(), function, *args).run()

    def _with_store(self, store: Store, job: Callable[[], Awaitable[T]]) -> T:
        """Run a job with the store entered."""

        async def entered() -> T:
            require_store(store)
            async with store:
                return await job()

        return self._call(entered)

    def _stream(self, source: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        stream = streamed(self._running(), source)
        self._streams.add(stream)
        return stream

    def _running(self) -> LoopThread:
        if self._loop is None:
            raise RuntimeError("FlowMateSync is used inside its 'with' block")
        return self._loop


class BlockingLease:
    """A lease inside its ``with`` block; see :class:`~flowmate_async.access.cache.Lease`."""

    def __init__(self, lease: Lease, call: Callable[[Callable[[], Awaitable[Secret]]], Secret]) -> None:
        self._lease = lease
        self._call = call

    @property
    def secret(self) -> Secret:
        """The credential. After :meth:`reject`, it is the newer one."""
        return self._lease.secret

    def reject(self) -> Secret:
        """Report that the app answered 401, and get a newer credential.

        Raises:
            CredentialRejectedError: upstream still has the same one.
            FlowMateError: the newer one could not be fetched.
        """
        return self._call(self._lease.reject)


def _outside_the_loop(usernames: Usernames) -> Usernames:
    """Wrap usernames that may come from this client, so that they are not read in its loop's thread."""
    if isinstance(usernames, Collection | AsyncIterable):
        return usernames
    return _iterate_in_threads(iter(usernames))


async def _iterate_in_threads(names: Iterator[str]) -> AsyncIterator[str]:
    end = object()
    while (name := await to_thread.run_sync(next, names, end)) is not end:
        yield cast("str", name)
