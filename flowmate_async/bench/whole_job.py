"""The whole job: a sync of new users into a new sealed SQLite file, by this library and by the script."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from flowmate_async.bench import by_hand
from flowmate_async.bench.canned import SECRET_IDS
from flowmate_async.bench.contenders import client
from flowmate_async.bench.rounds import Contender, Run, Target
from flowmate_async.stores import StoreKey, open_store


def library(users: int, transport: str = "wire") -> Contender:
    """``fm.sync(store, …)``. A round is one sync, and returns how many users it has stored.

    Args:
        users: of each round.
        transport: ``"aiohttp"`` or ``"wire"``.
    """

    @asynccontextmanager
    async def contender(target: Target) -> AsyncIterator[Run]:
        async with client(transport, target) as fm:

            async def run(_seconds: float) -> int:
                with TemporaryDirectory(prefix="flowmate-bench-") as folder:
                    url = f"sqlite:///{Path(folder) / 'credentials.db'}"
                    async with open_store(url, key=StoreKey.generate()) as store:
                        report = await fm.sync(store, _names(users))
                return _checked(report.synced, report.secrets, users)

            yield run

    return contender


def script(users: int) -> Contender:
    """The same by the script of ``by_hand.py``.

    Args:
        users: of each round.
    """

    @asynccontextmanager
    async def contender(target: Target) -> AsyncIterator[Run]:
        async with by_hand.opened(target) as api:

            async def run(_seconds: float) -> int:
                with TemporaryDirectory(prefix="flowmate-bench-") as folder:
                    database = by_hand.Database(Path(folder) / "credentials.db")
                    try:
                        secrets = await by_hand.sweep(api, _names(users), database)
                    finally:
                        database.close()
                return _checked(users, secrets, users)

            yield run

    return contender


def _names(users: int) -> list[str]:
    return [f"user-{number}@tenant.example" for number in range(users)]


def _checked(synced: int, secrets: int, users: int) -> int:
    if (synced, secrets) != (users, users * len(SECRET_IDS)):
        raise ValueError(f"{synced} of {users} users were stored, with {secrets} secrets")
    return users
