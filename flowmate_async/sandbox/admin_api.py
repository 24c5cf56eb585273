"""Admin API: the sandbox's own routes below ``/_sandbox/``, which the real service does not have.

They need the admin token. They are not counted, limited or delayed, and are exempt from faults and outages.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar
from urllib.parse import unquote

import msgspec
from aiohttp import web

from flowmate_async.sandbox.answers import Answer, error, json_answer, json_body, unknown_route
from flowmate_async.sandbox.changes import (
    NewSecret,
    NewUser,
    SecretChange,
    UserChange,
    break_secret,
    heal_secret,
    rotate,
)
from flowmate_async.sandbox.faults import Faults
from flowmate_async.sandbox.ids import object_id_of
from flowmate_async.sandbox.options import EVERY_CLIENT, Settings, SettingsChange
from flowmate_async.sandbox.provider_faults import ProviderFault
from flowmate_async.sandbox.responses import deliver
from flowmate_async.sandbox.secret import Secret
from flowmate_async.sandbox.stats import SandboxStats
from flowmate_async.sandbox.user import User
from flowmate_async.sandbox.world import World

PREFIX = "/_sandbox/"

_CHUNK_LINES = 500

T = TypeVar("T")


class _Controlled(Protocol):
    """What the admin API needs from a sandbox."""

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


class _UnknownError(Exception):
    """The path names a user or a secret that does not exist."""


class AdminApi:
    """Remote control of a running sandbox: ``routes`` lists what it can do."""

    __slots__ = ("_routes", "_sandbox")

    def __init__(self, sandbox: _Controlled) -> None:
        self._sandbox = sandbox
        # Each takes the second part of the path and the body, and returns the value to send as JSON.
        self._routes: dict[str, Callable[[str, bytes], object]] = {
            "GET stats": lambda _name, _body: sandbox.stats(),
            "POST reset-stats": self._reset_stats,
            "GET arrivals": lambda _name, _body: sandbox.arrivals,
            "GET settings": lambda _name, _body: sandbox.settings,
            "POST settings": lambda _name, body: sandbox.change(_read(body, SettingsChange)),
            "GET faults": lambda _name, _body: sandbox.settings.faults,
            "POST faults": self._set_faults,
            "POST users": lambda _name, body: _read(body, NewUser).apply(sandbox.world),
            "GET users/{}": lambda name, _body: self._user(name),
            "PATCH users/{}": self._change_user,
            "DELETE users/{}": self._delete_user,
            "POST users/{}/revoke-tokens": self._revoke_tokens,
            "POST revoke-tokens": lambda _name, _body: {"revoked": sandbox.world.revoke_tokens()},
            "POST secrets": lambda _name, body: _read(body, NewSecret).apply(sandbox.world),
            "GET secrets/{}": lambda name, _body: self._secret(name),
            "PATCH secrets/{}": self._change_secret,
            "POST secrets/{}/rotate": lambda name, _body: rotate(sandbox.world, self._secret(name)),
            "POST secrets/{}/break": lambda name, _body: break_secret(sandbox.world, self._secret(name)),
            "POST secrets/{}/heal": lambda name, _body: heal_secret(sandbox.world, self._secret(name)),
            "DELETE secrets/{}": self._delete_secret,
            "POST clients/{}/break": lambda name, _body: self._set_client(name, ProviderFault.HTTP_ERROR),
            "POST clients/{}/heal": lambda name, _body: self._set_client(name, None),
        }

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request whose path starts with ``PREFIX``."""
        path = request.raw_path.partition("?")[0]
        if request.headers.get("Authorization") != f"Bearer {self._sandbox.admin_token}":
            return deliver(request, error(401, "The sandbox's own routes need its admin token."))
        collection, *rest = path.removeprefix(PREFIX).split("/")
        name, verb = unquote(rest[0]) if rest else "", "/".join(rest[1:])
        route = f"{request.method} {'/'.join(filter(None, (collection, '{}' if rest else '', verb)))}"
        if route == "GET truth":
            return await self._truth(request)
        if route not in self._routes:
            return deliver(request, unknown_route(request.method, path))
        return deliver(request, self._answer(route, name, await request.read()))

    def _answer(self, route: str, name: str, body: bytes) -> Answer:
        try:
            return json_answer(json_body(self._routes[route](name, body)))
        except _UnknownError as problem:
            return error(404, str(problem))
        except (msgspec.DecodeError, ValueError) as problem:
            return error(400, str(problem))

    def _set_faults(self, _name: str, body: bytes) -> Faults:
        return self._sandbox.change(SettingsChange(faults=_read(body, Faults))).faults

    def _reset_stats(self, _name: str, _body: bytes) -> SandboxStats:
        self._sandbox.reset_stats()
        return self._sandbox.stats()

    def _user(self, username: str) -> User:
        user = self._sandbox.world.user(username)
        if user is None:
            raise _UnknownError(f"the sandbox has no user {username!r}")
        return user

    def _change_user(self, username: str, body: bytes) -> User:
        return _read(body, UserChange).apply(self._sandbox.world, self._user(username))

    def _delete_user(self, username: str, _body: bytes) -> User:
        user = self._user(username)
        self._sandbox.world.delete_user(username)
        return user

    def _revoke_tokens(self, username: str, _body: bytes) -> dict[str, int]:
        return {"revoked": self._sandbox.world.revoke_tokens(self._user(username).username)}

    def _secret(self, secret_id: str) -> Secret:
        secret = self._sandbox.world.secret(object_id_of(secret_id) or "")
        if secret is None:
            raise _UnknownError(f"the sandbox has no secret {secret_id!r}")
        return secret

    def _change_secret(self, secret_id: str, body: bytes) -> Secret:
        return _read(body, SecretChange).apply(self._sandbox.world, self._secret(secret_id))

    def _delete_secret(self, secret_id: str, _body: bytes) -> Secret:
        secret = self._secret(secret_id)
        self._sandbox.world.remove_secret(secret.id)
        return secret

    def _set_client(self, client: str, fault: ProviderFault | None) -> Settings:
        """Change how the provider treats an OAuth client, or ``EVERY_CLIENT``; healing releases locks."""
        faults = {name: one for name, one in self._sandbox.settings.client_faults.items() if name != client}
        if fault is not None:
            faults[client] = fault
        else:
            self._sandbox.world.release_locks(None if client == EVERY_CLIENT else client)
        return self._sandbox.change(SettingsChange(client_faults=faults))

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


def _read(body: bytes, type_: type[T]) -> T:
    return msgspec.json.decode(body, type=type_)
