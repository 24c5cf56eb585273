"""Two apps on this machine, a sandbox that keeps their credential, and each way to attach it to requests."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web

from flowmate_async import FlowMate
from flowmate_async.integrations.aiohttp import CredentialMiddleware
from flowmate_async.integrations.httpx import FlowMateAuth, FlowMateTransport
from flowmate_async.sandbox import Sandbox, SandboxOptions

WORKER = "worker@tenant.example"
FIRST, SECOND = "first-access-token", "second-access-token"
KEY_HEADER = "X-Api-Key"


@pytest.fixture(autouse=True)
def _no_blocking(no_blocking):
    """The library may not block the loop."""


@dataclass
class Seen:
    """A request as it reached an app."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def credential(self) -> str | None:
        """What it carried."""
        return self.headers.get("authorization") or self.headers.get(KEY_HEADER.lower())


@dataclass
class App:
    """An app that answers 401 unless it finds a credential that it accepts; ``None`` accepts everybody."""

    accepts: set[str] | None = None
    url: str = ""
    seen: list[Seen] = field(default_factory=list)

    @property
    def credentials(self) -> list[str | None]:
        return [seen.credential for seen in self.seen]

    def redirect(self, target: str, *, status: int = 307) -> str:
        """The URL of a redirect to ``target``."""
        return str(httpx.URL(f"{self.url}/redirect", params={"target": target, "status": str(status)}))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = b"" if request.path == "/early" else await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path, headers, body))
        if request.path == "/drop":
            request.transport.abort()
        if request.path == "/redirect":
            return web.Response(
                status=int(request.query["status"]), headers={"Location": request.query["target"]}
            )
        if self.accepts is not None and self.seen[-1].credential not in self.accepts:
            long = request.path == "/long"
            return web.Response(status=401, text="who are you?" * (2**20 if long else 1))
        if request.path == "/early":
            return web.Response(text=str(len(await request.read())))
        return web.Response(text=body.decode() or "welcome")


@asynccontextmanager
async def running(app: App) -> AsyncIterator[App]:
    server = web.Application(client_max_size=2**26)
    server.router.add_route("*", "/{path:.*}", app.answer)
    runner = web.AppRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        app.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield app
    finally:
        await runner.cleanup()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """The app that the credential is for."""
    async with running(App()) as served:
        yield served


@pytest.fixture
async def elsewhere() -> AsyncIterator[App]:
    """Another origin."""
    async with running(App()) as served:
        yield served


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox with one user."""
    async with Sandbox(SandboxOptions(empty_world=True)) as twin:
        twin.world.add_user(WORKER)
        yield twin


@pytest.fixture
def oauth(sandbox: Sandbox) -> Any:
    """The user's OAuth token in the sandbox; replace it to rotate it."""
    return sandbox.world.add_secret(
        WORKER, type="OA2_AUTHORIZATION_CODE", value={"accessToken": FIRST, "expires": "2099-01-01T00:00:00Z"}
    )


@pytest.fixture
def api_key(sandbox: Sandbox) -> Any:
    """The user's API key."""
    return sandbox.world.add_secret(WORKER, type="API_KEY", value={"key": FIRST, "headerName": KEY_HEADER})


@dataclass
class Answer:
    """What the caller got."""

    status: int
    text: str
    hops: int


Send = Callable[..., Awaitable[Answer]]
Attach = Callable[..., Awaitable[Send]]


class Wayfarer:
    """Makes senders that attach a credential in one of the ways there are."""

    def __init__(self, fm: FlowMate, app: App, stack: AsyncExitStack, way: str) -> None:
        self._fm = fm
        self._app = app
        self._stack = stack
        self.way = way

    async def __call__(self, secret: Any, **options: Any) -> Send:
        options = {"origins": [self._app.url]} | options
        if self.way == "aiohttp":
            return await self._aiohttp(CredentialMiddleware(self._fm, WORKER, secret.id, **options))
        if self.way == "httpx transport":
            transport = FlowMateTransport(self._fm, WORKER, secret.id, **options)
            return await self._httpx(transport=transport)
        return await self._httpx(auth=FlowMateAuth(self._fm, WORKER, secret.id, **options))

    async def _aiohttp(self, middleware: CredentialMiddleware) -> Send:
        session = await self._stack.enter_async_context(aiohttp.ClientSession(middlewares=(middleware,)))

        async def send(method: str, url: str, *, body: Any = None, headers: Any = None) -> Answer:
            if isinstance(body, bytes) and len(body) > 2**20:
                body = io.BytesIO(body)  # as aiohttp asks for
            async with session.request(method, url, data=body, headers=headers) as response:
                return Answer(response.status, await response.text(), len(response.history))

        return send

    async def _httpx(self, **options: Any) -> Send:
        client = await self._stack.enter_async_context(
            httpx.AsyncClient(follow_redirects=True, trust_env=False, **options)
        )

        async def send(method: str, url: str, *, body: Any = None, headers: Any = None) -> Answer:
            response = await client.request(method, url, content=body, headers=headers)
            return Answer(response.status_code, response.text, len(response.history))

        return send


async def attaching(fm: FlowMate, app: App, way: str) -> AsyncIterator[Wayfarer]:
    async with AsyncExitStack() as stack:
        yield Wayfarer(fm, app, stack, way)


@pytest.fixture(params=["aiohttp", "httpx transport", "httpx auth"])
async def attach(fm, app, request) -> AsyncIterator[Wayfarer]:
    """Every way to attach a credential."""
    async for wayfarer in attaching(fm, app, request.param):
        yield wayfarer


@pytest.fixture(params=["aiohttp", "httpx transport"])
async def attach_per_hop(fm, app, request) -> AsyncIterator[Wayfarer]:
    """The ways that decide anew at each hop of a redirect, and so may use any header."""
    async for wayfarer in attaching(fm, app, request.param):
        yield wayfarer
