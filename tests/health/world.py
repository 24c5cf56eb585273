"""A tenant of the sandbox whose credentials break and heal, and a clock that can skip to the next night."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from flowmate_async import FlowMate, SyncReport
from flowmate_async.clock import SystemClock
from flowmate_async.sandbox import ProviderFault, Sandbox, SandboxOptions
from flowmate_async.sandbox.secret import Secret
from flowmate_async.sandbox.timestamps import iso
from flowmate_async.sandbox.user import RAW_READ
from flowmate_async.stores import Store

OAUTH = "OA2_AUTHORIZATION_CODE"


class NightClock(SystemClock):
    """The real time, some nights later."""

    def __init__(self) -> None:
        self.later = 0.0

    def wall(self) -> float:
        return time.time() + self.later


class Tenant:
    """Users with an OAuth token each, of a few OAuth clients, and an API key for some."""

    def __init__(self, *, users: int, clients: int, keys: int = 0) -> None:
        self.clock = NightClock()
        self.sandbox = Sandbox(SandboxOptions(empty_world=True, now=self.clock.wall, lock_seconds=0.05))
        self.tokens: dict[str, Secret] = {}
        self.keys: dict[str, Secret] = {}
        world = self.sandbox.world
        for number in range(users):
            name = f"user-{number:04}"
            world.add_user(name)
            value: dict[str, Any] = {
                "authClientId": f"client-{number % clients}",
                "accessToken": f"access-{number}",
                "refreshToken": f"refresh-{number}",
                "scope": "",
                "expires": iso(self.clock.wall() - 60),
            }
            self.tokens[name] = world.add_secret(name, type=OAUTH, value=value)
            if number < keys:
                key = {"key": f"the-key-number-{number}", "headerName": "X-Key"}
                self.keys[name] = world.add_secret(name, type="API_KEY", value=key)

    def next_night(self) -> None:
        """Skip a day, so that every access token has to be renewed."""
        self.clock.later += 86_400.0

    def revoke(self, *names: str) -> None:
        """Have the provider refuse these users' renewals with 400."""
        for name in names:
            self.tokens[name].fault = ProviderFault.HTTP_ERROR

    def reconnect(self, *names: str) -> None:
        """Have these users connect the app again."""
        for name in names:
            self.tokens[name].fault = None
            self.tokens[name].locked_at = None

    def mask(self, *names: str, masked: bool = True) -> None:
        """Revoke or grant the permission to read credentials in plain text."""
        for name in names:
            user = self.sandbox.world.user(name)
            assert user is not None
            user.permissions = () if masked else (RAW_READ,)

    def of_client(self, client: str) -> list[str]:
        """The users of an OAuth client."""
        return [name for name, secret in self.tokens.items() if secret.value["authClientId"] == client]

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[FlowMate]:
        """A client of the running sandbox."""
        async with FlowMate(
            admin_token=self.sandbox.admin_token,
            base_url=self.sandbox.url,
            rate=None,
            clock=self.clock,
            **options,
        ) as fm:
            yield fm

    async def sync(self, store: Store, **options: Any) -> SyncReport:
        """Sync all users with a new client, which remembers no failure of the last night."""
        async with self.client() as fm:
            return await fm.sync(store, **options)
