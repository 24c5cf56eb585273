"""Sandbox: the twin as a server on the loopback interface, from start to prompt stop.

What is wired to what is visible in the constructor. The rules of the contract live in the modules
around this one, never here.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
import msgspec
from aiohttp import web

from .delivery import deliver
from .desk import PREFIX, Desk
from .endpoints import Endpoints
from .options import SandboxOptions, Settings, SettingsChange
from .passage import Passage
from .refresh import Refresher
from .routes import route_of
from .stats import Counters, SandboxStats
from .tokens import new_token
from .world import World

__all__ = ["Sandbox", "serve_forever"]

_HOST = "127.0.0.1"
_BACKLOG = 1024


class Sandbox:
    """Local twin of the upstream, for `async with`.

    `world` holds users, secrets and tokens to inspect and change; `stats()` counts what came in.
    Leaving the block closes every connection at once, hanging requests included.
    """

    def __init__(self, options: SandboxOptions | None = None) -> None:
        self.options = options or SandboxOptions()
        self.admin_token = self.options.admin_token or new_token()
        self.world = World(self.options)
        self._settings = self.options.settings()
        self._counters = Counters()
        self._passage = Passage(self._settings)
        refresher = Refresher(
            self.options,
            settings=lambda: self._settings,
            counters=self._counters,
            keep=self.world.keep,
        )
        self._endpoints = Endpoints(
            self.world,
            admin_token=self.admin_token,
            refresher=refresher,
            counters=self._counters,
            settings=lambda: self._settings,
        ).by_template
        self._desk = Desk(self)
        self._runner: web.ServerRunner | None = None
        self._port = self.options.port

    def __repr__(self) -> str:
        """Name the address, never the token."""
        return f"<Sandbox {self.url}>"

    @property
    def url(self) -> str:
        """Base URL; the port is known once the sandbox runs."""
        scheme = "http" if self.options.ssl_context is None else "https"
        return f"{scheme}://{_HOST}:{self._port}"

    @property
    def settings(self) -> Settings:
        """What the sandbox does at the moment."""
        return self._settings

    def configure(self, **changes: object) -> Settings:
        """Change settings while requests run: the fields of `Settings` by name."""
        return self.change(msgspec.convert(changes, SettingsChange))

    def change(self, change: SettingsChange) -> Settings:
        """Apply a partial update and return the settings from now on."""
        self._settings = change.applied_to(self._settings)
        self._passage.configure(self._settings)
        return self._settings

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
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=self.options.shutdown_seconds)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            _HOST,
            self.options.port,
            ssl_context=self.options.ssl_context,
            backlog=_BACKLOG,
        )
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening, cancel what hangs, close every connection."""
        if self._runner is not None:
            with anyio.CancelScope(shield=True):
                await self._runner.cleanup()
                await _let_cancelled_handlers_end()
            self._runner = None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith(PREFIX):
            return await self._desk.serve(request)
        return await self._exchange(request)

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        """One counted exchange: passage, endpoint, delivery."""
        route = route_of(request.method, request.raw_path)
        status = None
        self._counters.request_began()
        try:
            answer = await self._passage.before(route)
            if answer is None:
                answer = await self._endpoints[route.template](request, route)
            response = deliver(request, answer)
            status = response.status
            return response
        finally:
            self._counters.request_ended(route.template, status)


async def serve_forever(options: SandboxOptions, on_ready: Callable[[Sandbox], None]) -> None:
    """Run a sandbox until cancelled; `on_ready` gets it once it listens."""
    async with Sandbox(options) as sandbox:
        on_ready(sandbox)
        await anyio.sleep_forever()


async def _let_cancelled_handlers_end() -> None:
    # The runner cancels handlers and closes transports without waiting; both need a few turns.
    for _ in range(5):
        await asyncio.sleep(0)
