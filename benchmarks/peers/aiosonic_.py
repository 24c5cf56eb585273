"""aiosonic: one client with a pool of the same size."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiosonic
from aiosonic.pools import PoolConfig

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    context = ssl.create_default_context(cafile=target.ca_file) if target.ca_file else None
    connector = aiosonic.TCPConnector(pool_configs={":default": PoolConfig(size=CONCURRENCY)})
    url = f"{target.url}/secrets/{SECRET_ID}"
    async with aiosonic.HTTPClient(connector) as client:

        async def fetch(_number: int) -> str:
            response = await client.get(url, headers={"Authorization": f"Bearer {USER_TOKEN}"}, ssl=context)
            if response.status_code != 200:
                raise ValueError(response.status_code)
            return access_token(await response.content())

        yield in_workers(fetch, ACCESS_TOKEN)
