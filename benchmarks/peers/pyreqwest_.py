"""pyreqwest (Rust): one client, errors for bad statuses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pyreqwest.client import ClientBuilder

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    builder = ClientBuilder().error_for_status()
    if target.ca_file:
        builder = builder.add_root_certificate_pem(Path(target.ca_file).read_bytes())
    url = f"{target.url}/secrets/{SECRET_ID}"
    async with builder.build() as client:

        async def fetch(_number: int) -> str:
            response = await client.get(url).header("Authorization", f"Bearer {USER_TOKEN}").build().send()
            return access_token(await response.bytes())

        yield in_workers(fetch, ACCESS_TOKEN)
