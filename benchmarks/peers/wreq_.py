"""wreq (Rust): one client, ``raise_for_status``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import wreq

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    client = wreq.Client(tls_verify=Path(target.ca_file) if target.ca_file else True)
    url = f"{target.url}/secrets/{SECRET_ID}"

    async def fetch(_number: int) -> str:
        async with client.get(url, headers={"Authorization": f"Bearer {USER_TOKEN}"}) as response:
            response.raise_for_status()
            return access_token(await response.bytes())

    yield in_workers(fetch, ACCESS_TOKEN)
