"""httpx: one client without a limit on connections, ``raise_for_status``."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    context = ssl.create_default_context(cafile=target.ca_file)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=target.url, verify=context, limits=limits) as client:

        async def fetch(_number: int) -> str:
            response = await client.get(
                f"/secrets/{SECRET_ID}", headers={"Authorization": f"Bearer {USER_TOKEN}"}
            )
            return access_token(response.raise_for_status().content)

        yield in_workers(fetch, ACCESS_TOKEN)
