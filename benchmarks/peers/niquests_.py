"""niquests: one session with a pool of the same size, ``raise_for_status``.

It runs in an environment of its own, since it replaces urllib3 by a fork.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import niquests

from flowmate_async.bench.canned import ACCESS_TOKEN, SECRET_ID, USER_TOKEN
from flowmate_async.bench.rounds import CONCURRENCY, Run, Target, in_workers
from peers.reading import access_token


@asynccontextmanager
async def contender(target: Target) -> AsyncIterator[Run]:
    async with niquests.AsyncSession(pool_connections=CONCURRENCY, pool_maxsize=CONCURRENCY) as session:
        session.trust_env = False
        session.verify = target.ca_file or True

        async def fetch(_number: int) -> str:
            response = await session.get(
                f"{target.url}/secrets/{SECRET_ID}", headers={"Authorization": f"Bearer {USER_TOKEN}"}
            )
            return access_token(response.raise_for_status().content)

        yield in_workers(fetch, ACCESS_TOKEN)
