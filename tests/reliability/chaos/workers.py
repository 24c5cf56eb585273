"""Workers that ask for credentials while a sync goes on, change their minds, and reject what they got."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

from flowmate_async import FlowMate, FlowMateError, Secret

from .journal import content_of_secret
from .record import Handed, Key, Record
from .stepped_loop import wall

_HOT_KEYS = 6


class Worker:
    """One worker: a random walk over a few secrets, so that workers meet each other and the sync."""

    def __init__(self, fm: FlowMate, record: Record, keys: list[Key], rng: Random) -> None:
        self._fm = fm
        self._record = record
        self._keys = keys
        self._rng = rng

    async def work(self, note: Callable[[BaseException], None]) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(0, 0.02))
            username, secret_id = self._rng.choice(self._keys)
            patience = self._rng.choice([None, None, 0.01, 0.05])
            try:
                async with asyncio.timeout(patience):
                    await self._ask(username, secret_id)
            except TimeoutError:
                pass
            except Exception as error:  # noqa: BLE001 - the promises judge it
                note(error)

    async def _ask(self, username: str, secret_id: str) -> None:
        match self._rng.randrange(6):
            case 0:
                await self._fm.get_secret(username, secret_id)
            case 1:
                await self._fm.impersonate(username)
            case 2:
                async with self._fm.lease(username, secret_id, min_valid=0.05) as lease:
                    self._handed(lease.secret, username)
                    self._handed(await lease.reject(), username)
            case _:
                min_valid = self._rng.choice([0.0, 0.05, 60.0])
                self._handed(await self._fm.credential(username, secret_id, min_valid=min_valid), username)

    def _handed(self, secret: Secret, username: str) -> None:
        ends = None if secret.expires_at is None else secret.expires_at.timestamp()
        self._record.handed.append(Handed((username, secret.id), content_of_secret(secret), wall(), ends))


@asynccontextmanager
async def at_work(
    fm: FlowMate, record: Record, note: Callable[[BaseException], None], *, number: int
) -> AsyncIterator[None]:
    """So many workers, while entered."""
    rng = Random(f"workers/{record.plan.seed}")
    known = sorted(
        (owner, secret_id)
        for secret_id, life in record.lives.items()
        for owner in life.owners
        if life.died is None
    )
    keys = rng.sample(known, min(_HOT_KEYS, len(known)))
    tasks = [
        asyncio.create_task(Worker(fm, record, keys, Random(rng.random())).work(note))
        for _ in range(number if keys else 0)
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with suppress(FlowMateError):
            await asyncio.gather(*tasks, return_exceptions=True)
