"""pyqwest (Rust): one client; whole answers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pyqwest

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    certificate = Path(target.ca_file).read_bytes() if target.ca_file else None
    url = f"{target.url}/secrets/{SECRET_ID}"
    async with pyqwest.HTTPTransport(tls_ca_cert=certificate) as transport:
        client = pyqwest.Client(transport)

        async def fetch(_number: int) -> str:
            response = await client.get(url, headers={"Authorization": f"Bearer {USER_TOKEN}"})
            if response.status != 200:
                raise ValueError(response.status)
            return access_token(response.content)

        yield in_workers(fetch, ACCESS_TOKEN)
