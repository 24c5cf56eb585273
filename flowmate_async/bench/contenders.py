"""The contenders of every installation: this library on each transport, and plain aiohttp."""

import asyncio
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp

from flowmate_async.bench.canned import ACCESS_TOKEN, ADMIN_TOKEN, SECRET_ID, SECRET_IDS, USER_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Contender, Run, Target, in_workers
from flowmate_async.client import FlowMate
from flowmate_async.sync.outcomes import UserSynced
from flowmate_async.values.secrets import OAuth2Secret

_BATCH = 1000


def library(transport: str) -> Contender:
    """``fm.get_secret(...)``, end to end: impersonation, flights, flow control, statistics, a typed secret.

    Each worker is a user of its own, since flights of one secret are joined.

    Args:
        transport: ``"aiohttp"`` or ``"wire"``.
    """

    @asynccontextmanager
    async def contender(target: Target) -> AsyncIterator[Run]:
        async with client(transport, target) as fm:
            users = [f"user-{number}@tenant.example" for number in range(CONCURRENCY)]

            async def fetch(number: int) -> str:
                secret = await fm.get_secret(users[number], SECRET_ID)
                return secret.value.access_token if isinstance(secret, OAuth2Secret) else ""

            yield in_workers(fetch, ACCESS_TOKEN)

    return contender


def sweep(transport: str) -> Contender:
    """``fm.sweep(...)`` of always new users: an impersonation, a listing and its secrets for each.

    Args:
        transport: ``"aiohttp"`` or ``"wire"``.
    """

    @asynccontextmanager
    async def contender(target: Target) -> AsyncIterator[Run]:
        async with client(transport, target) as fm:

            async def run(seconds: float) -> int:
                requests, usernames = (
                    sum(fm.stats().statuses.values()),
                    _names_until(time.perf_counter() + seconds),
                )
                async for outcome in fm.sweep(usernames):
                    if not isinstance(outcome, UserSynced) or len(outcome.secrets) != len(SECRET_IDS):
                        raise ValueError(f"a user was not read: {outcome}")
                return sum(fm.stats().statuses.values()) - requests

            yield run

    return contender


def cached(transport: str) -> Contender:
    """``fm.credential(...)`` of a credential that is held and fresh: one caller, no request.

    Args:
        transport: the transport, which sends nothing here.
    """

    @asynccontextmanager
    async def contender(target: Target) -> AsyncIterator[Run]:
        async with client(transport, target) as fm:
            await fm.credential("user@tenant.example", SECRET_ID)

            async def run(seconds: float) -> int:
                hits, end = 0, time.perf_counter() + seconds
                while time.perf_counter() < end:
                    for _ in range(_BATCH):
                        await fm.credential("user@tenant.example", SECRET_ID)
                    hits += _BATCH
                return hits

            yield run

    return contender


def _names_until(end: float) -> Iterator[str]:
    for number in itertools.count():
        if time.perf_counter() >= end:
            return
        yield f"user-{number}@tenant.example"


def client(transport: str, target: Target) -> FlowMate:
    """Return a client of the server under load, without a rate limit; not yet entered.

    Args:
        transport: ``"aiohttp"`` or ``"wire"``.
        target: the server.
    """
    return FlowMate(
        admin_token=ADMIN_TOKEN,
        base_url=target.url,
        rate=None,
        concurrency=CONCURRENCY,
        transport=transport,
        ca_file=target.ca_file,
    )


@asynccontextmanager
async def aiohttp_idiomatic(target: Target) -> AsyncIterator[Run]:
    """Common aiohttp code: one session, a semaphore, ``gather``, ``raise_for_status``, ``json``."""
    context = ssl.create_default_context(cafile=target.ca_file)
    semaphore = asyncio.Semaphore(CONCURRENCY)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:

        async def fetch(secret_id: str, token: str) -> str:
            async with (
                semaphore,
                session.get(
                    f"{target.url}/secrets/{secret_id}", headers={"Authorization": f"Bearer {token}"}
                ) as response,
            ):
                response.raise_for_status()
                secret = (await response.json())["data"]
                return str(secret["value"]["accessToken"])

        async def run(seconds: float) -> int:
            requests, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                tokens = await asyncio.gather(*(fetch(SECRET_ID, USER_TOKEN) for _ in range(_BATCH)))
                if set(tokens) != {ACCESS_TOKEN}:
                    raise ValueError("the answer is not the secret")
                requests += len(tokens)
            return requests

        yield run
