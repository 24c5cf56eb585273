"""aiohttp tuned by hand: whatever it does that these requests have no use for is switched off.

No cookie jar, no timeouts, no limit on connections, a ready URL and ready headers, no default headers, no
decompression, msgspec into a struct of the fields that are read.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    context = ssl.create_default_context(cafile=target.ca_file)
    url = URL(f"{target.url}/secrets/{SECRET_ID}", encoded=True)
    headers = {"Authorization": f"Bearer {USER_TOKEN}"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        auto_decompress=False,
    ) as session:

        async def fetch(_number: int) -> str:
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise ValueError(response.status)
                return access_token(await response.read())

        yield in_workers(fetch, ACCESS_TOKEN)
