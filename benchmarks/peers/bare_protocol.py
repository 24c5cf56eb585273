"""No library: an ``asyncio.Protocol`` over httptools, msgspec into a struct. What is to be had, without any care.

No retries, no deadlines, no limits, no checks of framing, no pool: each worker owns a connection.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httptools

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Run, Target, in_workers
from peers.reading import access_token


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        answer, body, self._body = self._answer, self._body, b""
        answer.set_result(body)

    def send(self, request: bytes) -> asyncio.Future[bytes]:
        self._answer = self._loop.create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self._transport.close()


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    host, port = urlsplit(target.url).hostname, urlsplit(target.url).port
    context = ssl.create_default_context(cafile=target.ca_file) if target.ca_file else None
    request = (
        f"GET /secrets/{SECRET_ID} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {USER_TOKEN}\r\n\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    dialled = [await loop.create_connection(_Connection, host, port, ssl=context) for _ in range(CONCURRENCY)]
    connections = [connection for _, connection in dialled]

    async def fetch(number: int) -> str:
        return access_token(await connections[number].send(request))

    yield in_workers(fetch, ACCESS_TOKEN)
    for connection in connections:
        connection.close()
