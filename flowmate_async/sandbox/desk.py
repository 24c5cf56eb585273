"""Desk: the twin's own routes below `/_sandbox/`, which the real service does not have.

They need the admin token; they are neither counted nor limited nor delayed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from .answers import Answer, error, json_answer, json_body, unknown_route
from .delivery import deliver
from .faults import Faults
from .options import Settings, SettingsChange
from .stats import SandboxStats
from .world import World

__all__ = ["PREFIX", "Desk"]

PREFIX = "/_sandbox/"

_CHUNK_LINES = 500


class _Desked(Protocol):
    """What the desk needs of a sandbox."""

    @property
    def admin_token(self) -> str: ...
    @property
    def world(self) -> World: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def arrivals(self) -> Sequence[float]: ...
    def stats(self) -> SandboxStats: ...
    def reset_stats(self) -> None: ...
    def change(self, change: SettingsChange) -> Settings: ...


class Desk:
    """Remote control of a running sandbox."""

    __slots__ = ("_routes", "_sandbox")

    def __init__(self, sandbox: _Desked) -> None:
        self._sandbox = sandbox
        self._routes: dict[str, Callable[[web.BaseRequest], Awaitable[Answer]]] = {
            "GET stats": self._stats,
            "GET settings": self._settings,
            "POST settings": self._change_settings,
            "GET faults": self._faults,
            "POST faults": self._set_faults,
            "GET arrivals": self._arrivals,
            "POST reset-stats": self._reset_stats,
        }

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request whose path starts with `PREFIX`."""
        path = request.raw_path.partition("?")[0]
        if request.headers.get("Authorization") != f"Bearer {self._sandbox.admin_token}":
            return deliver(request, error(401, "The sandbox's own routes need its admin token."))
        errand = f"{request.method} {path.removeprefix(PREFIX)}"
        if errand == "GET truth":
            return await self._truth(request)
        if errand not in self._routes:
            return deliver(request, unknown_route(request.method, path))
        return deliver(request, await self._routes[errand](request))

    async def _stats(self, _request: web.BaseRequest) -> Answer:
        return json_answer(json_body(self._sandbox.stats()))

    async def _settings(self, _request: web.BaseRequest) -> Answer:
        return json_answer(json_body(self._sandbox.settings))

    async def _change_settings(self, request: web.BaseRequest) -> Answer:
        try:
            change = msgspec.json.decode(await request.read(), type=SettingsChange)
            settings = self._sandbox.change(change)
        except (msgspec.DecodeError, ValueError) as problem:
            return error(400, str(problem))
        return json_answer(json_body(settings))

    async def _faults(self, _request: web.BaseRequest) -> Answer:
        return json_answer(json_body(self._sandbox.settings.faults))

    async def _set_faults(self, request: web.BaseRequest) -> Answer:
        try:
            faults = msgspec.json.decode(await request.read(), type=Faults)
        except msgspec.DecodeError as problem:
            return error(400, str(problem))
        return json_answer(json_body(self._sandbox.change(SettingsChange(faults=faults)).faults))

    async def _arrivals(self, _request: web.BaseRequest) -> Answer:
        return json_answer(json_body(self._sandbox.arrivals))

    async def _reset_stats(self, _request: web.BaseRequest) -> Answer:
        self._sandbox.reset_stats()
        return json_answer(json_body(self._sandbox.stats()))

    async def _truth(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        encode, lines = msgspec.json.Encoder().encode, bytearray()
        for number, truth in enumerate(self._sandbox.world.truth(), 1):
            lines += encode(truth)
            lines += b"\n"
            if number % _CHUNK_LINES == 0:
                await response.write(bytes(lines))
                lines.clear()
                await asyncio.sleep(0)
        await response.write(bytes(lines))
        await response.write_eof()
        return response
