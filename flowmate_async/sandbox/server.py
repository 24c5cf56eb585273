"""Sandbox: a server on the loopback interface, from start to a fast stop.

The constructor shows the wiring. The rules of the contract are in the other modules, never here.
"""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import msgspec
from aiohttp import web

from flowmate_async.sandbox.admin_api import PREFIX, AdminApi
from flowmate_async.sandbox.admission import Admission
from flowmate_async.sandbox.endpoints import Endpoints
from flowmate_async.sandbox.fault_injector import FaultInjector
from flowmate_async.sandbox.fault_schedule import FaultSchedule
from flowmate_async.sandbox.listener import Listener
from flowmate_async.sandbox.openapi import OPENAPI_PATH, describe
from flowmate_async.sandbox.options import SandboxOptions, Settings, SettingsChange
from flowmate_async.sandbox.raw_response import UNANSWERED, RawResponse, StaleConnections
from flowmate_async.sandbox.refresh import Refresher
from flowmate_async.sandbox.responses import deliver
from flowmate_async.sandbox.routes import route_of
from flowmate_async.sandbox.stats import Counters, SandboxStats
from flowmate_async.sandbox.tokens import new_token
from flowmate_async.sandbox.world import World

_HOST = "127.0.0.1"
_FRAMEWORK_HEADER_BYTES = 8 * 1024 * 1024


class Sandbox:
    """Local stand-in for the upstream, for ``async with``.

    ``world`` holds users, secrets and tokens to inspect and change; ``stats()`` counts what came in.
    Leaving the block closes every connection at once, hanging requests included.

    Args:
        options: see ``SandboxOptions``; a small tenant when left out.

    Attributes:
        admin_token: the tenant's.
        world: see ``World``.

    Raises:
        ValueError: the settings are invalid.
        OSError: on entering: the port is taken.
    """

    def __init__(self, options: SandboxOptions | None = None) -> None:
        self.options: SandboxOptions = options or SandboxOptions()
        self.admin_token: str = self.options.admin_token or new_token()
        self.world: World = World(self.options)
        self._settings = self.options.settings()
        self._counters = Counters(record_arrivals=self.options.record_arrivals)
        self._admission = Admission(self._settings, database_wait_seconds=self.options.database_wait_seconds)
        self._stale: StaleConnections = weakref.WeakSet()
        self._listener: Listener | None = None
        self._schedule, self._injector = self._new_injector()
        refresher = Refresher(
            self.options,
            settings=lambda: self._settings,
            counters=self._counters,
            keep=self.world.keep,
            provider_fault=lambda: self._schedule.provider_fault(),  # noqa: PLW0108 - it is replaced
        )
        self._endpoints = Endpoints(
            self.world,
            admin_token=self.admin_token,
            refresher=refresher,
            counters=self._counters,
            settings=lambda: self._settings,
        )
        self._admin_api = AdminApi(self)
        self._description = describe()
        self._runner: web.ServerRunner | None = None
        self._port = self.options.port
        self._exchanging: set[asyncio.Task[object]] = set()

    def __repr__(self) -> str:
        """Show the address, never the token."""
        return f"<Sandbox {self.url}>"

    @property
    def url(self) -> str:
        """Base URL; the port is known once the sandbox runs."""
        scheme = "http" if self.options.ssl_context is None else "https"
        return f"{scheme}://{_HOST}:{self._port}"

    @property
    def settings(self) -> Settings:
        """The current settings."""
        return self._settings

    def configure(self, **changes: object) -> Settings:
        """Change settings while requests run.

        Args:
            changes: fields of ``Settings`` by name; others stay unchanged.

        Raises:
            msgspec.ValidationError: no such field, or not of its type.
            ValueError: the settings are invalid.
        """
        return self.change(msgspec.convert(changes, SettingsChange))

    def change(self, change: SettingsChange) -> Settings:
        """Apply a partial update and return the settings from now on.

        Args:
            change: the fields to change.

        Raises:
            ValueError: the settings are invalid.
        """
        self._settings = change.applied_to(self._settings)
        self._admission.configure(self._settings)
        if change.faults is not msgspec.UNSET:
            self._schedule, self._injector = self._new_injector()
        return self._settings

    @property
    def arrivals(self) -> Sequence[float]:
        """The moments at which counted requests came in; empty without ``record_arrivals``.

        ``most_in_window`` and ``burst_needed`` evaluate them.
        """
        return tuple(self._counters.arrivals or ())

    def stats(self) -> SandboxStats:
        """Return a copy of the counters."""
        return self._counters.snapshot()

    def reset_stats(self) -> None:
        """Start counting at zero."""
        self._counters.reset()

    async def __aenter__(self) -> Self:
        """Listen."""
        server = web.Server(
            self._serve,
            access_log=None,
            keepalive_timeout=self.options.idle_close_seconds,
            # The services' own limit is ``MAX_HEADER_BYTES``, and their answer differs from the framework's.
            max_line_size=_FRAMEWORK_HEADER_BYTES,
            max_field_size=_FRAMEWORK_HEADER_BYTES,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=self.options.shutdown_seconds)
        await self._runner.setup()
        self._listener = Listener(self._runner, self.options.ssl_context)
        await self._listener.open(self.options.port)
        self._port = self._listener.port
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening, cancel hanging requests, close every connection."""
        if self._runner is not None:
            with anyio.CancelScope(shield=True):
                if self._listener is not None:
                    await self._listener.close()
                await self._runner.cleanup()
                await self._end_exchanges()
                await _let_cancelled_handlers_end()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        if path.startswith(PREFIX):
            return await self._admin_api.serve(request)
        if path == OPENAPI_PATH:
            return deliver(request, self._description)
        return await self._exchange(request)

    async def _end_exchanges(self) -> None:
        # The runner drops handlers whose caller has disconnected; a hanging one would outlive the sandbox.
        for task in self._exchanging:
            task.cancel()
        if self._exchanging:
            await asyncio.wait(self._exchanging)

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one counted request: admission, faults, endpoint."""
        if (task := asyncio.current_task()) is not None:
            self._exchanging.add(task)
            task.add_done_callback(self._exchanging.discard)
        route = route_of(request.method, request.raw_path)
        status: int | None = None
        self._counters.request_began()
        try:
            refusal = await self._admission.before(request, route)
            if refusal is not None:
                response: web.Response | RawResponse = deliver(request, refusal)
            elif self._injector is None:
                response = deliver(request, await self._endpoints.answer(request, route))
            else:
                endpoint = partial(self._endpoints.answer, request, route)
                response = await self._injector.exchange(request, route, endpoint)
            status = response.status if response.status != UNANSWERED else None
            return response
        finally:
            self._counters.request_ended(route.template, status)

    def _new_injector(self) -> tuple[FaultSchedule, FaultInjector | None]:
        """Restart the sequence of faults; return no injector if there is nothing to inject."""
        faults = self._settings.faults
        chance = FaultSchedule(faults, self._counters.faults)
        if not faults.rules and not self._stale:
            return chance, None
        return chance, FaultInjector(
            chance,
            world=self.world,
            now=self.options.now,
            refuse=self._refuse,
            stale=self._stale,
        )

    def _refuse(self, seconds: float) -> None:
        if self._listener is not None:
            self._listener.refuse(seconds)


async def serve_forever(options: SandboxOptions, on_ready: Callable[[Sandbox], None]) -> None:
    """Run a sandbox until cancelled.

    Args:
        options: see ``SandboxOptions``.
        on_ready: called with the sandbox once it listens.

    Raises:
        OSError: the port is taken.
    """
    async with Sandbox(options) as sandbox:
        on_ready(sandbox)
        await anyio.sleep_forever()


async def _let_cancelled_handlers_end() -> None:
    # The runner cancels handlers and closes transports without waiting; both need a few loop iterations.
    for _ in range(5):
        await asyncio.sleep(0)
