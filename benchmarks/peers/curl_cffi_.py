"""curl_cffi (libcurl): one session with as many handles as requests in flight, ``raise_for_status``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from curl_cffi import AsyncSession

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    url = f"{target.url}/secrets/{SECRET_ID}"
    async with AsyncSession(max_clients=CONCURRENCY, verify=target.ca_file or True) as session:

        async def fetch(_number: int) -> str:
            response = await session.get(url, headers={"Authorization": f"Bearer {USER_TOKEN}"})
            response.raise_for_status()
            return access_token(response.content)

        yield in_workers(fetch, ACCESS_TOKEN)
