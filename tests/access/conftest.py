"""FlowMate in memory on virtual time: a clock that can jump, an upstream that can be sick, a client."""

import asyncio
import contextlib
import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from flowmate_async import FlowMate
from flowmate_async.testing.memory_transport import (
    ImmediateMemoryTransport,
    MemoryTransport,
    json_response,
)
from flowmate_async.transport.base import Response, TransportError

EPOCH = 1_800_000_000.0
OAUTH = "OA2_AUTHORIZATION_CODE"
SESSION = "SESSION_AUTH"
UPSTREAM_WINDOW = 900.0


@pytest.fixture
def anyio_backend(virtual_time) -> Any:
    """Every test of this folder runs on virtual time, unless its module says otherwise."""
    return virtual_time


@pytest.fixture(autouse=True)
def _no_blocking(no_blocking):
    """The library may not block the loop."""


class VirtualClock:
    """The loop's time; the wall clock can be set wrong."""

    def __init__(self):
        self.wall_is_off_by = 0.0

    def monotonic(self):
        return asyncio.get_running_loop().time()

    def wall(self):
        return EPOCH + self.monotonic() + self.wall_is_off_by

    async def sleep(self, seconds):
        # Virtual time stands still in a sleep below its resolution, and a float's remainder is one.
        await asyncio.sleep(max(seconds, 1 / 1024))


class Kept:
    """A secret as the upstream keeps it.

    Its owners would all see the same token. Here it names who asked, so that a value that reaches another
    owner shows.
    """

    def __init__(self, owners, secret_id, kind, *, life, expires, refreshable):
        self.owners = owners
        self.secret_id = secret_id
        self.kind = kind
        self.life = life
        self.expires = expires
        self.refreshable = refreshable
        self.refresh_token = None
        self.number = 1

    def token(self, username):
        return f"{username}/{self.secret_id}/{self.number}"


class Upstream:
    """What the contract says the upstream does, in memory; counts what it is asked.

    ``overlaps`` counts equal requests at the same time, ``lock_waits`` requests that would have to wait for
    another one's refresh of the same secret.

    ``faults`` maps a secret id to the name of a fault that its GETs meet; ``sick`` is asked before anything
    else and may answer itself.
    """

    def __init__(self, *, latency=0.125):
        self.latency = latency
        self.kept = {}
        self.tokens = {}
        self.faults = {}
        self.sick = lambda _method, _path, _username: None
        self.gets = Counter()
        self.impersonations = Counter()
        self.refreshes = Counter()
        self.requests = []
        self.on_wire = Counter()
        self.overlaps = 0
        self.refreshing = Counter()
        self.lock_waits = 0
        self._made = itertools.count(1)

    def now(self):
        return EPOCH + asyncio.get_running_loop().time()

    def add(self, owner, secret_id, kind=OAUTH, *, life=3600.0, left=None, refreshable=True):
        """Add a secret with ``left`` seconds left (default: its whole life), and ``life`` after a refresh.

        ``owner`` is a username, or a tuple of several.
        """
        owners = owner if isinstance(owner, tuple) else (owner,)
        expiring = kind == OAUTH or (kind == SESSION and left is not None)
        expires = self.now() + (life if left is None else left) if expiring else None
        kept = Kept(owners, secret_id, kind, life=life, expires=expires, refreshable=refreshable)
        self.kept[secret_id] = kept
        return kept

    def revoke_tokens(self, username=None):
        """Make the user tokens of one user, or of everybody, invalid."""
        self.tokens = {token: owner for token, owner in self.tokens.items() if username not in (None, owner)}

    async def answer(self, method, path, headers, body):
        bearer = dict(headers.pairs)["Authorization"].removeprefix("Bearer ")
        impersonated = msgspec.json.decode(body)["username"] if body else None
        username = impersonated or self.tokens.get(bearer)
        self.requests.append((asyncio.get_running_loop().time(), method, path, username))
        key = impersonated or (bearer, path)
        self.on_wire[key] += 1
        self.overlaps += self.on_wire[key] > 1
        refreshing = self._refreshing(method, path)
        self.refreshing[refreshing] += 1
        self.lock_waits += refreshing is not None and self.refreshing[refreshing] > 1
        try:
            if impersonated:
                self.impersonations[username] += 1
            else:
                self.gets[path.rpartition("/")[2]] += 1
            await asyncio.sleep(self.latency)
            sick = self.sick(method, path, username)
            if sick is not None:
                return sick
            if impersonated:
                return self._impersonate(username)
            if path.startswith("/secrets/?"):
                return DEAD_TOKEN if username is None else self._list(username)
            return await self._get(bearer, path.rpartition("/")[2])
        finally:
            self.on_wire[key] -= 1
            self.refreshing[refreshing] -= 1

    def _refreshing(self, method, path):
        """The secret that this request makes upstream refresh, if any."""
        kept = self.kept.get(path.rpartition("/")[2]) if method == "GET" else None
        return kept.secret_id if kept is not None and self._is_due(kept) else None

    def _list(self, username):
        mine = [kept for kept in self.kept.values() if username in kept.owners]
        data = [listed(kept) for kept in mine]
        return json_response(msgspec.json.encode({"data": data, "meta": {"total": len(data)}}))

    def _impersonate(self, username):
        token = f"token-{username}-{next(self._made)}"
        self.tokens[token] = username
        return json_response(msgspec.json.encode({"token": token, "id": "0" * 24}))

    async def _get(self, bearer, secret_id):
        username = self.tokens.get(bearer)
        if username is None:
            return DEAD_TOKEN
        kept = self.kept.get(secret_id)
        if kept is None:
            return NOT_FOUND
        if username not in kept.owners:
            return FORBIDDEN
        fault = self.faults.get(secret_id)
        if fault == "masked":
            return json_response(msgspec.json.encode({"data": shown(kept, username, masked=True)}))
        if fault is not None:
            return await FAULTS[fault]()
        self._refresh(kept)
        return json_response(msgspec.json.encode({"data": shown(kept, username)}))

    def _is_due(self, kept):
        if kept.kind == SESSION and kept.expires is None:
            return kept.refreshable
        return kept.refreshable and kept.expires is not None and kept.expires - self.now() < UPSTREAM_WINDOW

    def _refresh(self, kept):
        if self._is_due(kept):
            self.refreshes[kept.secret_id] += 1
            kept.number += 1
            kept.expires = None if kept.expires is None else self.now() + kept.life


def expiry(kept):
    if kept.expires is None:
        return None
    return datetime.fromtimestamp(kept.expires, UTC).isoformat(timespec="milliseconds")


def listed(kept):
    """The secret as a listing shows it."""
    value = {"value": {"expires": expiry(kept)}} if kept.kind in (OAUTH, SESSION) else {}
    return {"_id": kept.secret_id, "name": "an app", "type": kept.kind, "owners": [], **value}


def shown(kept, username, *, masked=False):
    """The secret as a GET shows it."""
    token = kept.token(username)
    token = "*" * (len(token) - 4) + token[-4:] if masked else token
    expires = expiry(kept)
    values = {
        OAUTH: {"accessToken": token, "expires": expires},
        SESSION: {"accessToken": token, "expires": expires},
        "SIMPLE": {"username": username, "passphrase": token},
        "API_KEY": {"key": token, "headerName": "X-Key"},
    }
    value = values[kept.kind]
    if kept.refresh_token is not None:
        value["refreshToken"] = kept.refresh_token
    return {"_id": kept.secret_id, "name": "an app", "type": kept.kind, "owners": [], "value": value}


DEAD_TOKEN = json_response(b'{"message":"Token not found in IAM"}', 401)
NOT_FOUND = json_response(b'{"message":""}', 404)
FORBIDDEN = json_response(b'{"message":""}', 403)


def _answering(response):
    async def answer():
        return response

    return answer


def _breaking(failure, seconds=0.0):
    async def answer():
        await asyncio.sleep(seconds)
        raise TransportError(failure, "in a test")

    return answer


FAULTS = {
    "503": _answering(json_response(b'{"message":"down"}', 503)),
    "502": _answering(json_response(b'{"message":"bad gateway"}', 502)),
    "429": _answering(json_response(b'{"message":"slow down"}', 429)),
    "refresh failed": _answering(json_response(b'{"message":"HTTP Error Response: 400 Bad Request"}', 500)),
    "locked": _answering(json_response(b'{"message":"Max secret refresh retry iterations reached"}', 500)),
    "database down": _answering(json_response(b'{"message":""}', 401)),
    "iam down": _answering(json_response(b'{"message":"Details: Authorization failed"}', 401)),
    "not found": _answering(NOT_FOUND),
    "forbidden": _answering(FORBIDDEN),
    "html": _answering(Response(200, {"content-type": "text/html"}, b"<html>")),
    "timeout": _breaking("timeout", 30.0),
    "reset": _breaking("interrupted"),
    "stale": _breaking("stale"),
    "unreachable": _breaking("connect"),
}


class World:
    """A clock, an upstream and a client of it: ``async with World() as world``."""

    transport = MemoryTransport

    def __init__(self, *, latency=0.125, **options):
        self.clock = VirtualClock()
        self.upstream = Upstream(latency=latency)
        self.events = []
        settings = {"rate": None, "concurrency": 64} | options
        self.fm = FlowMate(
            admin_token="admin",
            transport=self.transport(self.upstream.answer),
            clock=self.clock,
            on_event=self.events.append,
            **settings,
        )

    async def __aenter__(self):
        await self.fm.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.fm.__aexit__(*error)

    async def token(self, username, secret_id, min_valid=60.0):
        """The credential as the app would see it."""
        return presented(await self.fm.credential(username, secret_id, min_valid=min_valid))

    async def together(self, count, username, secret_id, min_valid=60.0):
        """What so many callers get who ask at once: credentials as the app sees them, or errors."""
        calls = (self.token(username, secret_id, min_valid) for _ in range(count))
        return await asyncio.gather(*calls, return_exceptions=True)

    def entry(self, username, secret_id):
        """The entry of the cache, if there is one."""
        return self.fm._parts.credentials._entries.get((username, secret_id))

    def served_stale(self):
        """How often a valid value was served though its refresh had failed."""
        return self.fm.stats().cache.stale_served


def presented(secret):
    """The credential as the app sees it."""
    value = secret.value
    for name in ("access_token", "key", "passphrase"):
        if hasattr(value, name):
            return getattr(value, name)
    raise AssertionError(secret)


async def settle():
    """Let everything that is due now happen, and what waits for one exchange."""
    await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def world_with(username="ali", secret_id="ali-s-secret", kind=OAUTH, *, options=None, **secret):
    """A world with one secret."""
    async with World(**(options or {})) as world:
        world.upstream.add(username, secret_id, kind, **secret)
        yield world


class Toolbox:
    """Helpers that the tests of this folder share; test folders are not packages to import from."""

    World = World
    Upstream = Upstream
    VirtualClock = VirtualClock
    world_with = staticmethod(world_with)
    presented = staticmethod(presented)
    settle = staticmethod(settle)
    faults = FAULTS
    dead_token = DEAD_TOKEN
    json_response = staticmethod(json_response)
    OAUTH = OAUTH
    SESSION = SESSION
    EPOCH = EPOCH


@pytest.fixture(scope="module", params=[MemoryTransport, ImmediateMemoryTransport])
def both_ways(request):
    """Every request in a task of its own, and every one that can be sent at once without."""
    World.transport = request.param
    yield
    World.transport = MemoryTransport


@pytest.fixture(scope="session")
def kit():
    """The world and its tools."""
    return Toolbox


@pytest.fixture
async def world(kit):
    """An empty world."""
    async with kit.World() as made:
        yield made
