"""The whole job without this library: the sync that a good engineer writes in an afternoon.

aiohttp with everything off that the job does not need, msgspec, one worker per request in flight, AES-GCM,
and SQLite in batches with ``synchronous=FULL``. It has no retries, no rate limit, no second page, no
resumption and no check of what it receives: all of that comes with the library.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import aiohttp
import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from yarl import URL

from flowmate_async.bench.canned import ADMIN_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Target
from flowmate_async.transport.tls import client_context

BATCH = 64
_SCHEMA = """
pragma journal_mode = wal;
pragma synchronous = full;
create table credentials (username text, id text, type text, sealed blob, primary key (username, id));
create table done (username text primary key, at real);
"""

Secret = tuple[str, str, bytes]
"""Id, type, and the JSON of the secret."""


class _Token(msgspec.Struct):
    token: str


class _Item(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    type: str = ""


class _Page(msgspec.Struct):
    data: list[_Item]


class _Answer(msgspec.Struct):
    data: msgspec.Raw


_decode_token = msgspec.json.Decoder(_Token).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class Database:
    """Sealed rows in SQLite, written in batches of users on a thread."""

    def __init__(self, path: Path) -> None:
        self._key = AESGCM(os.urandom(32))
        self._turn = asyncio.Lock()
        self._waiting: list[tuple[str, list[Secret]]] = []
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.executescript(_SCHEMA)

    async def put(self, username: str, secrets: list[Secret]) -> None:
        """Write a user's secrets, with others' as soon as there are enough of them."""
        self._waiting.append((username, secrets))
        if len(self._waiting) >= BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Write everything that waits."""
        users, self._waiting = self._waiting, []
        async with self._turn:
            await asyncio.to_thread(self._write, users)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _write(self, users: list[tuple[str, list[Secret]]]) -> None:
        at = time.time()
        with self._connection as connection:
            connection.executemany(
                "insert or replace into credentials values (?, ?, ?, ?)", self._rows(users)
            )
            connection.executemany(
                "insert or replace into done values (?, ?)", [(user, at) for user, _ in users]
            )

    def _rows(self, users: list[tuple[str, list[Secret]]]) -> Iterator[tuple[str, str, str, bytes]]:
        encrypt = self._key.encrypt
        for username, secrets in users:
            for secret_id, kind, body in secrets:
                nonce = os.urandom(12)
                yield (
                    username,
                    secret_id,
                    kind,
                    nonce + encrypt(nonce, body, f"{username}/{secret_id}".encode()),
                )


class Api:
    """The three requests."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._admin = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        self._impersonate = URL(f"{url}/impersonate", encoded=True)
        self._listing = URL(f"{url}/secrets/?page%5Bsize%5D=100&page%5Bnumber%5D=1", encoded=True)
        self._secrets = f"{url}/secrets/"

    async def read(self, username: str) -> list[Secret]:
        """All secrets of one user."""
        async with self._session.post(
            self._impersonate, json={"username": username}, headers=self._admin
        ) as response:
            headers = {"Authorization": f"Bearer {_decode_token(await response.read()).token}"}
        async with self._session.get(self._listing, headers=headers) as response:
            items = _decode_page(await response.read()).data
        secrets = []
        for item in items:
            url = URL(self._secrets + item.id, encoded=True)
            async with self._session.get(url, headers=headers) as response:
                secrets.append((item.id, item.type, bytes(_decode_answer(await response.read()).data)))
        return secrets


@contextlib.asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Api]:
    """A session without what the job does not need: cookies, decompression, timers, a limit of its own."""
    connector = aiohttp.TCPConnector(
        limit=0, ssl=client_context(ca_file=target.ca_file) if target.ca_file else True
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        raise_for_status=True,
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        yield Api(session, target.url)


async def sweep(api: Api, usernames: Iterable[str], database: Database | None = None) -> int:
    """Read everything of these users, into the database where there is one. Return the number of secrets."""
    left, count = iter(usernames), 0

    async def work() -> None:
        nonlocal count
        for username in left:
            secrets = await api.read(username)
            count += len(secrets)
            if database is not None:
                await database.put(username, secrets)

    async with asyncio.TaskGroup() as workers:
        for _ in range(CONCURRENCY):
            workers.create_task(work())
    if database is not None:
        await database.flush()
    return count
